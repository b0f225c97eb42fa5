"""Send the submission to the competition, once, and wait for its score."""

import contextlib
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline import csvs
from pipeline.artifacts import add_metadata, fingerprint, metadata, require_fresh
from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import client, ledger
from pipeline.kaggle.client import CallError, Submission, with_retries
from pipeline.show import submit_command
from pipeline.stages import Graph

# Seconds between two looks at the list of submissions.
POLL = 5.0
# A share of the rows that no label of the competition comes near.
MOST_OF_ONE_LABEL = 0.5


@dataclass(frozen=True)
class Candidate:
    """A submission that may be sent: the file, and what its manifest says about it."""

    csv: Path
    rows: int
    sha256: str
    dataset: str
    preset: str
    oof_accuracy: float
    oof_standard_error: float

    @property
    def mark(self) -> str:
        """The part of a description that identifies this exact file in the list of submissions."""
        return f"sha256 {self.sha256[:16]}"


def candidate(graph: Graph, from_competition: bool = False) -> Candidate:
    """The submission for a dataset and a preset, if it may be sent.

    Args:
        graph: the tasks.
        from_competition: the user confirms that a folder or zip contains the competition's own
            files; this is recorded in its manifest.

    Raises:
        UserError: it is not up to date or not valid, or not made from the competition's own files.
    """
    download, write = graph.task("download"), graph.task("write")
    require_fresh(graph.up_to("write"), graph.command_here("submission"))
    source = download.params["source"]
    if from_competition:
        if source != "local":
            raise UserError("--from-competition is for a folder or zip of your own")
        for task in (download, write):  # the first is what counts; the second tells its reader
            add_metadata(task, "from_competition", True)
    csv = write.writes["submission"]
    rows = csvs.check_submission(csv, download.writes["sample_submission"])
    if source != "kaggle" and not metadata(download.manifest).get("from_competition"):
        why = (
            "public MNIST data contains the competition's answers, which makes a score worthless. "
            "Use DATASET=kaggle"
        )
        if source == "local":
            why = (
                "nothing says that its files are the competition's own. If they are, confirm it "
                f"once: {submit_command(graph)}"
            )
        raise UserError(f"{csv.name} was made from the source {source!r} and is not sent: {why}")
    found = metadata(write.manifest)
    return Candidate(
        csv=csv,
        rows=rows,
        sha256=fingerprint(csv),
        dataset=write.params["dataset"],
        preset=write.params["preset"],
        oof_accuracy=found["oof_accuracy"],
        oof_standard_error=found["oof_standard_error"],
    )


def submit(chosen: Candidate, ledger_path: Path, message: str, force: bool, wait: float) -> None:
    """Send a submission unless it was sent before, enter it in the ledger, wait for its score.

    Args:
        chosen: from `candidate`.
        ledger_path: submissions/ledger.csv.
        message: comes first in the description.
        force: send it even if this exact file was submitted before, or predicts mostly one label.
        wait: seconds to wait for the score; 0 not to wait.

    Raises:
        UserError: what it predicts cannot be meant.
        ExternalError: the service refuses or fails, no submission is left today, or the
            competition could not score the file.
    """
    if not math.isfinite(chosen.oof_accuracy):
        raise UserError(f"{chosen.csv.name}: its estimate is not finite; train again")
    if not force:
        _refuse_one_label(chosen.csv)
    # The lock is held until the submission is in the ledger: if two processes start at once, the
    # second one finds it there.
    with ledger.locked(ledger_path):
        entries = ledger.read(ledger_path)
        refs = with_retries("the list of submissions", lambda: _listed(chosen))
        refs += [int(entry.ref) for entry in entries if entry.sha256 == chosen.sha256]
        if refs and not force:
            ref = max(refs)
            print(f"this exact file was already submitted, as {ref}; FORCE=1 submits it again")
        else:
            _stop_if_none_left()
            ref = _send(chosen, message, refs)
            print(f"sent {chosen.csv.name} as submission {ref}")
        if str(ref) not in {entry.ref for entry in entries}:
            ledger.write(ledger_path, [*entries, _entry(chosen, message, ref)])
    _print_left()
    _report(_wait_for_score(ref, wait), ref, chosen, ledger_path)


def _refuse_one_label(csv: Path) -> None:
    """Raise UserError if most predictions are the same label, as those of a diverged network."""
    _, labels = csvs.read_labels(csv)
    rows = np.bincount(labels)
    if rows.max() > MOST_OF_ONE_LABEL * len(labels):
        raise UserError(
            f"{csv.name} predicts {rows.argmax()} for {rows.max():,} of {len(labels):,} rows, as a "
            "network does that has diverged; look at the report, or send it with FORCE=1"
        )


def refresh(ledger_path: Path) -> None:
    """Look up the scores of the ledger's pending submissions."""
    listed = {str(s.ref): s for s in with_retries("the list of submissions", client.submissions)}
    for entry in ledger.read(ledger_path):
        if entry.status == "PENDING" and entry.ref in listed:
            found = listed[entry.ref]
            ledger.record_score(ledger_path, entry.ref, found.status, found.public_score)


def _listed(chosen: Candidate) -> list[int]:
    """The refs under which Kaggle lists this exact file."""
    return [entry.ref for entry in client.submissions() if chosen.mark in entry.description]


def _send(chosen: Candidate, message: str, known: list[int]) -> int:
    """Send until it has arrived, once; returns its ref.

    Even if no answer comes, the submission may exist. So before each further attempt, and after the
    last, look in the list for this exact file, except among the `known` refs.
    """
    accuracy = f"{chosen.oof_accuracy:.5f} ± {chosen.oof_standard_error:.5f}"
    description = f"{chosen.preset}, out of fold {accuracy}, {chosen.mark}"
    description = f"{message} | {description}" if message else description
    tried = False

    def arrived() -> int | None:
        return next((ref for ref in _listed(chosen) if ref not in known), None)

    def attempt() -> int:
        nonlocal tried
        ref = arrived() if tried else None
        tried = True
        return ref or client.submit(chosen.csv, description)

    try:
        return with_retries("the submission", attempt)
    except ExternalError:
        with contextlib.suppress(CallError):
            if ref := arrived():
                return ref
        raise


def _stop_if_none_left() -> None:
    if _print_left() <= 0:
        now = datetime.now(UTC)
        minutes = 24 * 60 - 60 * now.hour - now.minute
        raise ExternalError(
            "no submission is left today; the next day starts at "
            f"{now + timedelta(days=1):%Y-%m-%d} 00:00 UTC, in {minutes // 60} h {minutes % 60} min"
        )


def _print_left() -> int:
    left = with_retries("the number of submissions left", client.submissions_left)
    print(f"submissions left today: {left}")
    return left


def _entry(chosen: Candidate, message: str, ref: int) -> ledger.Entry:
    return ledger.Entry(
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        file=chosen.csv.name,
        sha256=chosen.sha256,
        dataset=chosen.dataset,
        preset=chosen.preset,
        message=message,
        oof_accuracy=f"{chosen.oof_accuracy:.6f}",
        oof_standard_error=f"{chosen.oof_standard_error:.6f}",
        ref=str(ref),
        status="PENDING",
    )


def _wait_for_score(ref: int, wait: float) -> Submission | None:
    """The submission once it has been scored; None if it is still pending after `wait` seconds."""
    console = Console()
    end = time.monotonic() + wait
    with console.status("") as countdown:
        if wait and not console.is_terminal:
            print(f"waiting up to {wait:.0f} s for the score", flush=True)
        while (left := end - time.monotonic()) > 0:
            countdown.update(f"waiting for the score, {left:.0f} s at most")
            with contextlib.suppress(CallError):  # the next look may succeed
                for entry in client.submissions():
                    if entry.ref == ref and entry.status != "PENDING":
                        return entry
            time.sleep(min(POLL, left))
    return None


def _report(found: Submission | None, ref: int, chosen: Candidate, ledger_path: Path) -> None:
    """Record the score in the ledger, and compare it with the estimate."""
    if found is None:
        print(f"submission {ref} has no score yet; `digits ledger --refresh` looks it up")
        return
    ledger.record_score(ledger_path, str(ref), found.status, found.public_score)
    if found.status != "COMPLETE":
        raise ExternalError(f"Kaggle could not score submission {ref}: {found.error_description}")
    estimate, score = chosen.oof_accuracy, float(found.public_score)
    # Both are measured on a sample; the score's has at most as many rows as the test set.
    score_error = math.sqrt(score * (1 - score) / chosen.rows)
    agree = abs(score - estimate) <= 2 * math.hypot(chosen.oof_standard_error, score_error)
    print(
        f"public score {found.public_score}, out of fold {estimate:.5f} ± "
        f"{chosen.oof_standard_error:.5f}: they {'agree' if agree else 'do not agree'} within two "
        "standard errors of their difference"
    )
