"""Whole commands: the pushed script really runs, in namespaces like Kaggle's.

The protocol and its failures are tested in test_kaggle_engine.py.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PACKAGE, PATIENCE, contents, little_results, start_little, wait_for
from kernel_service import KernelService, kaggle_image

pytestmark = pytest.mark.skipif(not kaggle_image.possible(), reason="no namespaces here")
ENGINE = ("train", "--engine", "kaggle", "--accelerator")


@pytest.fixture
def service(
    little_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KernelService]:
    """A Kaggle that commands talk to, with the little project's files."""
    with KernelService(contents(little_copy / "tiny"), tmp_path / "sessions") as running:
        shutil.copy(PACKAGE.parent / "pyproject.toml", little_copy)
        running.adopt(tmp_path / "home", monkeypatch)
        monkeypatch.setenv("DIGITS_PAUSE_SECONDS", "0.05")
        yield running
        assert running.strays == [], "another host was contacted"


@pytest.mark.slow
def test_a_killed_command_finds_its_run_again_from_another_clone(
    little: Path, little_copy: Path, service: KernelService, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(little_copy, clone)
    first = start_little(little_copy, *ENGINE, "none")
    wait_for(first, r"Kaggle: fold \d, epoch 1/40")
    first.kill()
    first.communicate()
    assert little_results(little_copy) == {}
    second = start_little(clone, *ENGINE, "none")
    output, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, output
    assert little_results(clone) == little_results(little)
    # The first clone fetches the same files, from a run that has ended.
    again = start_little(little_copy, *ENGINE, "none")
    output, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, output
    assert little_results(little_copy) == little_results(little)
    assert service.pushes() == 1
