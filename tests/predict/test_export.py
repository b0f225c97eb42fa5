"""export.py: the exported model gives the ensemble's probabilities where this package is not."""

import re
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ridge
from conftest import Digits
from handwriting import encoded, from_strokes, on_page

from pipeline import stages
from pipeline.predict import export, find
from pipeline.predict.normalise import normalise
from pipeline.stages import Graph

CONTRACT = Path(stages.__file__).parent / "predict" / "EXPORT.md"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A project with an ensemble of two networks, each a mean over shifts."""
    with ridge.project(tmp_path_factory.mktemp("project")) as built:
        yield built


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
    graph: Graph, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ensemble gives the same file, too."""
    ended = digits("export", *ridge.choice())
    assert ended.code == 0, ended.error
    exported = stages.ROOT / "submissions" / "sample-ridge.keras"
    assert ended.lines[0].startswith("submissions/sample-ridge.keras: 2 networks, ")
    assert ended.lines[-1].endswith(" of the ensemble's, and 0 labels differ")

    (tmp_path / "submissions").mkdir()
    (tmp_path / "data/sample/arrays").mkdir(parents=True)
    first = exported.rename(tmp_path / "submissions/sample-demo.keras")
    images = graph.task("preprocess").writes["test_images"]
    (tmp_path / "data/sample/arrays/test_images.npy").write_bytes(images.read_bytes())
    contract = re.findall(r"```python\n(.*?)```", CONTRACT.read_text(), re.DOTALL)[0]
    more = "np.save('found.npy', probabilities)\nimport pipeline"
    process = elsewhere(contract + more, tmp_path)
    assert "No module named 'pipeline'" in process.stderr, process.stderr
    wanted = np.load(graph.task("ensemble").writes["test"])[:10]
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found.dtype == np.float32

    model = export.ensemble(graph)
    shares = np.load(images)[:10].astype(np.float32) / 255  # pixels from 0 to 1
    np.testing.assert_allclose(model.predict(shares, verbose=0), found, atol=1e-5)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    again = digits("export", *ridge.choice(), "--to", str(tmp_path / "again.keras"))
    assert any("pip install tf2onnx" in line for line in again.lines)
    assert not (tmp_path / "again.onnx").exists()
    assert (tmp_path / "again.keras").read_bytes() == first.read_bytes()


def test_what_cannot_be_exported(graph: Graph, digits: Digits) -> None:
    ended = digits("export", *ridge.choice(), "--to", "model.h5")
    assert (ended.code, "model.h5" in ended.error) == (2, True)
    weights = graph.all("train")[1].writes["weights"]
    weights.rename(kept := weights.with_suffix(".kept"))
    ended = digits("export", *ridge.choice())
    kept.rename(weights)
    assert ended.code == 2
    assert "fold 1" in ended.error
    assert "make ensemble" in ended.error


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
