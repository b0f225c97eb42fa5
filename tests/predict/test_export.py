"""export.py: the exported model gives the ensemble's probabilities where this package is not."""

import json
import re
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Digits, build, works
from handwriting import encoded, from_strokes, on_page

from pipeline import artifacts, stages
from pipeline.predict import export, find
from pipeline.predict.normalise import normalise
from pipeline.stages import Graph
from pipeline.task import Task

CONTRACT = Path(stages.__file__).parent / "predict" / "EXPORT.md"
CHOICE = ("--dataset", "tiny", "--config", "pair.toml")
pytestmark = pytest.mark.slow


def untrained(task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
    """Write the files of a fold whose network is as it was initialised."""
    from pipeline.backend import keras
    from pipeline.train.fold import predict
    from pipeline.train.networks import strided
    from pipeline.train.saving import over_shifts, plain, save

    keras.utils.set_random_seed(task.fold)
    network = strided.network(2, 0.0)
    shift = task.preset.train.predict_shift
    whole = over_shifts(network, shift)
    reads: dict[str, Any] = dict(task.reads)
    held_out = np.load(reads["fold_ids"]) == task.fold
    np.save(writes["oof"], predict(whole, np.load(reads["train_images"])[held_out]))
    np.save(writes["test"], predict(whole, np.load(reads["test_images"])))
    save(over_shifts(plain(network), shift), writes["weights"])
    writes["history"].write_text("epoch,loss\n1,0.5\n")
    np.save(writes["augmented"], np.zeros((1, 10, 28, 28, 1), np.uint8))
    return {"held_out_accuracy": 0.1, "held_out_rows": 1, "epoch_seconds": [0.5]}


@pytest.fixture
def pair(project: Path, tiny_folder: Path, fresh_keras: Any) -> Graph:
    """A project with an ensemble of two networks."""
    tiny_folder.rename(project / "tiny")
    (project / "pair.toml").write_text("[split]\nfolds = 2\n[train]\npredict_shift = 1\n")
    made = works("tiny", "pair.toml")
    tasks = [task for task, _ in made]
    for task, work in made[: len(stages.load("tiny", "pair.toml").up_to("ensemble"))]:
        if task.stage == "train":
            artifacts.run(task, tasks, work=lambda writes, task=task: untrained(task, writes))
        else:
            artifacts.run(task, tasks, work=work)
    return stages.load("tiny", "pair.toml")


def elsewhere(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with the installed packages but not this one."""
    packages = {*site.getsitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))}
    # Without `site`, nothing reads the .pth file that leads to this package.
    start = f"import sys; sys.path += {sorted(packages)!r}\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_exported_model_gives_the_ensembles_probabilities_elsewhere(
    pair: Graph, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ensemble gives the same file, too."""
    ended = digits("export", *CHOICE)
    assert ended.code == 0, ended.error
    exported = stages.ROOT / "submissions" / "tiny-pair.keras"
    assert ended.lines[0].startswith("submissions/tiny-pair.keras: 2 networks, ")
    assert ended.lines[-1].endswith(" of the ensemble's, and 0 labels differ")

    away = tmp_path / "away"
    (away / "submissions").mkdir(parents=True)
    (away / "data/sample/arrays").mkdir(parents=True)
    exported.rename(away / "submissions/sample-demo.keras")
    images = pair.task("preprocess").writes["test_images"]
    (away / "data/sample/arrays/test_images.npy").write_bytes(images.read_bytes())
    contract = re.findall(r"```python\n(.*?)```", CONTRACT.read_text(), re.DOTALL)[0]
    assert len([line for line in contract.splitlines() if line]) == 5
    more = "np.save('found.npy', probabilities)\nimport pipeline"
    process = elsewhere(contract + more, away)
    assert "No module named 'pipeline'" in process.stderr, process.stderr

    wanted = np.load(pair.task("ensemble").writes["test"])[:10]
    found = np.load(away / "found.npy")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found.dtype == np.float32
    assert process.stdout.split() == str(wanted.argmax(axis=1)).split()
    metrics = json.loads(pair.task("ensemble").writes["metrics"].read_text())
    assert metrics["temperature"] != pytest.approx(1, abs=0.1)  # or it would not be tested here

    model = export.ensemble(pair)
    shares = np.load(images)[:10].astype(np.float32) / 255  # pixels from 0 to 1
    np.testing.assert_allclose(model.predict(shares, verbose=0), found, atol=1e-5)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    again = digits("export", *CHOICE, "--to", str(away / "again.keras"))
    assert any("pip install tf2onnx" in line for line in again.lines)
    assert not (away / "again.onnx").exists()
    same = (away / "submissions/sample-demo.keras").read_bytes()
    assert (away / "again.keras").read_bytes() == same


def test_what_cannot_be_exported(project: Path, tiny_folder: Path, digits: Digits) -> None:
    tiny_folder.rename(project / "tiny")
    graph = build("tiny", "sprint")
    choice = ("--dataset", "tiny", "--config", "sprint")
    ended = digits("export", *choice, "--to", "model.h5")
    assert (ended.code, "model.h5" in ended.error) == (2, True)
    graph.task("train").writes["weights"].write_bytes(b"damaged")
    ended = digits("export", *choice)
    assert ended.code == 2
    assert "fold 0" in ended.error
    assert "make ensemble" in ended.error
    assert not (project / "submissions" / "tiny-sprint.keras").exists()


def test_a_prepared_picture_is_in_the_form_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    shape = from_strokes(7, 0.1, random, 300)
    page = on_page(shape, 600, 700, random)
    (tmp_path / "seven.png").write_bytes(encoded(250 - 220 * page, "PNG"))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", CONTRACT.read_text(), re.DOTALL)[-1], found)
    [digit] = found["images"][..., 0]
    assert digit.shape == (28, 28)
    own = normalise(find.whole(np.pad(shape, 2), 0.5))
    assert np.abs(digit - own).mean() < 12
