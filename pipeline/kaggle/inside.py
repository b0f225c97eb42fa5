"""Inside a Kaggle notebook: where things are, and what its user can do there.

Standard library only.
"""

import os
import shutil
from pathlib import Path

from pipeline.kaggle import COMPETITION, HOME, SUBMIT_PAGE

KAGGLE = Path("/kaggle")
BY_HAND = f"download the CSV from the notebook's output and submit it by hand at {SUBMIT_PAGE}"
ATTACH = (
    "the competition is not attached to this notebook: choose Add input, Competitions, Digit "
    f"Recognizer (after accepting the rules at {HOME}/rules), then run the same command again"
)


def notebook() -> bool:
    """Check whether this is a Kaggle notebook, interactive or not."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def competition() -> Path | None:
    """Return the folder with the competition's files; None if they are not attached.

    A dataset may have the same name, but not these files.
    """
    for place in ("competitions", ""):  # the second is where older notebooks have them
        folder = KAGGLE / "input" / place / COMPETITION
        if (folder / "train.csv").is_file():
            return folder
    return None


def put_out(file: Path) -> Path:
    """Copy a file to where it becomes part of the notebook's output; return the copy."""
    return Path(shutil.copy(file, KAGGLE / "working"))
