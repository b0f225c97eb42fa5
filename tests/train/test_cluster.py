"""cluster.py on a real Ray cluster of several nodes on this machine, of one core each.

The nodes share the machine's disk, but nothing here relies on it: the package that trains is the
one that the driver sent, and files come back through Ray.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
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

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402


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


def test_two_nodes_train_a_fold_each_and_leave_what_a_local_run_leaves(
    cluster: Cluster, little_copy: Path, little: Path
) -> None:
    words = ("train", "--engine", "ray", "--address", cluster.address)
    process = start_little(little_copy, *words)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert little_results(little_copy) == little_results(little)
    ours, theirs = manifests(little_copy), manifests(little)
    assert len({manifest["facts"]["ray_node"] for manifest in ours}) == 2
    for mine, its in zip(ours, theirs, strict=True):
        for part in ("stage", "params", "inputs", "code", "outputs"):
            assert mine[part] == its[part]
        # Time and place are what may differ.
        changing = {"seconds", "epoch_seconds", "ray_node"}
        assert mine["facts"].keys() - changing == its["facts"].keys() - changing
        for fact in its["facts"].keys() - changing:
            assert mine["facts"][fact] == its["facts"][fact]
    for fold in (0, 1):
        node = ours[fold]["facts"]["ray_node"][:8]
        assert re.search(
            rf"train fold {fold} on \S+ \({node}\), CPU, epoch \d+/{LITTLE_EPOCHS}: loss", said
        )
    assert not list((little_copy / "data").rglob("checkpoint.npz"))

    again = start_little(little_copy, *words, "--if-stale")
    said, _ = again.communicate(timeout=PATIENCE)
    assert said.splitlines() == ["train fold 0: fresh", "train fold 1: fresh"]


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
def test_a_fold_whose_node_or_worker_is_lost_goes_on_elsewhere(
    cluster: Cluster, little_copy: Path, little: Path, kill: Callable[[Cluster, str], None]
) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    fold, node = wait_for(process, r"train fold (\d) on \S+ \((\w+)\), CPU, epoch [3-9]/").groups()
    kill(cluster, node)
    why, epoch = wait_for(
        process, rf"train fold {fold}: (.*); tried again after epoch (\d+)"
    ).groups()
    assert re.match("NodeDiedError|WorkerCrashedError", why)
    assert 3 <= int(epoch) < LITTLE_EPOCHS
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert little_results(little_copy) == little_results(little)


def test_ctrl_c_cancels_the_tasks_and_keeps_what_came_back(
    cluster: Cluster, little_copy: Path, little: Path
) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    wait_for(process, r"train fold \d .* epoch [3-9]/")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "digits: stopped; the same command goes on from here"
    assert list((little_copy / "data").rglob("checkpoint.npz"))
    deadline = time.monotonic() + PATIENCE
    while workers():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # What the cluster began goes on without it.
    process = start_little(little_copy, "train")
    said, _ = process.communicate(timeout=PATIENCE)
    assert re.search(r"going on after epoch \d+", said)
    assert little_results(little_copy) == little_results(little)


def test_a_mistake_in_a_fold_is_told_once_and_not_tried_again(
    cluster: Cluster, little_copy: Path
) -> None:
    (little_copy / "little.toml").write_text(f"{LITTLE_PRESET}1\ndevices = 3\n")
    process = start_little(little_copy, "train", "--engine", "ray", "--address", cluster.address)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith("digits: train.devices is 3, and TensorFlow sees 1 CPU")
    assert "tried again" not in said


def test_a_fold_that_fails_again_and_again_leaves_the_others_alone(
    little_copy: Path, little: Path
) -> None:
    """On a cluster that the command starts for itself and ends."""
    code = little_copy / "pipeline" / "progress.py"  # what changes there trains nothing again
    sound = code.read_text()
    first = "        super().__init__()\n"
    lack = "        if title == 'fold 1':\n            raise MemoryError('no room for it')\n"
    code.write_text(sound.replace(first, first + lack))
    process = start_little(little_copy, "train", "--engine", "ray", "--jobs", "2")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    retried = "train fold 1: MemoryError: no room for it; tried again after epoch 0"
    assert said.splitlines().count(retried) == 2
    assert said.splitlines()[-1].startswith(
        "digits: train fold 1: failed 3 times in a row, at last with MemoryError: no room for it"
    )
    assert "train fold 0: done" in said
    code.write_text(sound)
    process = start_little(little_copy, "train", "--if-stale")
    said, _ = process.communicate(timeout=PATIENCE)
    assert said.splitlines()[0] == "train fold 0: fresh"
    assert little_results(little_copy) == little_results(little)


def test_where_no_cluster_is_one_line_says_so(little_copy: Path) -> None:
    process = start_little(little_copy, "train", "--engine", "ray", "--address", "127.0.0.1:1")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("digits: no Ray cluster answers at 127.0.0.1:1")
