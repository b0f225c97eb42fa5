"""remote/ray.py on a real Ray cluster of several nodes on this machine, of one core each.

The nodes share the machine's disk, but nothing here relies on it: the package that trains is the
one that the driver sent, and files come back through Ray.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    LITTLE_EPOCHS,
    PATIENCE,
    little_results,
    start_little,
    wait_for,
)

from pipeline.config import Preset, Train
from pipeline.errors import ExternalError, UserError
from pipeline.remote import ray as engine
from pipeline.task import Task
from pipeline.train.engines import train_folds

ray = pytest.importorskip("ray")

from ray import exceptions  # noqa: E402
from ray._private.utils import check_version_info  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow


def manifests(project: Path) -> list[dict[str, Any]]:
    paths = sorted((project / "data" / "tiny" / "little").glob("fold-*/manifest.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without a core, and two nodes with one each.

    Its folds take their shares of the cores in a folder of their own: beside them, other tests
    train too.
    """
    with tempfile.TemporaryDirectory(prefix="ray-") as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", home)  # a short path, below which Ray has its sockets
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        made.add_node(num_cpus=1)
        made.add_node(num_cpus=1)
        patch.undo()
        yield made
        made.shutdown()


def test_two_nodes_train_a_fold_each_and_write_what_a_local_run_writes(
    cluster: Cluster, little_copy: Path, little: Path
) -> None:
    words = ("train", "--engine", "ray", "--address", cluster.address)
    process = start_little(little_copy, *words)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert little_results(little_copy) == little_results(little)
    ours, theirs = manifests(little_copy), manifests(little)
    assert len({manifest["metadata"]["ray_node"] for manifest in ours}) == 2
    for mine, its in zip(ours, theirs, strict=True):
        for part in ("stage", "params", "inputs", "code", "outputs"):
            assert mine[part] == its[part]
        # Time and place are what may differ.
        changing = {"seconds", "epoch_seconds", "ray_node", "device_reason"}
        assert mine["metadata"].keys() - changing == its["metadata"].keys() - changing
        for name in its["metadata"].keys() - changing:
            assert mine["metadata"][name] == its["metadata"][name]
    for fold in (0, 1):
        node = ours[fold]["metadata"]["ray_node"][:8]
        assert re.search(rf"fold {fold} on \S+ \({node}\), CPU, epoch \d+/{LITTLE_EPOCHS}", output)
    if (os.cpu_count() or 1) > 1:  # a node of one core has one, though the machine has more
        assert re.search(r"this one uses core \d+$", ours[0]["metadata"]["device_reason"])
    assert not list((little_copy / "data").rglob("checkpoint-*.npz"))

    again = start_little(little_copy, *words)
    output, _ = again.communicate(timeout=PATIENCE)
    assert output.splitlines()[1:] == ["train: all folds fresh"]


def kill_node(cluster: Cluster, node_id: str) -> None:
    node = next(node for node in cluster.worker_nodes if node.node_id.startswith(node_id))
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)


def kill_workers(cluster: Cluster, node_id: str) -> None:
    for number in workers():
        os.kill(number, signal.SIGKILL)


def workers() -> list[int]:
    """The processes that train, as Ray names them."""
    listed = subprocess.run(["pgrep", "-f", "ray::little/fold-"], capture_output=True, text=True)
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.parametrize("kill", [kill_node, kill_workers])
def test_a_fold_whose_node_or_worker_is_lost_resumes_elsewhere(
    cluster: Cluster, little_copy: Path, little: Path, kill: Callable[[Cluster, str], None]
) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    fold, node = wait_for(process, r"train fold (\d) on \S+ \((\w+)\), CPU, epoch [3-9]/").groups()
    kill(cluster, node)
    why, epoch = wait_for(
        process, rf"train fold {fold}: (.*) on \S+ \({node}\); trying again after epoch (\d+)"
    ).groups()
    assert re.match("NodeDiedError|WorkerCrashedError", why)
    assert 3 <= int(epoch) < LITTLE_EPOCHS
    wait_for(process, rf"train fold {fold} on \S+ \((?!{node})\w+\), CPU: started")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert little_results(little_copy) == little_results(little)


def test_ctrl_c_cancels_the_tasks_and_keeps_what_came_back(
    cluster: Cluster, little_copy: Path, little: Path
) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    wait_for(process, r"train fold \d .* epoch [3-9]/")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert output.splitlines()[-1].startswith("digits: stopped; run the same command again")
    assert list((little_copy / "data").rglob("checkpoint-*.npz"))
    deadline = time.monotonic() + PATIENCE
    while workers():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # What the cluster began can be continued without it.
    process = start_little(little_copy, "train")
    output, _ = process.communicate(timeout=PATIENCE)
    assert re.search(r"resuming after epoch \d+", output)
    assert little_results(little_copy) == little_results(little)


def test_a_fold_that_keeps_failing_does_not_affect_the_others(
    little_copy: Path, little: Path
) -> None:
    """On a cluster that the command starts and stops itself."""
    code = little_copy / "pipeline" / "remote" / "node.py"  # a change there makes nothing stale
    sound = code.read_text()
    first = "    found = runtime.prepare("
    lack = "    if task.fold == 1:\n        raise MemoryError('no room for it')\n"
    code.write_text(sound.replace(first, lack + first))
    process = start_little(little_copy, "train", "--engine", "ray", "--jobs", "2")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    retried = r"train fold 1: MemoryError: no room for it on \S+ \(\w+\); trying again after"
    assert len(re.findall(retried, output)) == 2
    assert output.splitlines()[-1].startswith(
        "digits: train fold 1: failed 3 times in a row without another epoch, most recently with "
        "MemoryError: no room"
    )
    assert "train fold 0: done" in output
    code.write_text(sound)
    process = start_little(little_copy, "train")
    output, _ = process.communicate(timeout=PATIENCE)
    assert output.splitlines()[1] == "train: 1 of 2 folds fresh"
    assert little_results(little_copy) == little_results(little)


IMPORT_ON_NODES = "import sys\nif 'default_worker' in sys.argv[0]:\n    import absent_package"
ABSENT = r"No module named 'absent_package' on \S+ \(\w+\), .*requirements\.lock"


@pytest.mark.parametrize(
    ("module", "lines", "code", "message"),
    [
        ("schedule.py", "raise ValueError('wrong at once')", 1, "ValueError: wrong at once"),
        ("networks/little.py", "network = lambda *_: 1 / 0", 2, "little.py: ZeroDivisionError"),
        ("fold.py", IMPORT_ON_NODES, 2, ABSENT),
    ],
    ids=["training", "network", "import"],
)
def test_an_error_that_would_come_again_is_not_retried(
    cluster: Cluster, little_copy: Path, module: str, lines: str, code: int, message: str
) -> None:
    with (little_copy / "pipeline" / "train" / module).open("a") as file:
        file.write(f"\n{lines}\n")
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    assert "trying again" not in output
    assert re.search(message, output.splitlines()[-1])


def test_only_lost_workers_nodes_and_memory_are_retried() -> None:
    lost = [
        exceptions.WorkerCrashedError(),
        exceptions.NodeDiedError("lost"),
        exceptions.OutOfMemoryError("killed"),
        exceptions.OwnerDiedError("0" * 56, "owner", "call"),
        MemoryError(),
    ]
    assert all(map(engine.retryable, lost))
    final = [exceptions.RuntimeEnvSetupError("no disk"), ValueError(), ImportError("absent")]
    assert not any(map(engine.retryable, final))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "head"])
def test_an_address_without_a_cluster(address: str) -> None:
    with pytest.raises(ExternalError, match=f"at {address}: .*host:6379.*auto"):
        engine.connect(address)


def test_other_versions_than_the_cluster_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        check_version_info({"ray_version": "2.40.0", "python_version": "3.9.1"}, "node 10.0.0.1")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match=f"^auto: .*Ray: 2.40.0 .*Ray: {ray.__version__}.*install"):
        engine.connect("auto")


def made_fold(home: Path, params: Train | None = None) -> Task:
    folder = home / "data" / "tiny" / "little" / "fold-0"
    writes = {"weights": folder / "weights.keras"}
    preset = Preset(train=params or Train())
    return Task("train fold 0", "train", home, folder / "manifest.json", "", preset, 0, writes)


@pytest.fixture
def connected(cluster: Cluster) -> Iterator[Any]:
    yield engine.connect(cluster.address)
    ray.shutdown()


def test_what_has_no_place_says_what_it_waits_for(
    connected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = made_fold(tmp_path, Train(devices=2))
    made = engine.Cluster(connected, [task], 1, "gpu")
    assert capsys.readouterr().out == "Ray: 2 nodes, 1 CPU and 2 GPU for each fold\n"
    made.explain_the_wait(task)
    made.explain_the_wait(task)
    [line] = capsys.readouterr().out.splitlines()
    assert re.search(r"waits for 1 CPU and 2 GPU .* have 2 CPU;.*autoscaling", line)
    for accelerator, needs in (
        ("auto", {"num_cpus": 1}),
        ("none", {"num_cpus": 1}),
        ("T4", {"num_cpus": 1, "num_gpus": 2, "accelerator_type": "T4"}),
    ):
        assert engine.Cluster(connected, [task], 1, accelerator).needs(task) == needs


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Have the connected process end with these errors, attempt after attempt.

    tests/system/ray_clusters.py has real clusters, whose loss takes minutes.
    """
    errors: list[Exception] = []

    def submit(*call: Any) -> Any:
        raise errors.pop(0)

    monkeypatch.setattr(engine.ProcessPoolExecutor, "submit", submit)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # so that it is restored afterwards
    return errors


def test_a_lost_head_ends_the_command(ending: list[Exception]) -> None:
    ending.append(BrokenProcessPool())
    with pytest.raises(ExternalError, match=r"head .* at host:6379 is lost.*run the same command"):
        engine.train_on_ray([], [], False, 1, "host:6379", "auto")


def test_a_token_is_sent_only_to_a_cluster_that_requires_one(ending: list[Exception]) -> None:
    ending += [engine.TokenError(), engine.TokenError(), engine.TokenError()]
    for mode, attempts_left in (("disabled", 2), (None, 0)):
        if mode is None:
            del os.environ["RAY_AUTH_MODE"]
        with pytest.raises(engine.TokenError):
            engine.train_on_ray([], [], False, 1, "host:6379", "auto")
        assert len(ending) == attempts_left
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_only_a_cluster_takes_an_accelerator(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--accelerator gpu needs --engine ray or kaggle"):
        train_folds([made_fold(tmp_path)], [], accelerator="gpu")


def test_a_runtime_env_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = engine.runtime_env()
    path = tmp_path / "env.yaml"
    monkeypatch.setenv("RAY_RUNTIME_ENV", str(path))
    for wrong in (None, "pip", "pip: [", "py_modules: [here]"):
        if wrong:
            path.write_text(wrong)
        with pytest.raises(UserError, match=rf"RAY_RUNTIME_ENV: {path} .*"):
            engine.runtime_env()
    path.write_text("pip: requirements.lock\n")
    assert engine.runtime_env() == {"pip": "requirements.lock", **ours}
