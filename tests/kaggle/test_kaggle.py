"""The exchange with Kaggle: the unmodified client against a stand-in service on loopback.

Each test checks what the user sees, the exit code, the files, and what arrived at the service. In
all of them, no secret is shown, and no host but loopback is contacted.
"""

import contextlib
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from conftest import (
    PATIENCE,
    build,
    contents,
    digit_images,
    fake_environment,
    run_digits,
    write_digits,
)
from kaggle_service import SECRETS, TOKEN, KaggleService, call_in_process

from pipeline import cli, submit
from pipeline.download import kaggle
from pipeline.errors import UserError
from pipeline.files import fingerprint, read_json, write_json
from pipeline.kaggle import client, inside, ledger
from pipeline.kaggle.client import CallError

# Without data for so long, a download has stalled. Where a test lets nothing stall, it is longer:
# on a busy machine, the client alone takes seconds to start.
STALL_SECONDS = 4.0
# Whether the client can ask how many submissions are left; kaggle 2.0 cannot.
CLIENT = Path(str(find_spec("kaggle").origin)).parent / "api" / "kaggle_api_extended.py"
COUNTS = "def competition_get_submission_limits" in CLIENT.read_text(encoding="utf-8")
CSVS = ("sample_submission.csv", "test.csv", "train.csv")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The competition's three files, tiny."""
    return contents(write_digits(tmp_path_factory.mktemp("competition")))


@pytest.fixture
def service(files: dict[str, bytes], project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A service that knows the labels, and that this process and its children talk to."""
    _, labels = digit_images(20)
    solution = {i: int(label) for i, label in enumerate(labels, start=1)}
    with KaggleService(files, solution) as running:
        running.adopt(project / "home", monkeypatch)
        monkeypatch.setenv("DIGITS_PAUSE_SECONDS", "0.05")
        monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
        monkeypatch.setattr(client, "STALL", 60.0)
        monkeypatch.setattr(client, "call", call_in_process)
        monkeypatch.setattr(submit, "POLL", 0.1)
        yield running
        assert running.strays == [], "another host was contacted"


def digits(project: Path, *arguments: str, process: bool = False) -> Any:
    """Run a command, and check that it shows no secret, no address and no traceback."""
    done = run_digits(project, *arguments) if process else in_this_process(*arguments)
    shown = done.stdout + done.stderr
    for secret in SECRETS:
        assert secret not in shown
    assert "Traceback" not in shown
    assert "localhost" not in shown
    return done


def in_this_process(*arguments: str) -> Any:
    """Run the command line here, as `run_digits` does in a process of its own."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in "oe"]
    with (
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        patch.object(sys, "argv", ["digits", *arguments]),
        pytest.raises(SystemExit) as caught,
    ):
        cli.main()
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return SimpleNamespace(returncode=caught.value.code or 0, stdout=stdout, stderr=stderr)


def fail(service: KaggleService, call: str, kind: str = "status", **fault: Any) -> None:
    """Let a call fail (see `KaggleService.fail`); one that stalls is given up soon."""
    if kind == "stall":
        client.STALL = STALL_SECONDS  # the fixture restores it
    service.fail(call, kind, **fault)


def only_line(text: str) -> str:
    """The text, which must be one line."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.rstrip()


def raw_files(project: Path) -> set[str]:
    """The names of the files in data/kaggle/raw that are not hidden."""
    return {path.name for path in (project / "data/kaggle/raw").glob("[!.]*")}


# --- download ------------------------------------------------------------------------------------

COMPLETE = {*CSVS, "manifest.json"}


def assert_complete(project: Path, files: dict[str, bytes]) -> None:
    assert raw_files(project) == COMPLETE
    for name in CSVS:
        assert (project / "data/kaggle/raw" / name).read_bytes() == files[name]
    assert not list((project / "data").rglob("*.zip")), "the archive should be gone"
    assert not list((project / "data").rglob(".*.partial")), "the staging folder should be gone"


def test_download_leaves_the_three_files(service, project, files):
    done = digits(project, "download", process=True)
    assert done.returncode == 0, done.stderr
    assert_complete(project, files)
    # The service's dates are years old; the files have their own.
    assert time.time() - (project / "data/kaggle/raw/train.csv").stat().st_mtime < 600


TRANSIENT = {
    "busy": ("DownloadDataFiles", {"status": 429, "headers": {"Retry-After": "1"}}, "429"),
    "a page instead of an answer": ("DownloadDataFiles", {"kind": "html"}, "not the archive"),
    "storage broken": ("download", {"status": 503}, "503"),
    "half an archive": ("download", {"kind": "short"}, "digit-recognizer.zip"),
    "flipped bytes": ("download", {"kind": "corrupt"}, "is damaged"),
    "stalled call": ("DownloadDataFiles", {"kind": "stall"}, f"for {STALL_SECONDS:.0f} s"),
    "stalled download": ("download", {"kind": "stall"}, f"for {STALL_SECONDS:.0f} s"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fault", "part"), TRANSIENT.values(), ids=TRANSIENT)
def test_a_transient_fault_is_retried(service, project, files, call, fault, part):
    fail(service, call, **fault)
    done = digits(project, "download")
    assert done.returncode == 0, done.stderr
    assert part in done.stdout
    assert "attempt 2 of 5" in done.stdout
    assert_complete(project, files)


@pytest.mark.slow
@pytest.mark.parametrize("resume", [{"kind": "html"}, {"kind": "corrupt"}])
def test_a_truncated_download_whose_resume_fails_is_repeated(service, project, files, resume):
    service.fail("download", "truncate")
    service.fail("resume", **resume)
    done = digits(project, "download")
    assert done.returncode == 0, done.stderr
    assert_complete(project, files)


@pytest.mark.slow
def test_a_large_download_that_stalls_is_resumed(project, service, tmp_path):
    large = contents(write_digits(tmp_path / "large", train_rows=4000, test_rows=20))
    with KaggleService(large) as bigger:
        fail(bigger, "download", "stall")
        os.environ.update(bigger.environment(project / "home"))  # the fixture restores it
        done = digits(project, "download")
        assert done.returncode == 0, done.stderr
        resumed = [r for r in bigger.requests if r.call == "GET file" and "Range" in r.headers]
        assert len(resumed) == 1
        assert int(resumed[0].headers["Range"].removeprefix("bytes=").removesuffix("-")) > 0
        assert "If-Range" in resumed[0].headers
    assert_complete(project, large)


PERMANENT = {
    "busy forever": ("DownloadDataFiles", {"status": 429}, 5),
    "corrupt forever": ("download", {"kind": "corrupt"}, 5),
    "refused": ("DownloadDataFiles", {"status": 400, "message": "no such thing"}, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fault", "attempts"), PERMANENT.values(), ids=PERMANENT)
def test_a_permanent_fault_ends_in_one_line(service, project, files, call, fault, attempts):
    service.fail(call, times=1000, **fault)
    done = digits(project, "download")
    assert done.returncode == 1
    assert only_line(done.stderr).startswith("digits: the download")
    assert service.calls().count("DownloadDataFiles") == attempts
    assert raw_files(project) == set()
    assert not list((project / "data").rglob("*.zip"))
    service.faults[call].clear()
    assert digits(project, "download").returncode == 0
    assert_complete(project, files)


def test_rules_that_were_not_accepted_give_the_address_of_their_page(service, project):
    service.rules_accepted = False
    done = digits(project, "download")
    assert done.returncode == 2
    assert "https://www.kaggle.com/competitions/digit-recognizer/rules" in only_line(done.stderr)
    assert service.calls().count("DownloadDataFiles") == 1
    assert raw_files(project) == set()


def test_bad_credentials_are_named_and_not_retried(service, project, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    done = digits(project, "download")
    assert done.returncode == 2
    assert "refuses the key in KAGGLE_USERNAME and KAGGLE_KEY (401" in only_line(done.stderr)
    assert service.calls().count("DownloadDataFiles") == 1
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong")
    done = digits(project, "download")
    assert done.returncode == 2
    line = only_line(done.stderr)
    assert "refuses the token in KAGGLE_API_TOKEN (401" in line
    assert "it hides KAGGLE_USERNAME and KAGGLE_KEY: remove it" in line
    assert "KGAT_wrong" not in done.stdout + done.stderr


def test_a_good_token_is_enough(service, project, monkeypatch, files):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert digits(project, "download").returncode == 0
    assert_complete(project, files)


def test_a_login_that_has_expired_is_to_be_renewed(service, project, monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    login = project / "home" / ".kaggle" / "credentials.json"
    login.parent.mkdir()
    login.write_text(json.dumps({"refresh_token": "old", "username": "someone"}))
    done = digits(project, "download")
    assert done.returncode == 2
    line = only_line(done.stderr)
    assert "the login in home/.kaggle/credentials.json" in line
    assert "run `kaggle auth login` again" in line
    assert "settings" not in line, "a new token is not needed"
    assert "GenerateAccessToken" in service.calls()


def test_a_number_of_seconds_that_is_none_is_refused(service, project, monkeypatch):
    monkeypatch.setenv("DIGITS_STALL_SECONDS", "60s")
    done = digits(project, "ledger", "--refresh", process=True)
    assert done.returncode == 2
    assert 'DIGITS_STALL_SECONDS must be a number of seconds, such as 60, not "60s"' in done.stderr
    assert service.requests == []


def test_verbose_shows_no_secret(service, project, monkeypatch):
    monkeypatch.setenv("VERBOSE", "1")
    assert digits(project, "download", process=True).returncode == 0  # `digits` looks for secrets
    service.fail("download", status=403)
    done = digits(project, "download", "--force", process=True)
    assert done.returncode == 2
    assert "?" not in done.stderr, "an address with its signature"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("test.csv", None, "test.csv"),
        ("train.csv", b"a,b\n1,2\n", "train.csv, line 1: "),
    ],
)
def test_an_archive_with_other_files_is_refused(project, files, service, name, content, part):
    other = {**files, name: content}
    if content is None:
        del other[name]
    with KaggleService(other) as changed:
        os.environ.update(changed.environment(project / "home"))
        done = digits(project, "download")
    assert done.returncode == 1
    assert part in only_line(done.stderr)
    assert raw_files(project) == set()


@pytest.mark.slow
def test_a_killed_download_blocks_nothing(service, project, files):
    fail(service, "download", "stall")
    child = subprocess.Popen([sys.executable, "-m", "pipeline", "download"], cwd=project)
    deadline = time.monotonic() + 60
    while "GET file" not in service.calls() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert raw_files(project) == set()
    assert digits(project, "download").returncode == 0
    assert_complete(project, files)


@pytest.fixture
def attached(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Kaggle notebook's input."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setattr(inside, "KAGGLE", project / "kaggle")
    folder = project / "kaggle" / "input"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("place", ["competitions/digit-recognizer", "digit-recognizer"])
def test_inside_a_kaggle_notebook_nothing_is_downloaded(service, project, files, attached, place):
    # A dataset, which may bear the same name, has other files.
    (attached / "digit-recognizer").mkdir()
    (attached / "digit-recognizer" / "readme.txt").touch()
    (attached / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (attached / place / name).write_bytes(content)
    target = project / "target"
    target.mkdir()
    kaggle.fetch(target, {})
    assert contents(target) == files
    assert service.requests == []


def test_a_notebook_without_the_competition_says_what_to_click(service, project, attached):
    (attached / "digit-recognizer").mkdir()
    with pytest.raises(UserError, match="Add input, Competitions, Digit Recognizer"):
        kaggle.fetch(project, {})
    assert service.requests == []


# --- submit --------------------------------------------------------------------------------------

FAST = ("--config", "demo", "--wait", "20")


@pytest.fixture
def submission(service, project) -> Path:
    """A submission made from what was downloaded from the service."""
    build("kaggle", "demo")
    service.requests.clear()
    return project / "submissions/kaggle-demo.csv"


def ledger_of(project: Path) -> list[dict[str, str]]:
    path = project / "submissions/ledger.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_submit_sends_waits_and_records_the_score(service, project, submission):
    service.pending_polls = 1
    done = digits(project, "submit", *FAST, "--message", "a first, with a comma")
    assert done.returncode == 0, done.stderr
    (sent,) = service.submissions
    assert sent.content == submission.read_bytes()
    assert sent.description.startswith("a first, with a comma | demo, out of fold 1.00000 ± ")
    assert sent.sha256[:16] in sent.description
    for left in (10, 9) if COUNTS else ("unknown",):
        assert f"submissions left today: {left}" in done.stdout
    assert "public score 1.00000, out of fold 1.00000 ± 0.00000: they agree" in done.stdout
    [entry] = ledger.read(project / "submissions/ledger.csv")
    assert (entry.file, entry.sha256) == ("kaggle-demo.csv", sent.sha256)
    assert entry.message == "a first, with a comma"
    assert (entry.ref, entry.status, entry.public_score) == (str(sent.ref), "COMPLETE", "1.00000")
    assert entry.submitted_at.endswith("+00:00")


def test_a_client_without_a_call_says_what_it_lacks(service, project):
    with pytest.raises(CallError, match="no attribute 'a_call_of_later_versions'") as caught:
        client.call("a_call_of_later_versions", {})
    assert not caught.value.retryable
    assert "distclean" not in caught.value.remedy


@pytest.mark.slow
def test_the_number_of_submissions_left_is_only_information(service, project, submission):
    service.fail("GetSubmissionLimits", status=404, times=1000)
    done = digits(project, "submit", *FAST)
    assert done.returncode == 0, done.stderr
    assert "submissions left today: unknown" in done.stdout
    assert len(service.submissions) == 1


@pytest.mark.slow
def test_a_score_far_from_the_estimate_is_reported(service, project, submission):
    service.solution = dict.fromkeys(range(1, 21), 0)
    done = digits(project, "submit", *FAST)
    assert "public score 0.10000" in done.stdout
    assert "do not agree within two standard errors" in done.stdout


@pytest.mark.slow
def test_the_same_file_is_not_submitted_twice(service, project, submission):
    assert digits(project, "submit", *FAST).returncode == 0
    again = digits(project, "submit", *FAST)
    assert again.returncode == 0
    assert "already submitted" in again.stdout
    # Without a ledger, the list on Kaggle shows what was sent.
    (project / "submissions/ledger.csv").unlink()
    assert digits(project, "submit", *FAST).returncode == 0
    assert len(service.submissions) == len(ledger_of(project)) == 1
    assert digits(project, "submit", *FAST, "--force").returncode == 0
    assert len(service.submissions) == len(ledger_of(project)) == 2


RETRIED = {
    "failed upload": ("upload", {"status": 403}),
    "stalled upload": ("upload", {"kind": "stall"}),
    "refused without an error": ("CreateSubmission", {"kind": "refused"}),
    "dropped submit": ("CreateSubmission", {"kind": "drop"}),
    "lost answer": ("CreateSubmission", {"kind": "lost"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fault"), RETRIED.values(), ids=RETRIED)
def test_a_transient_fault_still_makes_one_submission(service, project, submission, call, fault):
    fail(service, call, **fault)
    done = digits(project, "submit", *FAST)
    assert done.returncode == 0, done.stderr
    (sent,) = service.submissions
    assert sent.content == submission.read_bytes()
    (entry,) = ledger_of(project)
    assert (entry["ref"], entry["status"]) == (str(sent.ref), "COMPLETE")


@pytest.mark.slow
def test_a_lost_answer_to_a_forced_submission_is_found_among_the_new(service, project, submission):
    assert digits(project, "submit", *FAST).returncode == 0
    service.fail("CreateSubmission", "lost")
    assert digits(project, "submit", *FAST, "--force").returncode == 0
    assert [entry["ref"] for entry in ledger_of(project)] == [
        str(sent.ref) for sent in service.submissions
    ]
    assert len(service.submissions) == 2


@pytest.mark.slow
def test_a_lost_answer_is_not_sent_again_where_the_list_lags(service, project, submission):
    service.list_lag = 2
    service.fail("CreateSubmission", "lost")
    assert digits(project, "submit", *FAST).returncode == 0
    (sent,) = service.submissions
    assert [entry["ref"] for entry in ledger_of(project)] == [str(sent.ref)]


@pytest.mark.slow
def test_a_second_clone_that_submits_the_same_csv_at_once_is_reported(
    service, project, submission, monkeypatch, capsys
):
    """Both looked before either had sent: no lock spans two clones."""
    monkeypatch.setattr(submit, "POLL", 0.1)
    entry = submit.candidate(build("kaggle", "demo"))
    listed = submit._listed

    def other_clone_sends_first(chosen):
        refs = listed(chosen)
        if not service.submissions:
            client.submit(submission, submit._mark(entry))
        return refs

    monkeypatch.setattr(submit, "_listed", other_clone_sends_first)
    submit.submit(submission, entry, project / "submissions/ledger.csv", "", False, 0)
    first, second = service.submissions
    assert [each["ref"] for each in ledger_of(project)] == [str(second.ref)]
    assert f"also submitted as {first.ref}" in capsys.readouterr().out


REFUSED = {
    "bad request": ("CreateSubmission", {"status": 400, "message": "what is this"}),
    "quota": ("CreateSubmission", {"status": 403, "message": "You have exceeded your quota"}),
    "credentials": ("ListSubmissions", {"status": 401}),
    "broken forever": ("StartSubmissionUpload", {"status": 503, "times": 1000}),
}


@pytest.mark.slow
def test_a_csv_of_one_label_is_only_sent_by_force(service, project, submission):
    rows = submission.read_text().split("\n")
    rows[1:-1] = [f"{row.split(',')[0]},3" for row in rows[1:-1]]
    submission.write_text("\n".join(rows))
    manifest = submission.with_suffix(".json")
    content = json.loads(manifest.read_text())
    del content["sha256"]
    content["outputs"] = {name: fingerprint(submission) for name in content["outputs"]}
    write_json(manifest, content)
    done = digits(project, "submit", *FAST)
    assert done.returncode == 2
    assert "predicts 3 for 20 of 20 rows" in only_line(done.stderr)
    assert "`digits submit --force` or `make submit FORCE=1`" in done.stderr
    assert service.requests == []
    assert digits(project, "submit", *FAST, "--force").returncode == 0
    assert len(service.submissions) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("call", "fault"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_ends_in_one_line_and_no_entry(service, project, submission, call, fault):
    before = submission.read_bytes()
    fail(service, call, **fault)
    done = digits(project, "submit", *FAST)
    can_fix = fault.get("status") in (401, 403)
    assert done.returncode == (2 if can_fix else 1)
    line = only_line(done.stderr)
    if "message" in fault:
        assert f"Kaggle refuses it ({fault['status']}): {fault['message']}" in line
        assert "/rules" not in line
    assert service.submissions == []
    assert ledger_of(project) == []
    assert submission.read_bytes() == before
    service.faults[call].clear()
    assert digits(project, "submit", *FAST).returncode == 0
    assert len(service.submissions) == 1


@pytest.mark.skipif(not COUNTS, reason="this version of the client cannot ask")
def test_with_no_submission_left_nothing_is_uploaded(service, project, submission):
    service.submissions_left = 0
    done = digits(project, "submit", *FAST)
    assert done.returncode == 1
    assert "submissions left today: 0" in done.stdout
    assert "the next day starts at" in only_line(done.stderr)
    assert "00:00 UTC" in done.stderr
    assert "PUT upload" not in service.calls()
    assert ledger_of(project) == []


@pytest.mark.slow
def test_a_submission_that_cannot_be_scored_shows_the_reason_of_the_service(
    service, project, submission
):
    service.score_error = "Submission must have 28000 rows"
    done = digits(project, "submit", *FAST)
    assert done.returncode == 1
    assert "Submission must have 28000 rows" in only_line(done.stderr)
    assert ledger_of(project)[0]["status"] == "ERROR"


# The service has no score yet, or says COMPLETE before it has one.
WITHOUT_SCORE = [
    ({"pending_polls": None}, {"pending_polls": 0}),
    ({"scores_hidden": True}, {"scores_hidden": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), WITHOUT_SCORE)
def test_a_score_that_does_not_come_can_be_looked_up_later(
    service, project, submission, before, after
):
    vars(service).update(before)
    done = digits(project, "submit", "--config", "demo", "--wait", "2")
    assert done.returncode == 0, done.stderr
    assert "digits ledger --refresh" in done.stdout
    assert digits(project, "ledger", "--refresh").returncode == 0
    assert ledger_of(project)[0]["status"] == "PENDING"
    vars(service).update(after)
    assert "1.00000" in digits(project, "ledger", "--refresh").stdout
    [entry] = ledger_of(project)
    assert (entry["status"], entry["public_score"]) == ("COMPLETE", "1.00000")


@pytest.mark.slow
def test_two_at_once_make_one_submission(service, project, submission):
    words = [sys.executable, "-m", "pipeline", "submit", *FAST]
    both = [subprocess.Popen(words, cwd=project) for _ in range(2)]
    assert [each.wait(PATIENCE) for each in both] == [0, 0]
    assert len(service.submissions) == len(ledger_of(project)) == 1


def test_the_ledger_shows_the_best_first(project):
    entry = ledger.Entry(submitted_at="2026-01-01", file="f.csv", message="NA")
    path = project / "submissions/ledger.csv"
    scores = {"second": "0.99000", "unscored": "", "first": "0.99500"}
    entries = [replace(entry, preset=name, public_score=score) for name, score in scores.items()]
    ledger.write(path, entries)
    assert ledger.read(path) == entries
    shown = digits(project, "ledger").stdout
    assert shown.index("first") < shown.index("second") < shown.index("unscored")
    path.write_text("a,b\n1,2\n")
    assert digits(project, "ledger").returncode == 2


# --- what may be sent ----------------------------------------------------------------------------


def test_predictions_from_public_labels_are_never_sent(service, project):
    build("sample", "demo")
    done = digits(project, "submit", "--dataset", "sample", "--config", "demo")
    assert done.returncode == 2
    assert "competition's answers" in only_line(done.stderr)
    forced = digits(
        project, "submit", "--dataset", "sample", "--config", "demo", "--from-competition"
    )
    assert forced.returncode == 2
    assert service.requests == []


@pytest.mark.slow
def test_a_folder_is_sent_once_its_owner_has_confirmed_it(service, project, files):
    own = project / "own"
    own.mkdir()
    for name, content in files.items():
        (own / name).write_bytes(content)
    build("own", "demo")
    choice = ("--dataset", "own", "--config", "demo", "--wait", "0")
    refused = digits(project, "submit", *choice)
    assert refused.returncode == 2
    assert "--from-competition" in only_line(refused.stderr)
    assert service.requests == []
    assert digits(project, "submit", *choice, "--from-competition").returncode == 0
    assert len(service.submissions) == 1
    # It was recorded: confirming it once is enough.
    assert digits(project, "submit", *choice, "--force").returncode == 0
    assert len(service.submissions) == 2


def test_a_csv_of_the_user_is_sent_once_without_an_estimate(service, project, submission):
    rows = submission.read_text().splitlines()
    mine = project / "blend.csv"
    mine.write_text("\n".join([rows[0], "1,9", *rows[2:], ""]))
    for _ in range(2):
        done = digits(project, "submit", "blend.csv", "--message", "blended", "--wait", "20")
        assert done.returncode == 0, done.stderr
    assert "already submitted" in done.stdout
    (sent,) = service.submissions
    assert sent.content == mine.read_bytes()
    assert sent.description == f"blended | blend.csv, sha256 {sent.sha256[:16]}"
    (entry,) = ledger_of(project)
    assert (entry["file"], entry["preset"], entry["oof_accuracy"]) == ("blend.csv", "", "")
    assert entry["public_score"] == "0.95000"
    assert "public score 0.95000\n" in done.stdout


@pytest.mark.parametrize("packed", ["blend.csv.gz", "blend.zip"])
def test_a_packed_csv_is_sent_unpacked(service, project, submission, packed):
    content = submission.read_bytes()
    if packed.endswith(".gz"):
        (project / packed).write_bytes(gzip.compress(content))
    else:
        with zipfile.ZipFile(project / packed, "w") as archive:
            archive.writestr("blend.csv", content)
    done = digits(project, "submit", packed, "--wait", "0")
    assert done.returncode == 0, done.stderr
    (sent,) = service.submissions
    assert (sent.file_name, sent.content) == ("blend.csv", content)


def test_a_copy_of_our_own_csv_is_recognised(service, project, submission):
    copied = project / "copy.csv"
    copied.write_bytes(submission.read_bytes().replace(b"\n", b"\r\n"))
    (project / "data/kaggle/demo/fold-0/oof.npy").unlink()  # stale or not, it is what it is
    assert digits(project, "submit", "copy.csv", "--wait", "0").returncode == 0
    (entry,) = ledger_of(project)
    assert (entry["preset"], entry["oof_accuracy"]) == ("demo", "1.00000")


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "ImageId,Label\n1,3\n"])
def test_a_csv_that_the_competition_would_refuse_is_not_sent(service, project, submission, content):
    (project / "mine.csv").write_text(content)
    done = digits(project, "submit", "mine.csv")
    assert done.returncode == 2
    assert "mine.csv" in only_line(done.stderr)
    assert service.requests == []


def test_a_csv_from_public_labels_is_recognised_under_any_name(service, project, submission):
    """A dataset with the competition's number of rows, whose labels are public."""
    manifest = read_json(submission.with_suffix(".json"))
    manifest["params"]["source"] = "mnist"
    write_json(submission.with_suffix(".json"), manifest)
    header, *rows = submission.read_text().splitlines()
    (project / "copy.csv").write_text("\r\n".join([header, *rows[::-1], ""]), newline="")
    done = digits(project, "submit", "copy.csv")
    assert done.returncode == 2
    assert "copy.csv is kaggle-demo.csv, which was made from the source 'mnist'" in done.stderr
    assert "answers" in only_line(done.stderr)
    done = digits(project, "submit", "copy.csv", "--dataset", "sample")
    assert done.returncode == 2
    assert "answers" in only_line(done.stderr)
    assert service.requests == []


def test_a_csv_without_the_competitions_files_says_what_to_do(service, project):
    (project / "mine.csv").write_text("ImageId,Label\n1,3\n")
    done = digits(project, "submit", "mine.csv")
    assert done.returncode == 2
    assert "sample_submission.csv is missing: run `make download`" in only_line(done.stderr)


def test_a_stale_or_broken_submission_is_not_sent(service, project, submission):
    submission.write_text(submission.read_text().replace("\n1,", "\n1,1"))
    done = digits(project, "submit", *FAST)
    assert done.returncode == 2
    assert "submission" in only_line(done.stderr)
    assert service.requests == []


# --- the whole way -------------------------------------------------------------------------------


@pytest.mark.slow
def test_make_submit_walks_the_whole_way(service, project, files):
    """Download, train a tiny network, submit, and find the score in the ledger."""
    venv = fake_environment(project)
    # One epoch may predict mostly one label, which only FORCE sends.
    variables = (f"VENV={venv}", "CONFIG=tiny.toml", "FORCE=1", "MESSAGE=it's the first")
    (project / "tiny.toml").write_text(
        "[split]\nfolds = 1\nholdout = 0.3\n[train]\nwidth = 4\nepochs = 1\nbatch_size = 16\n"
    )
    done = subprocess.run(
        ["make", *variables, "submit"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (sent,) = service.submissions
    assert sent.content == (project / "submissions/kaggle-tiny.csv").read_bytes()
    assert sent.description.startswith("it's the first | tiny, out of fold ")
    (entry,) = ledger_of(project)
    assert entry["public_score"] == sent.public_score
    assert (entry["preset"], entry["message"]) == ("tiny", "it's the first")
    assert f"public score {sent.public_score}" in done.stdout
