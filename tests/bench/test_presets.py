"""bench/presets.py: the table, the picture, and single measurements."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import digit_images, run_digits, write_digits

from pipeline.bench import markdown, measure, presets
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


def test_the_table() -> None:
    table = presets.tabulate(RUNS, NOTEBOOK, {"float32": 1e9, "bfloat16": 5e10})
    [sprint, default, notebook] = [line.split(" | ") for line in markdown(table).splitlines()[2:]]
    assert sprint[0] == "| `sprint`"
    assert sprint[1] == "0.99020, sd 0.00014 (2 seeds)"
    assert sprint[2] == "2.0 (1.0 to 3.0)"
    assert sprint[3].startswith("10.0× faster")  # the notebook got there after 20 s
    assert sprint[4:] == ["5,000", "10%", "2.0 GiB |"]
    # The time of a preset with several folds is the sum over them.
    assert default[2] == "10.0 (4.0 to 6.0 each)"
    assert default[3].startswith("3.0× faster; the notebook never")
    assert notebook[1] == "0.99050 at its end, 0.99100 at best"
    assert {len(sprint), len(default), len(notebook)} == {7}


def test_the_same_figures_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        presets.draw(tmp_path / name, RUNS, NOTEBOOK)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the generator's own
def test_the_notebook_learns_and_is_timed(fresh_keras: Any) -> None:
    from pipeline.bench import baseline

    images, labels = digit_images(400)
    curve = baseline.train(images, labels, np.arange(400) % 4 == 0, seed=0, epochs=3)
    assert len(curve["seconds"]) == len(curve["accuracy"]) == len(curve["loss"]) == 3
    assert curve["seconds"] == sorted(curve["seconds"])
    assert curve["loss"][-1] < curve["loss"][0]


@pytest.mark.slow
def test_a_fold_is_trained_as_the_stage_does_it(project: Path, fresh_keras: Any) -> None:
    write_digits(project / "tiny")
    (project / "mine.toml").write_text(
        "[split]\nfolds = 2\n[train]\nnetwork = 'mlp'\nepochs = 2\nbatch_size = 20\n"
    )
    for stage in ("download", "preprocess", "split"):
        done = run_digits(project, stage, "--dataset", "tiny", "--config", "mine.toml")
        assert done.returncode == 0, done.stderr
    found = measure.preset("tiny", "mine.toml", 1, seed=7)
    assert len(found["seconds"]) == len(found["accuracy"]) == 2
    assert 0 <= found["final_accuracy"] <= 1
    assert found["images_per_second"] > 0
    assert found["flops_per_image"] > 100_000


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    first = presets.measured(tmp_path, "some", dict, [("seconds", 3)])
    assert first["seconds"] == 3
    assert 2**20 < first["peak_bytes"] < 2**32
    assert presets.measured(tmp_path, "some", dict, [("seconds", 4)]) == first


def test_a_process_that_is_killed_leaves_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(ExternalError, match=r"some: .* was killed"):
        presets.measured(tmp_path, "some", os._exit, 9)
    assert not list(tmp_path.iterdir())
