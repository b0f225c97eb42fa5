"""Tests on Ray clusters that take minutes: `make test-ray` runs them and shows what a user sees.

Every cluster is several nodes on this machine, started by hand (`ray start`) on ports of their own.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import little_project, little_results, start_little

PATIENCE = 900
# It hides the real one, unless a runtime_env "installs" that.
STUB = """
import os, pathlib, sys
if "GIVEN" not in os.environ:
    raise ModuleNotFoundError("No module named 'tensorflow'")
sys.path.remove(str(pathlib.Path(__file__).parents[1]))
del sys.modules["tensorflow"]
import tensorflow
"""
# A change of node.py makes nothing stale.
AFTER = "    from pipeline.train.fold import Progress\n"


class Nodes:
    """Nodes of a cluster, each the processes that one `ray start` leaves."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.home = home
        self.env = {**os.environ, "RAY_DISABLE_IMPORT_WARNING": "1", "HOME": str(home)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str, **env: str) -> None:
        place = ("--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false")
        joined = place if name == "head" else ("--address", self.address)
        ray = str(Path(sys.executable).with_name("ray"))
        log = self.home / f"{name}.log"
        with log.open("w") as output:
            self.running[name] = subprocess.Popen(
                [ray, "start", "--block", *joined, *words],
                env={**self.env, **env},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in log.read_text():
            assert self.running[name].poll() is None and time.monotonic() < deadline, log
            time.sleep(0.5)

    def kill(self, name: str) -> None:
        """End a node as a power cut would."""
        root = self.running.pop(name)
        for process in (root.pid, *descendants(root.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        root.wait()


def descendants(process: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    children = [int(number) for number in listed.stdout.split()]
    return [*children, *(each for child in children for each in descendants(child))]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    for name in list(made.running):
        made.kill(name)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little_project(tmp_path_factory.mktemp("untrained"))


@pytest.fixture
def project(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "project"))


def slow_down(project: Path, seconds: float) -> None:
    """Make every epoch last longer."""
    path = project / "pipeline" / "remote" / "node.py"
    sound = path.read_text()
    assert AFTER in sound
    slow = f"    Progress.epoch = lambda *_: time.sleep({seconds})\n"
    path.write_text(sound.replace(AFTER, AFTER + slow))


def train(project: Path, *words: str) -> "subprocess.Popen[str]":
    return start_little(project, "train", "--engine", "ray", *words)


def lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    """Yield what a process prints, while it prints it; print it with the time."""
    assert process.stdout is not None
    for line in process.stdout:
        print(time.strftime("%T"), line, end="", flush=True)
        yield line


def until(process: "subprocess.Popen[str]", pattern: str) -> "re.Match[str]":
    for line in lines(process):
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"{pattern} was never printed")


def rest(process: "subprocess.Popen[str]") -> str:
    text = "".join(lines(process))
    process.wait(PATIENCE)
    return text


def trained_here(project: Path, tmp_path: Path) -> dict[str, bytes]:
    local = Path(shutil.copytree(project, tmp_path / "local"))
    shutil.rmtree(local / "data" / "tiny" / "little")
    assert start_little(local, "train").wait(PATIENCE) == 0
    return little_results(local)


def test_the_same_command_goes_on_after_a_lost_head(
    nodes: Nodes, project: Path, tmp_path: Path
) -> None:
    slow_down(project, 4)  # 40 epochs last 160 s
    nodes.start("head", "--num-cpus=0")
    nodes.start("a", "--num-cpus=1")
    nodes.start("b", "--num-cpus=1")
    process = train(project, "--address", nodes.address)
    until(process, "epoch 3/")
    nodes.kill("head")
    print(time.strftime("%T"), "--- the head is killed")
    output = rest(process)
    assert process.returncode == 1
    assert re.match(
        rf"digits: the head .* at {nodes.address} is lost.*run the same", output.splitlines()[-1]
    )
    for name in ("a", "b"):  # they end without their head, as the process connected to it did
        nodes.kill(name)
    nodes.start("head", "--num-cpus=0")
    nodes.start("a", "--num-cpus=1")
    nodes.start("b", "--num-cpus=1")
    print(time.strftime("%T"), "--- another head, and its nodes, are started")
    process = train(project, "--address", nodes.address)
    output = rest(process)
    assert process.returncode == 0
    first = re.search(r"train fold \d on .*epoch (\d+)/", output)
    assert first and int(first[1]) > 3
    assert little_results(project) == trained_here(project, tmp_path)


def test_a_node_without_packages_gets_no_folds(nodes: Nodes, project: Path, tmp_path: Path) -> None:
    """It is always free, and would take fold after fold."""
    (tmp_path / "lacking" / "tensorflow").mkdir(parents=True)
    (tmp_path / "lacking" / "tensorflow" / "__init__.py").write_text(STUB)
    nodes.start("head", "--num-cpus=0")
    nodes.start("lacking", "--num-cpus=8", PYTHONPATH=str(tmp_path / "lacking"))
    nodes.start("complete", "--num-cpus=1")
    process = train(project, "--address", nodes.address)
    output = rest(process)
    assert process.returncode == 0
    lacking = re.search(
        r"No module named 'tensorflow' on \S+ \((\w+)\), which gets no more folds; .*\.lock",
        output,
    )
    assert lacking and f"({lacking[1]}), CPU, epoch" not in output


def test_a_runtime_env_gives_a_node_what_it_lacks(
    nodes: Nodes, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking" / "tensorflow").mkdir(parents=True)
    (tmp_path / "lacking" / "tensorflow" / "__init__.py").write_text(STUB)
    nodes.start("head", "--num-cpus=0")
    nodes.start("lacking", "--num-cpus=2", PYTHONPATH=str(tmp_path / "lacking"))
    process = train(project, "--address", nodes.address)
    assert "No module named 'tensorflow' on " in rest(process).splitlines()[-1]
    assert process.returncode == 2
    (tmp_path / "env.yaml").write_text("env_vars: {GIVEN: '1'}\n")
    monkeypatch.setenv("RAY_RUNTIME_ENV", str(tmp_path / "env.yaml"))
    process = train(project, "--address", nodes.address)
    rest(process)
    assert process.returncode == 0


def test_a_cluster_that_requires_its_token(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("head", "nobody", "stranger"):
        (tmp_path / name / ".ray").mkdir(parents=True)
    (tmp_path / "head" / ".ray" / "auth_token").write_text("a" * 64)
    (tmp_path / "stranger" / ".ray" / "auth_token").write_text("b" * 64)
    nodes = Nodes(tmp_path / "head")
    try:
        nodes.start("head", "--num-cpus=0")  # the token alone makes it demand the token
        nodes.start("a", "--num-cpus=2", RAY_AUTH_MODE="token")
        for name, code, pattern in (
            ("nobody", 2, r"requires its token, and none was found here; .*auth_token"),
            ("stranger", 2, r"requires its token, and another one was found here; .*auth_token"),
            ("head", 0, r"train fold \d: done"),
        ):
            monkeypatch.setenv("HOME", str(tmp_path / name))
            process = train(project, "--address", nodes.address)
            output = rest(process)
            assert process.returncode == code
            assert re.search(pattern, output)
            assert code == 0 or len(output.splitlines()) == 2  # dataset and preset, the error
    finally:
        for name in list(nodes.running):
            nodes.kill(name)


def test_a_gpu_that_joins_later_gets_its_folds(nodes: Nodes, project: Path) -> None:
    """As on an autoscaling cluster. TensorFlow finds no GPU there, and trains on the CPU."""
    nodes.start("head", "--num-cpus=0")
    nodes.start("cpu", "--num-cpus=2")
    process = train(project, "--address", nodes.address, "--accelerator", "gpu")
    until(process, r"waits for 1 CPU and 1 GPU on one node; all nodes have 2 CPU; .*autoscal")
    nodes.start("gpu", "--num-cpus=2", "--num-gpus=2")
    output = rest(process)
    assert process.returncode == 0
    assert len(set(re.findall(r"train fold \d on \S+ \(\w+\), (GPU \d)", output))) == 2
