"""bench/: the arithmetic of the tables, the pictures, and single measurements."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build, digit_images

from pipeline.bench import tables

NOTEBOOK = {
    "seconds": [10.0, 20.0, 30.0],
    "accuracy": [0.97, 0.991, 0.9905],
    "images_per_second": 1000.0,
    "peak_bytes": 2**30,
}


def run(accuracy: float, *seconds: float) -> dict[str, Any]:
    """A result of `measure.preset`, for a network with a million operations per image."""
    return {
        "seconds": list(seconds),
        "accuracy": [accuracy - 0.001] * (len(seconds) - 1) + [accuracy],
        "final_accuracy": accuracy,
        "images_per_second": 5000.0,
        "flops_per_image": 1_000_000,
        "precision": "mixed_bfloat16",
        "peak_bytes": 2**31,
    }


RUNS = {
    "sprint": [run(0.9901, 1.0), run(0.9903, 3.0)],
    "default": [run(0.995, 2.0, 4.0), run(0.997, 2.0, 6.0)],
}
LIMITS = {"float32": {"flops": 1e9}, "bfloat16": {"flops": 5e10}}


def test_when_the_notebook_first_reached_an_accuracy() -> None:
    assert tables.reached(NOTEBOOK, 0.97) == 10
    assert tables.reached(NOTEBOOK, 0.9905) == 20
    assert tables.reached(NOTEBOOK, 0.992) is None


def test_the_table_of_presets() -> None:
    lines = tables.presets(RUNS, NOTEBOOK, LIMITS, None).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines[2:]}
    accuracy, seconds, ratio, rate, share, peak = (cell.strip() for cell in cells["`sprint`"])
    assert accuracy == "0.99020, sd 0.00014 (2 seeds)"
    assert seconds == "2.0 (1.0 to 3.0)"
    assert ratio.startswith("10.0× faster")
    assert (rate, share, peak) == ("5,000", "10%", "2.0 GiB")
    # The time of a preset with several folds is the sum over them.
    assert cells["`default`"][1].strip() == "10.0 (4.0 to 6.0 each)"
    assert cells["`default`"][2].strip().startswith("3.0× faster; the notebook never")
    assert cells["the notebook"][0].strip() == "0.99050 at its end, 0.99100 at best"
    assert "`best`" not in cells
    best = {"oof_accuracy": 0.9975, "oof_standard_error": 0.0002, "seconds": 3000.0}
    assert "| `best` | 0.99750 ± 0.00020" in tables.presets(RUNS, NOTEBOOK, LIMITS, best)


def test_the_same_figures_give_the_same_pictures(tmp_path: Path) -> None:
    best = {"oof_accuracy": 0.9975, "oof_standard_error": 0.0002, "seconds": 3000.0}
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tables.draw(tmp_path / name, RUNS, NOTEBOOK, best)
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == ["accuracy-against-time.svg", "seeds.svg"]
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the generator's own
def test_the_notebook_learns_and_is_timed(fresh_keras: Any) -> None:
    from pipeline.bench import notebook

    images, labels = digit_images(400)
    curve = notebook.train(images, labels, np.arange(400) % 4 == 0, seed=0, epochs=3)
    assert len(curve["seconds"]) == len(curve["accuracy"]) == len(curve["loss"]) == 3
    assert curve["seconds"] == sorted(curve["seconds"])
    assert curve["loss"][-1] < curve["loss"][0]


def test_a_measurement_is_the_last_line(project: Path, tiny_folder: Path) -> None:
    build(str(tiny_folder))
    raw = project / "data" / "tiny" / "raw"
    command = [sys.executable, "-m", "pipeline.bench.measure", "parsing", str(raw)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["ours"]) == 5
    assert min(found["ours"]) > 0
    assert found["peak_bytes"] > 2**20
