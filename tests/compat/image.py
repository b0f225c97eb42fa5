"""A Kaggle notebook, emulated: the commands of the README, and `digits kaggle notebook`.

Part of `make compat`. This Python stands for the image's; `tests/system/kaggle_image.py` makes
the rest: Kaggle's folders, no network, nothing to install with. The competition's files contain
5,000 real digits.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "system"))

import kaggle_image  # noqa: E402

pytestmark = pytest.mark.skipif(not kaggle_image.possible(), reason="needs namespaces (as root)")
# Seconds of training, and not the accuracy of guessing.
QUICK = "[split]\nfolds = 2\n[train]\nepochs = 6\nbatch_size = 32\n"
# What Kaggle does with a notebook that is saved: run it, and keep the result.
EXECUTE = """
import nbclient, nbformat
notebook = nbformat.read("/kaggle/input/notebook/n.ipynb", as_version=4)
client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": "/kaggle/working"}})
try:
    client.execute()
finally:
    nbformat.write(notebook, "/kaggle/working/__notebook__.ipynb")
"""


def digits(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The competition's folder."""
    from pipeline.download import sample

    folder = tmp_path_factory.mktemp("competition")
    sample.fetch(folder, {})
    (folder / "solution.csv").unlink()
    return folder


def in_a_notebook(words: list[str], working: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    working.mkdir(exist_ok=True)
    command = kaggle_image.command(words, Path(sys.executable), working, **more)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done


def check_output(working: Path, preset: str, competition: Path, *more: str) -> list[str]:
    """The output is the CSV, the report and nothing else; returns the predicted labels."""
    names = {f"kaggle-{preset}.csv", f"kaggle-{preset}.html", *more}
    assert {path.name for path in working.iterdir()} == names
    assert sum(path.stat().st_size for path in working.iterdir()) < 5e6
    with (working / f"kaggle-{preset}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (competition / "sample_submission.csv").open(newline="") as file:
        assert [row["ImageId"] for row in rows] == [row["ImageId"] for row in csv.DictReader(file)]
    return [row["Label"] for row in rows]


WAYS = {
    "cp -r /kaggle/input/digits /tmp/digits": "competitions",
    "git clone /kaggle/input/digits /tmp/digits": "",
}


@pytest.mark.parametrize(("way", "place"), WAYS.items(), ids=["dataset", "clone"])
def test_the_commands_of_the_readme(
    way: str, place: str, tmp_path: Path, competition: Path
) -> None:
    """In both places in which the competition can be attached."""
    code = tmp_path / "digits"
    subprocess.run(["git", "clone", "-q", f"file://{ROOT}", code], check=True)
    readme = (code / "pipeline/kaggle/README.md").read_text(encoding="utf-8")
    make = "make -C /tmp/digits submission VENV=none CONFIG=fast"
    for typed in (make, way):
        assert f"!{typed}" in readme.replace("<address>", "/kaggle/input/digits")
    done = in_a_notebook(
        ["sh", "-c", f"{way} && {make.replace('fast', 'sprint')}"],
        tmp_path / "working",
        competition=competition,
        place=place,
        datasets={"digits": code},
    )
    assert done.returncode == 0, done.stderr
    check_output(tmp_path / "working", "sprint", competition)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the notebook."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "quick.toml").write_text(QUICK)
    digits("kaggle", "notebook", str(folder / "n.ipynb"), "--config", str(folder / "quick.toml"))
    return folder


def test_the_notebook(written: Path, tmp_path: Path, competition: Path) -> None:
    done = in_a_notebook(
        ["python3", "-c", EXECUTE],
        tmp_path / "working",
        competition=competition,
        datasets={"notebook": written},
    )
    assert done.returncode == 0, done.stderr
    executed = tmp_path / "working" / "__notebook__.ipynb"
    predicted = check_output(tmp_path / "working", "quick", competition, executed.name)
    assert len(set(predicted)) == 10
    [accuracy] = re.findall(r"accuracy ([\d.]+) ± [\d.]+, measured", executed.read_text("utf-8"))
    assert float(accuracy) > 0.9
    content = json.loads(executed.read_text(encoding="utf-8"))
    nbformat.validate(content)
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    assert all(output.get("name") != "stderr" for output in outputs), outputs
    assert all("\x1b[" not in "".join(output.get("text", [])) for output in outputs), outputs
    # Digits, averages, augmentation, curves, confusion, calibration, errors, test digits; and
    # tables: the folds, the layers, the last epoch, the head of the CSV.
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 8
    assert sum("text/html" in output.get("data", {}) for output in outputs) == 4
    assert executed.stat().st_size < 2e6


def test_without_the_competition_it_says_what_to_add(written: Path, tmp_path: Path) -> None:
    done = in_a_notebook(
        ["python3", "-c", EXECUTE], tmp_path / "working", datasets={"notebook": written}
    )
    assert done.returncode != 0
    executed = (tmp_path / "working" / "__notebook__.ipynb").read_text(encoding="utf-8")
    assert "choose Add input, Competitions, Digit Recognizer" in executed
    assert "preprocess: " not in executed
