"""clean.py: what is removed, what stays, when it asks, and where links lead."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Digits

from pipeline import clean
from pipeline.errors import UserError

KEPT = {"README.md", "sample/raw/train.csv"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a dataset on which one fold was trained for half an hour."""
    root = tmp_path.resolve() / "project"
    fill(root / "data")
    (root / "submissions").mkdir()
    (root / "submissions" / "sample-demo.csv").write_text("ImageId,Label\n")
    return root


def fill(data: Path) -> None:
    fold = data / "sample" / "demo" / "fold-0"
    for folder in (fold, data / "sample" / "raw", data / "sample" / "arrays"):
        folder.mkdir(parents=True)
    (fold / "weights.keras").write_bytes(bytes(2_000_000))
    (fold / "manifest.json").write_text(json.dumps({"metadata": {"seconds": 1800}}))
    for name in ("README.md", ".fingerprints.json", "sample/raw/train.csv", "sample/arrays/x.npy"):
        (data / name).write_text(name)


def left(folder: Path) -> set[str]:
    """The files in a folder, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_clean_keeps_raw_data_and_submissions(root: Path) -> None:
    clean.clean(root, yes=True)
    assert left(root / "data") == KEPT
    assert left(root / "submissions") == {"sample-demo.csv"}


def test_distclean_keeps_the_readme_and_submissions(root: Path) -> None:
    for name in (".venv/pyvenv.cfg", ".mypy_cache/x", "build/x", "digits.egg-info/x", "mine/x"):
        (root / name).parent.mkdir()
        (root / name).touch()
    clean.distclean(root, True, root / ".venv")
    assert left(root) == {"data/README.md", "submissions/sample-demo.csv", "mine/x"}


def test_nothing_to_remove_is_no_error(tmp_path: Path) -> None:
    clean.clean(tmp_path, yes=False)
    clean.distclean(tmp_path, False, tmp_path / ".venv")


# --- questions -----------------------------------------------------------------------------------


def test_without_a_terminal_networks_are_not_removed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(root)
    with pytest.raises(UserError, match=r"YES=1.*--yes"):
        clean.clean(root, yes=False)
    assert left(root) == before
    said = capsys.readouterr().out
    assert "1 network (0.5 hours of training), 2 MB" in said


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("yes\n", True), ("n", False)])
def test_at_a_terminal_it_asks(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: str, agreed: bool
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: answer, raising=False)
    if agreed:
        clean.clean(root, yes=False)
    else:
        with pytest.raises(UserError, match="nothing was removed"):
            clean.clean(root, yes=False)
    assert (left(root / "data") == KEPT) == agreed


def test_without_networks_nothing_is_asked_and_a_damaged_manifest_is_no_error(root: Path) -> None:
    fold = root / "data" / "sample" / "demo" / "fold-0"
    (fold / "weights.keras").unlink()
    (fold / "manifest.json").write_text("[]")
    clean.clean(root, yes=False)
    assert left(root / "data") == KEPT


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["data", "data/sample"])
def test_what_is_behind_a_link_is_removed(root: Path, tmp_path: Path, linked: str) -> None:
    away = tmp_path.resolve() / "big disk"
    (root / linked).rename(away)
    (root / linked).symlink_to(away)
    weights, before = away.glob("**/weights.keras"), left(away)
    with pytest.raises(UserError, match="YES=1"):
        clean.clean(root, yes=False)
    assert left(away) == before
    next(weights).unlink()
    with pytest.raises(UserError, match="YES=1"):  # even without networks
        clean.clean(root, yes=False)
    clean.clean(root, yes=True)
    assert (root / linked).is_symlink()
    assert left(root / "data" / "sample") == {"raw/train.csv"}
    clean.distclean(root, True, root / ".venv")
    assert left(away) == ({"README.md"} if linked == "data" else set())
    assert (root / "data" / "README.md").exists()
    assert not (root / "data" / "sample").exists()


def test_a_link_that_leads_nowhere_is_named(root: Path, tmp_path: Path) -> None:
    (root / "data/sample").rename(tmp_path / "away")
    (root / "data/sample").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"data/sample is a link to .*gone, which is missing"):
        clean.clean(root, yes=True)


def test_a_link_further_down_is_removed_and_what_it_leads_to_is_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path.resolve() / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    (root / "data" / "sample" / "notes").symlink_to(mine)
    clean.clean(root, yes=True)
    assert left(root / "data") == KEPT
    assert left(mine) == {"thesis.tex"}
    assert f"data/sample/notes was a link; {mine} stays" in capsys.readouterr().out


@pytest.mark.parametrize("venv", ["../shared", "shared", ".", "..", "pipeline"])
def test_distclean_spares_what_is_no_environment_of_its_own(root: Path, venv: str) -> None:
    shared = root.parent / "shared"
    (root / "pipeline").mkdir()
    for folder in (root, root.parent, shared):
        folder.mkdir(exist_ok=True)
        (folder / "pyvenv.cfg").touch()
    (root / "shared").symlink_to(shared)
    clean.distclean(root, True, root / venv)
    assert left(shared) == {"pyvenv.cfg"}
    assert (root / "pipeline").is_dir()
    assert (root / "pyvenv.cfg").exists()


# --- the commands --------------------------------------------------------------------------------


def test_digits_clean_removes_what_can_be_rebuilt(project: Path, digits: Digits) -> None:
    (project / "data").rmdir()
    fill(project / "data")
    refused = digits("clean")
    assert refused.code == 2
    assert "--yes" in refused.error
    assert digits("clean", "--yes").code == 0
    assert left(project / "data") == KEPT
    assert digits("distclean", "--yes").code == 0
    assert left(project / "data") == {"README.md"}


def test_without_the_packages_digits_names_the_remedy_in_one_line(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pipeline", "status"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "make status" in done.stderr
