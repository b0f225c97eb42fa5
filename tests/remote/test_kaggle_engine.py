"""remote/kaggle.py: the protocol, against a stand-in for Kaggle, through the unmodified client.

Here the client runs in this process, and sessions write their output in no time. What sessions
really do, and whole commands, are tested in test_session.py.
"""

import contextlib
import io
import json
import lzma
import re
import shutil
import sys
import zipfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PACKAGE, Digits, Ended, contents, fake_training, write_digits
from kaggle_service import call_in_process
from kernel_service import KernelService, Session

from pipeline import artifacts, fingerprints, stages
from pipeline.config import Preset
from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import client, inside
from pipeline.remote import job, kernels, session
from pipeline.remote import kaggle as engine
from pipeline.task import Task
from pipeline.train import local

# What kaggle 2.0 lacks: the log while a run goes on, and the GPU hours. It trains all the same.
CLIENT = Path(str(find_spec("kaggle").origin)).parent / "api" / "kaggle_api_extended.py"
needs_a_new_client = pytest.mark.skipif(
    "def kernels_logs_stream" not in CLIENT.read_text(encoding="utf-8"), reason="an older client"
)
PRESET = "[split]\nfolds = 3\n[train]\nepochs = 2\n"
NAME = r"digits-three-[0-9a-f]{8}"


def job_in(script: str) -> dict[str, Any]:
    """The job in a script."""
    found = re.search(r'JOB = r"""(.*?)"""', script, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture
def graph(project: Path, tiny_folder: Path) -> stages.Graph:
    """A project with three folds to train."""
    (project / "three.toml").write_text(PRESET)
    shutil.copy(PACKAGE.parent / "pyproject.toml", project)
    graph = stages.load(str(tiny_folder), "three.toml")
    for task in graph.up_to("split"):
        artifacts.run(task, graph.tasks)
    return graph


class Kaggle:
    """The stand-in, and what its sessions do with each fold."""

    def __init__(
        self, service: KernelService, graph: stages.Graph, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.service, self.graph = service, graph
        self.errors: dict[int, Exception] = {}  # by fold
        self.unfinished: set[int] = set()
        self.left_out: set[int] = set()
        self.lines = ["hello from there\n"]
        self.gpus = ["GPU:0", "GPU:1"]
        self.lacking: dict[str, str] = {}
        self.monkeypatch = monkeypatch
        service.runner = self.run
        monkeypatch.setattr(local, "train_here", self.train)
        monkeypatch.setattr(session.installed, "compare", lambda root: (self.lacking, []))
        tf = SimpleNamespace(config=SimpleNamespace(list_physical_devices=lambda kind: self.gpus))
        monkeypatch.setitem(sys.modules, "pipeline.backend", SimpleNamespace(tf=tf))

    def run(self, its: Session) -> None:
        """Do what the script does, with folds that are trained in no time."""
        self.monkeypatch.setattr(inside, "KAGGLE", its.folder / "kaggle")
        root = its.folder / "unpacked"
        text = its.asked["text"]
        zipfile.ZipFile(
            io.BytesIO(lzma.decompress(b64decode(text.split('CODE = """')[1].split('"""')[0])))
        ).extractall(root)
        with contextlib.chdir(root):
            session.run(job_in(text), root)
        its.log += [{"stream_name": "stdout", "time": 0, "data": line} for line in self.lines]

    def train(self, folds: list[Task], *_: Any) -> None:
        errors = []
        for task in folds:
            fold = task.fold
            if fold in self.errors:
                errors.append(self.errors[fold])
            elif fold in self.unfinished:
                errors.append(KeyboardInterrupt())
            elif fold not in self.left_out:
                work = partial(fake_training, task.reads, fold=fold)
                artifacts.run(task, [], False, lambda writes, work=work: work(writes))
        for error in errors:
            raise error


@pytest.fixture
def kaggle(
    graph: stages.Graph, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kaggle]:
    """A Kaggle that this process talks to."""
    with KernelService(contents(tiny_folder), tmp_path / "sessions") as service:
        service.adopt(tmp_path / "home", monkeypatch)
        monkeypatch.setattr(client, "call", call_in_process)
        monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
        monkeypatch.setattr(
            fingerprints, "fingerprints", lambda modules, root: {"train/fold.py": "0"}
        )
        for name in ("POLL", "BUSY"):
            monkeypatch.setattr(engine, name, 0.01)
        yield Kaggle(service, graph, monkeypatch)
        assert service.strays == [], "another host was contacted"


Train = Callable[..., Ended]


@pytest.fixture
def train(kaggle: Kaggle, digits: Digits, tiny_folder: Path) -> Train:
    """Run `digits train --engine kaggle`, and check what is shown."""

    def run(*words: str) -> Ended:
        choice = ("--dataset", str(tiny_folder), "--config", "three.toml", "--engine", "kaggle")
        ended = digits("train", *choice, *words)
        shown = "\n".join(ended.lines) + ended.error
        assert "Traceback" not in shown
        assert "Signature" not in shown
        return Ended(ended.code, ended.lines[1:], ended.error)

    return run


def files(task: Task) -> dict[str, bytes]:
    """The files of a fold, without its manifest, which has a name and a time in it."""
    found = contents(task.folder)
    return {name: content for name, content in found.items() if not name.endswith(".json")}


def fresh(graph: stages.Graph) -> list[bool]:
    """Which folds are fresh."""
    return [state.fresh for state in artifacts.states(graph.all("train")).values()]


# --- what is pushed ------------------------------------------------------------------------------


@needs_a_new_client
def test_the_due_folds_are_trained_by_one_private_script(kaggle: Kaggle, train: Train) -> None:
    ended = train()
    assert ended.code == 0, ended.error
    assert fresh(kaggle.graph) == [True] * 3
    [(name, [session])] = kaggle.service.kernels.items()
    assert re.fullmatch(NAME, name)
    expected = {
        "isPrivate": True,
        "enableGpu": True,
        "machineShape": "NvidiaTeslaT4",
        "competitionDataSources": ["digit-recognizer"],
        "sessionTimeoutSeconds": 9 * 3600,
    }
    assert {key: session.asked[key] for key in expected} == expected
    assert not session.asked.get("enableInternet")
    assert "27.5 of 30 GPU hours left" in ended.lines[0]
    assert f"digits-tester/{name}" in ended.lines[1]
    assert "Kaggle: hello from there" in ended.lines
    metadata = artifacts.metadata(kaggle.graph.all("train")[0].manifest)
    assert metadata["kernel"] == f"digits-tester/{name}"
    assert metadata["held_out_accuracy"] == 1.0
    # Nothing is asked when nothing is due.
    before = len(kaggle.service.requests)
    assert train().lines == ["train: all folds fresh"]
    assert len(kaggle.service.requests) == before


def test_the_script_says_what_it_is(kaggle: Kaggle, train: Train) -> None:
    train("--accelerator", "none")
    asked = kaggle.service.newest().asked
    text = asked["text"]
    assert len(text) < 400_000
    assert "make submit ENGINE=kaggle" in text.split('"""')[1]
    assert max(map(len, text.splitlines())) <= 200
    assert [fold["fold"] for fold in job_in(text)["folds"]] == [0, 1, 2]
    assert not asked.get("enableGpu")
    compile(text, "script.py", "exec")


def test_other_data_than_the_competitions_is_refused(kaggle: Kaggle) -> None:
    graph = stages.load("sample", "three.toml")
    with pytest.raises(UserError, match=r"sample is other data; use DATASET=kaggle"):
        engine.train_on_kaggle(graph.all("train"), graph.tasks, False, "none")
    assert not kaggle.service.requests


# --- the same run again --------------------------------------------------------------------------


def test_a_deleted_fold_is_fetched_from_the_finished_run(kaggle: Kaggle, train: Train) -> None:
    train()
    fold = kaggle.graph.all("train")[1]
    before = files(fold)
    for path in fold.folder.glob("*"):
        path.unlink()
    assert train().code == 0
    assert kaggle.service.pushes() == 1
    assert files(fold) == before


@pytest.mark.parametrize("fault", ["lost", "drop"])
def test_a_push_without_an_answer_runs_once(kaggle: Kaggle, train: Train, fault: str) -> None:
    """Whether it arrived or not; while it is queued and running, it is watched."""
    kaggle.service.queued_polls, kaggle.service.running_polls = 3, 3
    kaggle.service.fail("SaveKernel", fault)
    ended = train()
    assert ended.code == 0, ended.error
    assert any("looking whether the push arrived" in line for line in ended.lines)
    assert kaggle.service.pushes() == 1
    assert fresh(kaggle.graph) == [True] * 3


def test_other_parameters_and_other_code_are_another_run(graph: stages.Graph) -> None:
    tasks, code = graph.tasks, stages.ROOT / "pipeline" / "train" / "fold.py"
    before = engine.name(tasks, "none")
    assert re.fullmatch(NAME, before)
    assert engine.name(tasks, "NvidiaTeslaT4") != before
    code.write_text(code.read_text() + "# a comment\n")
    assert engine.name(tasks, "none") == before
    code.write_text(code.read_text() + "PREDICT_BATCH = 400\n")
    assert engine.name(tasks, "none") != before
    (stages.ROOT / "three.toml").write_text(PRESET.replace("epochs = 2", "epochs = 3"))
    changed = stages.load(str(graph.dataset.path), "three.toml")
    assert engine.name(changed.tasks, "none") != engine.name(tasks, "none")
    # A long name fits into what Kaggle allows.
    long = stages.ROOT / f"My_net{'x' * 60}.toml"
    long.write_text(PRESET)
    tasks = stages.load(str(graph.dataset.path), str(long)).tasks
    assert re.fullmatch(f"digits-my-net{'x' * 24}-[0-9a-f]{{8}}", engine.name(tasks, "none"))


def test_a_task_survives_the_journey(graph: stages.Graph) -> None:
    for task in graph.all("train"):
        unpacked = job.unpacked(job.packed(task), stages.ROOT)
        assert unpacked.preset == Preset(task.preset.name, train=task.preset.train)
        assert replace(unpacked, preset=task.preset) == task


def test_folds_that_a_finished_run_did_not_train_are_pushed(kaggle: Kaggle, train: Train) -> None:
    train("--fold", "0")
    assert train().code == 0
    [(first, [one]), (second, [two])] = kaggle.service.kernels.items()
    assert second == f"{first}-2"
    pushed = [[fold["fold"] for fold in job_in(each.asked["text"])["folds"]] for each in (one, two)]
    assert pushed == [[0], [1, 2]]
    assert fresh(kaggle.graph) == [True] * 3


def test_a_later_run_is_found_although_the_first_was_deleted(kaggle: Kaggle, train: Train) -> None:
    train("--fold", "0")
    train()
    first, second = kaggle.service.kernels
    del kaggle.service.kernels[first]
    for path in kaggle.graph.all("train")[1].folder.glob("*"):
        path.unlink()
    assert train().code == 0
    assert list(kaggle.service.kernels) == [second]
    assert fresh(kaggle.graph) == [True] * 3


def test_a_version_that_its_owner_saved_hides_nothing(kaggle: Kaggle, train: Train) -> None:
    train()
    [versions] = kaggle.service.kernels.values()
    versions.append(Session(versions[0].asked, kaggle.service.folder / "by-hand"))
    versions[1].status = "COMPLETE"
    for path in kaggle.graph.all("train")[1].folder.glob("*"):
        path.unlink()
    ended = train()
    assert ended.code == 0, ended.error
    assert kaggle.service.pushes() == 2
    assert fresh(kaggle.graph) == [True] * 3


def test_output_without_its_folders_costs_no_second_run(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.flattens = True
    for _ in range(2):
        ended = train()
        assert ended.code == 1
        assert "three/fold-0, three/fold-1, three/fold-2 was trained, but is not" in ended.error
        assert "ENGINE=local" in ended.error
    assert kaggle.service.pushes() == 1


def test_force_trains_again(kaggle: Kaggle, train: Train) -> None:
    train()
    assert train("--force").code == 0
    assert kaggle.service.pushes() == 2


# --- refused pushes and sessions -----------------------------------------------------------------

RULES = "https://www.kaggle.com/competitions/digit-recognizer/rules"
PHONE = "verify your phone at https://www.kaggle.com/settings"


def hours_run_out_at_the_push(kaggle: Kaggle) -> None:
    kaggle.service.fail("GetAcceleratorQuotaStatistics", status=404)
    kaggle.service.hours_used = 30.0


# What is wrong, the exit code, a part of the message, and how many sessions it costs.
REFUSALS: dict[str, tuple[Callable[[Kaggle], object], int, str, int]] = {
    "no hours": (lambda k: vars(k.service).update(hours_used=30.0), 1, "2026-11-28 00:00 UTC", 0),
    "no hours at the push": (hours_run_out_at_the_push, 1, "quota", 0),
    "user": (lambda k: vars(k.service).update(owner="somebody"), 2, "KAGGLE_USERNAME", 0),
    "rules": (lambda k: vars(k.service).update(rules_accepted=False), 2, RULES, 1),
    "phone": (lambda k: vars(k.service).update(phone="error"), 2, PHONE, 0),
    "token": (lambda k: k.service.fail("SaveKernel", status=401), 2, "create a new one at", 0),
    "rules at the push": (lambda k: k.service.fail("SaveKernel", status=403), 2, "sent with", 0),
    "no GPU": (lambda k: vars(k).update(gpus=[]), 2, PHONE, 1),
    "not attached": (lambda k: vars(k.service).update(files={}), 2, RULES, 1),
    "package": (lambda k: vars(k).update(lacking={"keras>=3.13": ""}), 1, "lacks keras>=3.13", 1),
}


@needs_a_new_client
@pytest.mark.parametrize(("cause", "code", "part", "pushes"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_to_do(
    kaggle: Kaggle,
    train: Train,
    cause: Callable[[Kaggle], object],
    code: int,
    part: str,
    pushes: int,
) -> None:
    cause(kaggle)
    ended = train()
    assert ended.code == code
    assert part in ended.error
    assert kaggle.service.pushes() == pushes


def test_once_the_rules_are_accepted_the_same_command_trains(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.rules_accepted = False
    assert train().code == 2
    kaggle.service.rules_accepted = True
    assert train().code == 0
    assert kaggle.service.pushes() == 2


def test_other_files_there_than_here(kaggle: Kaggle, train: Train, tmp_path: Path) -> None:
    kaggle.service.files = contents(write_digits(tmp_path / "others", seed=5))
    ended = train()
    assert ended.code == 2
    assert "the files here are not the competition's; DATASET=kaggle" in ended.error


def test_two_sessions_at_work_are_waited_for(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.others_running = 4  # one of them ends with each attempt
    ended = train()
    assert ended.code == 0
    assert sum("Maximum batch GPU session count" in line for line in ended.lines) == 1
    assert kaggle.service.pushes() == 1


@pytest.mark.parametrize("kind", ["None", "T4", "TpuV5E8"])
def test_an_accelerator_that_kaggle_does_not_have(kaggle: Kaggle, train: Train, kind: str) -> None:
    ended = train("--accelerator", kind)
    assert ended.code == 2
    assert f"no accelerator {kind}" in ended.error
    assert "NvidiaTeslaT4" in ended.error
    assert not kaggle.service.requests


@needs_a_new_client
def test_a_session_ends_before_the_hours_left_do(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.hours_used = 29
    assert train().code == 0
    asked = kaggle.service.newest().asked
    assert asked["sessionTimeoutSeconds"] == job_in(asked["text"])["seconds"] == 3600


# --- runs that fail ------------------------------------------------------------------------------


def test_a_failed_run_shows_its_last_lines_and_what_is_kept(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.kill_at_end = "Your notebook tried to allocate more memory than is available."
    kaggle.service.output_survives_errors = True
    kaggle.left_out = {1, 2}
    ended = train()
    assert ended.code == 1
    assert "more memory than is available.; kept: train fold 0; run the same" in ended.error
    assert "ENGINE=local" in ended.error
    assert fresh(kaggle.graph) == [True, False, False]
    # The same command trains the rest, in another run.
    kaggle.service.kill_at_end, kaggle.left_out = "", set()
    assert train().code == 0
    assert kaggle.service.pushes() == 2
    assert fresh(kaggle.graph) == [True] * 3


def test_a_failed_run_without_output(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.kill_at_end = "Timeout"
    ended = train()
    assert ended.code == 1
    assert "failed on Kaggle: Timeout; no fold is finished" in ended.error
    assert fresh(kaggle.graph) == [False] * 3


def cancelled(kaggle: Kaggle, session: Session) -> None:
    session.status = "CANCEL_ACKNOWLEDGED"


def deleted(kaggle: Kaggle, session: Session) -> None:
    kaggle.service.kernels.clear()


@pytest.mark.parametrize("what", [cancelled, deleted])
def test_a_run_that_its_owner_ends(
    kaggle: Kaggle, train: Train, what: Callable[[Kaggle, Session], None]
) -> None:
    def run_and_end(session: Session) -> None:
        kaggle.run(session)
        what(kaggle, session)

    kaggle.service.runner, kaggle.service.queued_polls = run_and_end, 1
    ended = train()
    assert ended.code == 1
    assert f"was {what.__name__} on Kaggle" in ended.error
    assert "The run continues" not in ended.error


def test_a_fold_that_diverged_is_not_trained_again(kaggle: Kaggle, train: Train) -> None:
    kaggle.errors = {1: UserError("fold 1: lower train.learning_rate")}
    for _ in range(2):
        ended = train()
        assert ended.code == 2
        assert "fold 1: lower train.learning_rate" in ended.error
        assert fresh(kaggle.graph) == [True, False, True]
    assert kaggle.service.pushes() == 1


def test_the_finished_folds_of_a_session_whose_time_is_over_are_kept(
    kaggle: Kaggle, train: Train
) -> None:
    kaggle.unfinished = {2}
    ended = train()
    assert ended.code == 1
    assert "the session's time was over; kept: train fold 0, train fold 1; run the" in ended.error
    assert fresh(kaggle.graph) == [True, True, False]


def test_a_session_too_short_for_one_fold_is_not_repeated(kaggle: Kaggle, train: Train) -> None:
    kaggle.unfinished = {0, 1, 2}
    for _ in range(2):
        ended = train()
        assert ended.code == 1
        assert "the session's time was over; no fold is finished; ENGINE=local" in ended.error
    assert kaggle.service.pushes() == 1


@pytest.mark.parametrize("error", [ExternalError("no space"), ValueError("no space")])
def test_an_error_of_the_script_itself(kaggle: Kaggle, train: Train, error: Exception) -> None:
    kaggle.errors = {0: error}
    ended = train()
    assert ended.code == 1
    assert "no space" in ended.error
    assert "kept: train fold 1, train fold 2" in ended.error


# --- while it runs -------------------------------------------------------------------------------


class Clock:
    """A clock that only sleeping moves, and that Ctrl-C stops."""

    def __init__(self, stops: bool = False) -> None:
        self.now, self.stops = 0.0, stops

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if seconds and self.stops:
            raise KeyboardInterrupt
        self.now += seconds


@pytest.mark.parametrize("others", [0, 10**6])
def test_ctrl_c_says_whether_a_run_continues(
    kaggle: Kaggle, train: Train, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    kaggle.service.queued_polls, kaggle.service.others_running = 9, others
    monkeypatch.setattr(engine, "time", Clock(stops=True))
    ended = train()
    assert ended.code == 130
    assert ("The run continues on Kaggle" in ended.error) is not bool(others)
    assert kaggle.service.pushes() == (0 if others else 1)


def test_a_token_that_expires_leaves_the_run_at_work(kaggle: Kaggle, train: Train) -> None:
    def run_and_expire(session: Session) -> None:
        kaggle.run(session)
        kaggle.service.fail("GetKernelSessionStatus", status=401, message="expired")

    kaggle.service.runner, kaggle.service.running_polls = run_and_expire, 4
    ended = train()
    assert ended.code == 2
    assert "expired" in ended.error
    assert "The run continues on Kaggle" in ended.error
    assert train().code == 0
    assert kaggle.service.pushes() == 1


@pytest.mark.parametrize("fault", [{"status": 404}, {"kind": "drop"}], ids=str)
def test_a_log_that_fails_at_once_is_not_asked_for_without_pause(
    kaggle: Kaggle, train: Train, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    clock, looks, state = Clock(), [], kernels.state

    def look(slug: str) -> kernels.State | None:
        looks.append(clock.now)
        return state(slug)

    monkeypatch.setattr(engine, "time", clock)
    monkeypatch.setattr(engine, "POLL", 20.0)
    monkeypatch.setattr(kernels, "state", look)
    kaggle.service.running_polls = 4
    kaggle.service.fail("stream log", **fault, times=50)
    kaggle.service.fail("GetKernelSessionStatus", times=2)
    assert train().code == 0
    assert looks == [20.0 * number for number in range(len(looks))]
    assert kaggle.service.calls().count("stream log") < len(looks)


# --- faults of the connection --------------------------------------------------------------------

DAMAGE = [{"kind": "status", "status": 503}, {"kind": "html"}, {"kind": "corrupt"}]


@pytest.mark.parametrize("fault", DAMAGE, ids=str)
def test_damaged_output_is_fetched_again(
    kaggle: Kaggle, train: Train, fault: dict[str, Any]
) -> None:
    kaggle.service.fail("download", **fault, times=4)
    ended = train()
    assert ended.code == 0, ended.error
    assert any("of 5 in" in line for line in ended.lines)
    assert fresh(kaggle.graph) == [True] * 3


def test_output_that_stays_damaged(kaggle: Kaggle, train: Train) -> None:
    kaggle.service.fail("download", "status", status=503, times=50)
    ended = train()
    assert ended.code == 1
    assert "the results failed 5 times" in ended.error
    kaggle.service.faults["download"].clear()
    assert train().code == 0
    assert kaggle.service.pushes() == 1


@pytest.mark.parametrize("fault", [{"kind": "drop"}, {"status": 503}, {"kind": "html"}], ids=str)
def test_an_outage_is_waited_out(kaggle: Kaggle, train: Train, fault: dict[str, Any]) -> None:
    def run_then_fail(session: Session) -> None:
        kaggle.run(session)
        kaggle.service.fail("GetKernelSessionStatus", **fault, times=12)
        kaggle.service.fail("stream log", "drop", times=3)

    kaggle.service.runner, kaggle.service.running_polls = run_then_fail, 4
    ended = train()
    assert ended.code == 0, ended.error
    assert sum("waiting until Kaggle answers" in line for line in ended.lines) == 1
    assert kaggle.service.pushes() == 1


@needs_a_new_client
def test_a_log_that_is_cut_is_shown_once(kaggle: Kaggle, train: Train) -> None:
    kaggle.lines = ["one\n", "two\n", "three\n", "half a line"]
    kaggle.service.running_polls = 4
    kaggle.service.cut_after = [1, 2, 3]
    ended = train()
    assert ended.code == 0
    shown = [line for line in ended.lines if line.startswith(("Kaggle: o", "Kaggle: t"))]
    assert shown == ["Kaggle: one", "Kaggle: two", "Kaggle: three"]


def test_on_a_terminal_each_fold_has_a_bar(
    graph: stages.Graph, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = engine._Kaggle(graph.all("train"), graph.tasks, False, "none")
    ours.board.disable = False
    ours._show("fold 1, epoch 2/2: loss 1.0, accuracy 0.5, held out: loss 1.0; 3 s left")
    ours._show("hello")
    [bar] = ours.board.tasks
    assert (bar.description, bar.completed, bar.total) == ("train fold 1", 2, 2)
    assert bar.fields["where"] == "Kaggle, 3 s left"
    assert capsys.readouterr().out.splitlines()[-1] == "Kaggle: hello"


# --- digits kaggle -------------------------------------------------------------------------------


def test_runs_are_listed_and_deleted(kaggle: Kaggle, train: Train, digits: Digits) -> None:
    assert digits("kaggle", "list").lines == ["no run of this project is on Kaggle"]
    train()
    [name] = kaggle.service.kernels
    address = f"https://www.kaggle.com/code/digits-tester/{name}"
    assert digits("kaggle", "list").lines == [f"complete   2026-11-25 05:06 {address}"]
    session = kaggle.service.newest()
    session.status, kaggle.service.running_polls = "RUNNING", 10**6
    assert f"{name} is running: it stays" in digits("kaggle", "delete", "--yes").lines
    session.status, kaggle.service.refuses_deletion = "COMPLETE", "it is shared"
    refused = digits("kaggle", "delete", "--yes")
    assert refused.code == 1
    assert f"deleting {name}: Kaggle refuses it: it is shared" in refused.error
    kaggle.service.refuses_deletion = ""
    assert digits("kaggle", "delete", "--yes").lines == [f"deleted {name}"]
    assert not kaggle.service.kernels
    unknown = digits("kaggle", "delete", "nonsense")
    assert unknown.code == 2
    assert "there is no run nonsense" in unknown.error
