"""cluster.py on a real Ray cluster of several nodes on this machine, of one core each.

The nodes share the machine's disk, but nothing here relies on it: the package that trains is the
one that the driver sent, and files come back through Ray.
"""

import json
import os
import platform
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    LITTLE_EPOCHS,
    LITTLE_PRESET,
    PATIENCE,
    little_results,
    start_little,
    wait_for,
)

from pipeline.errors import ExternalError, UserError
from pipeline.train import cluster as engine

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
    """A head without a core, and two nodes with one each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
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
        changing = {"seconds", "epoch_seconds", "ray_node"}
        assert mine["metadata"].keys() - changing == its["metadata"].keys() - changing
        for name in its["metadata"].keys() - changing:
            assert mine["metadata"][name] == its["metadata"][name]
    for fold in (0, 1):
        node = ours[fold]["metadata"]["ray_node"][:8]
        assert re.search(
            rf"train fold {fold} on \S+ \({node}\), CPU, epoch \d+/{LITTLE_EPOCHS}: loss", output
        )
    assert not list((little_copy / "data").rglob("checkpoint.npz"))

    again = start_little(little_copy, *words)
    output, _ = again.communicate(timeout=PATIENCE)
    assert output.splitlines() == ["train: all folds fresh"]


def kill_node(cluster: Cluster, node_id: str) -> None:
    node = next(node for node in cluster.worker_nodes if node.node_id.startswith(node_id))
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)


def kill_workers(cluster: Cluster, node_id: str) -> None:
    for number in workers():
        os.kill(number, signal.SIGKILL)


def workers() -> list[int]:
    """The processes that train, as Ray names them."""
    listed = subprocess.run(["pgrep", "-f", "ray::train_fold"], capture_output=True, text=True)
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.parametrize("kill", [kill_node, kill_workers])
def test_a_fold_whose_node_or_worker_is_lost_resumes_elsewhere(
    cluster: Cluster, little_copy: Path, little: Path, kill: Callable[[Cluster, str], None]
) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    fold, node = wait_for(process, r"train fold (\d) on \S+ \((\w+)\), CPU, epoch [3-9]/").groups()
    kill(cluster, node)
    why, epoch = wait_for(
        process, rf"train fold {fold}: (.*); trying again after epoch (\d+)"
    ).groups()
    assert re.match("NodeDiedError|WorkerCrashedError", why)
    assert 3 <= int(epoch) < LITTLE_EPOCHS
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
    assert list((little_copy / "data").rglob("checkpoint.npz"))
    deadline = time.monotonic() + PATIENCE
    while workers():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # What the cluster began can be continued without it.
    process = start_little(little_copy, "train")
    output, _ = process.communicate(timeout=PATIENCE)
    assert re.search(r"resuming after epoch \d+", output)
    assert little_results(little_copy) == little_results(little)


def test_a_user_error_in_a_fold_is_reported_once_and_not_retried(
    cluster: Cluster, little_copy: Path
) -> None:
    (little_copy / "little.toml").write_text(f"{LITTLE_PRESET}1\ndevices = 3\n")
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert output.splitlines()[-1].startswith(
        "digits: train.devices is 3, and TensorFlow sees 1 CPU"
    )
    assert "trying again" not in output


def test_a_fold_that_keeps_failing_does_not_affect_the_others(
    little_copy: Path, little: Path
) -> None:
    """On a cluster that the command starts and stops itself."""
    code = little_copy / "pipeline" / "train" / "progress.py"  # a change there makes nothing stale
    sound = code.read_text()
    first = "        self.title, self.epochs"
    lack = "        if title == 'fold 1':\n            raise MemoryError('no room for it')\n"
    code.write_text(sound.replace(first, lack + first))
    process = start_little(little_copy, "train", "--engine", "ray", "--jobs", "2")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    retried = "train fold 1: MemoryError: no room for it; trying again after epoch 0"
    assert output.splitlines().count(retried) == 2
    assert output.splitlines()[-1].startswith(
        "digits: train fold 1: failed 3 times in a row, most recently with MemoryError: no room"
    )
    assert "train fold 0: done" in output
    code.write_text(sound)
    process = start_little(little_copy, "train")
    output, _ = process.communicate(timeout=PATIENCE)
    assert output.splitlines()[0] == "train: 1 of 2 folds fresh"
    assert little_results(little_copy) == little_results(little)


IMPORT_ON_NODES = "import sys\nif 'default_worker' in sys.argv[0]:\n    import absent_package"
ABSENT = r"No module named 'absent_package' on node [\d.]+; .*requirements\.lock"


@pytest.mark.parametrize(
    ("module", "lines", "code", "message"),
    [
        ("schedule.py", "raise ValueError('wrong at once')", 1, "ValueError: wrong at once"),
        ("schedule.py", "import absent_package", 2, ABSENT),
        ("fold.py", IMPORT_ON_NODES, 2, ABSENT),
    ],
    ids=["training", "import in the task", "import of the task"],
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
        exceptions.ObjectLostError("0" * 56, "owner", "call"),
        exceptions.OwnerDiedError("0" * 56, "owner", "call"),
        exceptions.LocalRayletDiedError(),
        exceptions.ActorDiedError(),
        MemoryError(),
    ]
    assert all(map(engine._retryable, lost))
    final = [exceptions.RuntimeEnvSetupError("no disk"), ValueError(), ImportError("absent")]
    assert not any(map(engine._retryable, final))


def test_an_address_without_a_cluster(little_copy: Path) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", "127.0.0.1:1")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith("digits: no Ray cluster answers at 127.0.0.1:1")


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265", "head"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=f"^{address} .*on a node of the cluster.*host:6379.*auto"):
        engine._connect(address)


def test_an_address_of_something_else_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "DEADLINE", 1)
    with (
        HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as web,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for port, kind, message in (
            (web.server_port, UserError, "is not the head of a Ray cluster"),
            (silent.getsockname()[1], ExternalError, "within 1 s"),
        ):
            with pytest.raises(kind, match=f"127.0.0.1:{port} {message}"):
                engine._connect(f"127.0.0.1:{port}")
        web.shutdown()
    engine._check_address(cluster.address)


def test_other_versions_than_the_cluster_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        check_version_info({"ray_version": "2.40.0", "python_version": "3.9.1"}, "node 10.0.0.1")

    monkeypatch.setattr(ray, "init", init)
    ours = f"Ray: {ray.__version__} and Python: {platform.python_version()}"
    with pytest.raises(UserError, match=f"Ray: 2.40.0 and Python: 3.9.1, .* {ours};"):
        engine._connect("auto")
