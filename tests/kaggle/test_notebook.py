"""notebook.py: its format, the code inside, and every cell run on results that are there."""

import base64
import io
import json
import lzma
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import PACKAGE, Digits, Ended, build, contents
from kaggle_service import Answer, call_in_process
from kernel_service import KernelService

from pipeline import config
from pipeline.errors import UserError
from pipeline.kaggle import client, notebook
from pipeline.kaggle.pack import package

ROOT = PACKAGE.parent


def sources(content: dict[str, Any], kind: str = "code") -> list[str]:
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def written(folder: Path, preset: str = "fast") -> dict[str, Any]:
    path = folder / "n.ipynb"
    assert notebook.write(path, config.load(preset), ROOT) == path.stat().st_size
    return json.loads(path.read_text(encoding="utf-8"))


def unpacked(content: dict[str, Any], folder: Path) -> Path:
    """The code that a notebook carries, unpacked."""
    [cell] = [source for source in sources(content) if "CODE = " in source]
    text = cell.partition('CODE = "')[2].partition('"')[0]
    zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(text)))).extractall(folder)
    return folder


WRITTEN = re.compile(r"\A%%writefile (\S+)\n(.*)", re.DOTALL)


def written_by_python(cell: re.Match[str]) -> str:
    path, text = cell.groups()
    return f"Path({path!r}).write_text({text + chr(10)!r}, encoding='utf-8')"


def run(
    cells: list[str], project: Path, dataset: str = "kaggle"
) -> "subprocess.CompletedProcess[str]":
    """Run cells as one program, with the code unpacked over the project's own."""
    program = "\n".join(re.sub(WRITTEN, written_by_python, cell) for cell in cells)
    for before, after in {
        "/tmp/digits": str(project),
        'DATASET = "kaggle"': f'DATASET = "{dataset}"',
    }.items():
        assert before in program
        program = program.replace(before, after)
    (project / "cells.py").write_text(program, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "cells.py"],
        cwd=project,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_notebook_is_valid_and_explains_each_cell(tmp_path: Path) -> None:
    content = written(tmp_path)
    nbformat.validate(content)
    for source in sources(content):
        compile(re.sub(WRITTEN, written_by_python, source), "cell", "exec")
    assert 'CONFIG = "fast"' in sources(content)[0]
    # The cell with the code is folded away, in Jupyter and on Kaggle.
    [folded] = [cell for cell in content["cells"] if cell["metadata"]]
    assert folded["metadata"] == {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}
    assert len(folded["source"]) < 10
    metadata = content["metadata"]["kaggle"]
    assert not metadata["isInternetEnabled"]
    assert metadata["dataSources"] == [{"sourceId": 3004, "sourceType": "competition"}]


@pytest.mark.parametrize(("preset", "networks"), [("fast", 1), ("best", 3)])
def test_what_learns_is_shown_as_it_is_in_the_repository(
    tmp_path: Path, preset: str, networks: int
) -> None:
    content = written(tmp_path, preset)
    shown = [found for source in sources(content) if (found := WRITTEN.match(source))]
    for path, text in (found.groups() for found in shown):
        assert text + "\n" == (ROOT / Path(path).relative_to("/tmp/digits")).read_text("utf-8")
    assert sum("networks/" in found[1] for found in shown) == networks
    assert preset != "fast" or sum(found[2].count("\n") + 1 for found in shown) <= 350
    for cell in content["cells"]:
        assert preset == "best" or "make " not in "".join(cell["source"]).partition("CODE =")[0]


@pytest.mark.parametrize(
    ("remote", "said"),
    [
        ("https://git.example/you/digits.git", "<https://git.example/you/digits>"),
        ("git@git.example:you/digits.git", "<https://git.example/you/digits>"),
        ("https://you:secret@git.example/digits", None),
        ("/srv/git/digits", None),
    ],
)
def test_it_names_the_repository_if_that_is_public(
    project: Path, tmp_path: Path, remote: str, said: str | None
) -> None:
    subprocess.run(["git", "init", "-q", project], check=True)
    subprocess.run(["git", "-C", project, "remote", "add", "origin", remote], check=True)
    for name in notebook.BESIDE:
        (project / name).write_bytes((ROOT / name).read_bytes())
    notebook.write(tmp_path / "n.ipynb", config.load("fast"), project)
    text = (tmp_path / "n.ipynb").read_text(encoding="utf-8")
    assert said in text if said else "as a repository at" not in text
    assert "secret" not in text


def test_equal_code_gives_equal_bytes_and_all_of_it_travels(tmp_path: Path) -> None:
    content = written(tmp_path)
    before = (tmp_path / "n.ipynb").read_bytes()
    assert written(tmp_path) == content
    assert (tmp_path / "n.ipynb").read_bytes() == before
    folder = unpacked(content, tmp_path / "digits")
    assert {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    } == package(ROOT) | {name: (ROOT / name).read_bytes() for name in notebook.BESIDE}


def test_a_preset_of_the_users_own_travels_too(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[train]\nwidth = 16\n")
    content = written(tmp_path, str(mine))
    assert 'CONFIG = "mine"' in sources(content)[0]
    folder = unpacked(content, tmp_path / "digits")
    assert (folder / "pipeline/presets/mine.toml").read_bytes() == mine.read_bytes()

    other = tmp_path / "other.toml"
    for text in ('base = "mine.toml"\n', '[ensemble]\nmembers = ["sprint", "mine.toml"]\n'):
        mine.write_text((ROOT / "pipeline/presets/sprint.toml").read_text())
        other.write_text(text)
        with pytest.raises(UserError, match=r"other\.toml: .*mine\.toml would be another"):
            written(tmp_path, str(other))


def test_the_command_writes_beside_the_submissions(project: Path, digits: Digits) -> None:
    for name in notebook.BESIDE:
        (project / name).write_bytes((ROOT / name).read_bytes())
    done = digits("kaggle", "notebook", "--config", "sprint")
    assert done.code == 0
    path = project / "submissions" / "kaggle-sprint.ipynb"
    assert str(path) in done.lines[0]
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    refused = digits("kaggle", "notebook", "notes.md")
    assert refused.code == 2
    assert "notes.md: the name of a notebook must end in .ipynb" in refused.error
    assert not Path("notes.md").exists()


@pytest.mark.parametrize("mistakes", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_every_cell_runs(project: Path, tiny_folder: Path, mistakes: int) -> None:
    """With the results there, so that no stage is due; `make compat` trains, in a real notebook."""
    if mistakes:
        lines = (tiny_folder / "train.csv").read_text().splitlines()
        for row in range(1, len(lines), len(lines) // mistakes):
            label, _, pixels = lines[row].partition(",")
            lines[row] = f"{9 - int(label)},{pixels}"
        (tiny_folder / "train.csv").write_text("\n".join(lines) + "\n")
    build(str(tiny_folder))
    for name in notebook.BESIDE:
        (project / name).write_bytes((ROOT / name).read_bytes())
    done = run(sources(written(project, "sprint")), project, str(tiny_folder))
    assert done.returncode == 0, done.stderr
    for said in ("write: fresh", "80 labelled digits", "measured on", "submission submissions/"):
        assert said in done.stdout


@pytest.fixture
def service(
    project: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KernelService]:
    """A Kaggle on which notebooks do nothing."""
    for name in notebook.BESIDE:
        (project / name).write_bytes((ROOT / name).read_bytes())
    with KernelService(contents(tiny_folder), tmp_path / "sessions") as kaggle:
        kaggle.runner = lambda session: None
        kaggle.adopt(tmp_path / "home", monkeypatch)
        monkeypatch.setattr(client, "call", call_in_process)
        monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
        yield kaggle


def push(digits: Digits, *words: str, **more: str) -> Ended:
    return digits("kaggle", "notebook", "--push", "--config", "fast", *words, **more)


@pytest.mark.parametrize("fault", [None, "lost"])
def test_it_is_pushed_once_as_a_private_notebook(
    service: KernelService, digits: Digits, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    save = service._save

    def save_and_break(asked: dict[str, Any]) -> Answer:
        service.fail("GetKernel")  # the look whether it arrived
        return save(asked)

    if fault:
        service.fail("SaveKernel", fault)
        monkeypatch.setattr(service, "_save", save_and_break)
    done = push(digits)
    assert done.code == 0, done.error
    assert done.lines[-1].endswith("/digits-notebook-fast")
    [session] = service.kernels["digits-notebook-fast"]
    assert session.asked["kernelType"] == "notebook"
    assert session.asked["isPrivate"]
    assert not session.asked.get("enableGpu")
    assert session.asked["competitionDataSources"] == ["digit-recognizer"]
    nbformat.validate(json.loads(session.asked["text"]))


def test_what_was_edited_there_is_replaced_only_after_asking(
    service: KernelService, digits: Digits
) -> None:
    push(digits)
    assert push(digits).code == 0, "unchanged, it is pushed again without asking"
    session = service.newest()
    session.asked["text"] = session.asked["text"].replace("Would you have", "Would I have")
    session.status = "CANCEL_ACKNOWLEDGED"
    refused = push(digits)
    assert refused.code != 0
    assert "was edited on Kaggle" in "".join(refused.lines) + refused.error
    assert service.newest() is session
    assert push(digits, "--yes").code == 0
    assert service.newest() is not session


def test_a_refused_push_says_why(service: KernelService, digits: Digits) -> None:
    service.hours_used = 30
    refused = push(digits, "--accelerator", "NvidiaTeslaT4")
    assert refused.code == 1
    assert "weekly GPU quota" in refused.error


def test_a_stage_that_fails_stops_the_notebook(project: Path, tmp_path: Path) -> None:
    for name in notebook.BESIDE:
        (project / name).write_bytes((ROOT / name).read_bytes())
    first = sources(written(tmp_path))[:3]
    done = run([*first, "digits('ensemble')", "print('went on')"], project)
    assert done.returncode == 1
    assert "digits: " in done.stdout
    assert "pipeline ensemble --dataset kaggle --config fast ended with exit code 2" in done.stderr
    assert "went on" not in done.stdout
