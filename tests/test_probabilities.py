"""probabilities.py: a value that is not finite goes no further; standard errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import works

from pipeline import artifacts, files, probabilities, stages
from pipeline.errors import UserError


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    values = np.full((4, 10), 0.1, np.float32)
    values[2, 3] = value
    np.save(tmp_path / "test.npy", values)
    with pytest.raises(UserError, match=r"test\.npy contains values that are not finite"):
        probabilities.load(tmp_path / "test.npy")


@pytest.mark.parametrize("name", ["oof", "test"])
def test_one_bad_value_of_one_fold_makes_no_ensemble(
    project: Path, tiny_folder: Path, name: str
) -> None:
    made = works(str(tiny_folder), "demo")
    tasks = [task for task, _ in made]
    for task, work in made:
        if task.stage == "ensemble":
            break
        artifacts.run(task, tasks, work=work)
    spoilt = stages.load(str(tiny_folder), "demo").all("train")[1]
    values = np.load(spoilt.writes[name])
    values[0, 0] = np.nan
    np.save(spoilt.writes[name], values)
    manifest = json.loads(spoilt.manifest.read_text())
    del manifest["sha256"]
    label = spoilt.label(spoilt.writes[name])
    manifest["outputs"][label] = files.fingerprint(spoilt.writes[name])
    files.write_json(spoilt.manifest, manifest)
    with pytest.raises(UserError, match=rf"fold-1/{name}\.npy contains values that are not finite"):
        artifacts.run(next(task for task in tasks if task.stage == "ensemble"), tasks)
    assert not (project / "data" / "tiny" / "demo" / "ensemble" / "oof.npy").exists()


def test_the_standard_error_of_an_accuracy() -> None:
    assert probabilities.standard_error(0.5, 100) == pytest.approx(0.05)
    assert probabilities.standard_error(1.0, 10) == 0
