"""Event files for TensorBoard, written where TENSORBOARD is set in the environment.

`make train TENSORBOARD=1` leaves one file for each fold in data/DATASET/CONFIG/logs/, to be opened
with `tensorboard --logdir data/DATASET/CONFIG/logs`. TensorBoard itself is not needed to write it.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Events:
    """The event file of one run of one fold; none where TENSORBOARD is not set.

    Args:
        fold: the folder of the fold, data/DATASET/CONFIG/fold-N.
        resumed: whether the run continues an earlier one, whose file then stays.
    """

    def __init__(self, fold: Path, resumed: bool) -> None:
        self.logs = fold.parent / "logs" / fold.name
        self.wanted = os.environ.get("TENSORBOARD", "") not in ("", "0", "no", "false")
        self.writer: Any = None
        if self.wanted and not resumed:
            shutil.rmtree(self.logs, ignore_errors=True)

    def add(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Write rows of the history: a scalar for each column, at the epoch as step."""
        if not self.wanted:
            return
        from pipeline.backend import tf

        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        self.writer = self.writer or tf.summary.create_file_writer(str(self.logs))
        with self.writer.as_default():
            for row in rows:
                for name in row.keys() - {"epoch"}:
                    step = int(row["epoch"])
                    tf.summary.write(f"epoch/{name}", row[name], step, metadata)
        self.writer.flush()
