"""bench/: the arithmetic of the tables, the pictures, and single measurements."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import digit_images

from pipeline.bench import presets, tables
from pipeline.errors import ExternalError

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
LIMITS = {"float32": 1e9, "bfloat16": 5e10}
BEST = {"oof_accuracy": 0.9975, "oof_standard_error": 0.0002, "seconds": 3000.0}


def test_when_the_notebook_first_reached_an_accuracy() -> None:
    assert tables.reached(NOTEBOOK, 0.97) == 10
    assert tables.reached(NOTEBOOK, 0.9905) == 20
    assert tables.reached(NOTEBOOK, 0.992) is None


def test_the_table_of_presets() -> None:
    table = tables.presets(RUNS, NOTEBOOK, LIMITS, None).set_index("preset")
    accuracy, seconds, ratio, *rest = table.loc["`sprint`"]
    assert accuracy == "0.99020, sd 0.00014 (2 seeds)"
    assert seconds == "2.0 (1.0 to 3.0)"
    assert ratio.startswith("10.0× faster")
    assert rest == ["5,000", "10%", "2.0 GiB"]
    # The time of a preset with several folds is the sum over them.
    assert table.loc["`default`", "training, s"] == "10.0 (4.0 to 6.0 each)"
    assert table.loc["`default`", "against the notebook"].startswith("3.0× faster; the notebook ne")
    assert table.loc["the notebook"].iloc[0] == "0.99050 at its end, 0.99100 at best"
    assert "`best`" not in table.index
    lines = tables.markdown(tables.presets(RUNS, NOTEBOOK, LIMITS, BEST)).splitlines()
    assert lines[-2].startswith("| `best` | 0.99750 ± 0.00020 (ensemble, out of fold) | 3000 | ")
    assert {line.count("|") for line in lines} == {8}


def test_the_same_figures_give_the_same_pictures(tmp_path: Path) -> None:
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tables.draw(tmp_path / name, RUNS, NOTEBOOK, BEST)
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


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = presets.measured(tmp_path, "some", dict, [("seconds", 3)])
    assert first["seconds"] == 3
    assert 2**20 < first["peak_bytes"] < 2**32
    assert presets.measured(tmp_path, "some", dict, [("seconds", 4)]) == first
    assert capsys.readouterr().out == "measuring some\n"


def test_a_process_that_is_killed_leaves_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(ExternalError, match=r"some: .* was killed"):
        presets.measured(tmp_path, "some", os._exit, 9)
    assert not list(tmp_path.iterdir())
