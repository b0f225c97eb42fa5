"""Stage 7: send the submission to the competition, once, and wait for its score."""

import contextlib
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import csvs, kaggle_client, ledger
from pipeline.artifacts import fingerprint
from pipeline.errors import OutsideError, UserError
from pipeline.kaggle_client import CallError, Submission, patiently

# Seconds between two looks at the list of submissions.
POLL = 5.0


@dataclass(frozen=True)
class Candidate:
    """A submission that could be sent: the file, and what its manifests say of it."""

    csv: Path
    rows: int
    sha256: str
    dataset: str
    preset: str
    oof_accuracy: float
    oof_standard_error: float


def candidate(
    csv: Path, sample: Path, manifest: dict[str, Any], raw_manifest: dict[str, Any]
) -> Candidate:
    """What is to be sent, if it may be.

    Args:
        csv: the submission.
        sample: sample_submission.csv.
        manifest: the submission's.
        raw_manifest: that of the data that it was made from.

    Raises:
        UserError: the CSV is not in order, or not made from the competition's own files.
    """
    rows = csvs.check_submission(csv, sample)
    source, facts = raw_manifest["params"]["source"], raw_manifest["facts"]
    if source != "kaggle" and not facts.get("from_competition"):
        if source == "local":
            why = (
                "nothing says that its files are the competition's own. If they are, say so once: "
                "`digits submit --from-competition` with the same --dataset and --config"
            )
        else:
            why = (
                "public MNIST data holds the competition's answers, so that a score made with it "
                "is worth nothing. Use DATASET=kaggle"
            )
        raise UserError(f"{csv.name} was made from the source {source!r} and is not sent: {why}")
    return Candidate(
        csv=csv,
        rows=rows,
        sha256=fingerprint(csv),
        dataset=manifest["params"]["dataset"],
        preset=manifest["params"]["preset"],
        oof_accuracy=manifest["facts"]["oof_accuracy"],
        oof_standard_error=manifest["facts"]["oof_standard_error"],
    )


def submit(chosen: Candidate, book: Path, message: str, force: bool, wait: float) -> None:
    """Send a submission unless it was sent before, enter it in the ledger, wait for its score.

    Args:
        chosen: what `candidate` gave.
        book: submissions/ledger.csv.
        message: put before what the description says of itself.
        force: send it even if the same bytes were sent before.
        wait: seconds to wait for the score; 0 for none.

    Raises:
        OutsideError: the service refuses or fails, no submission is left today, or the
            competition could not score the file.
    """
    # The lock is held until the ledger knows of the submission: of two processes that start at
    # once, the second finds it there.
    with ledger.locked(book):
        entries = ledger.read(book)
        before = patiently("the list of submissions", kaggle_client.submissions)
        ref = None if force else _sent_before(chosen, entries, before)
        if ref is not None:
            print(f"these very bytes were sent before, as {ref}; FORCE=1 sends them again")
        else:
            _stop_if_none_left()
            ref = _send(chosen, _description(chosen, message), {entry.ref for entry in before})
            print(f"sent {chosen.csv.name} as submission {ref}")
        if str(ref) not in {entry.ref for entry in entries}:
            ledger.write(book, [*entries, _entry(chosen, message, ref)])
    print(f"submissions left today: {_left()}")
    _report(_wait_for_score(ref, wait), ref, chosen, book)


def refresh(book: Path) -> None:
    """Look up the scores that were pending when the ledger was last written."""
    listed = {
        str(s.ref): s for s in patiently("the list of submissions", kaggle_client.submissions)
    }
    for entry in ledger.read(book):
        if entry.status == "PENDING" and entry.ref in listed:
            found = listed[entry.ref]
            ledger.settle(book, entry.ref, found.status, found.public_score)


def _sent_before(
    chosen: Candidate, entries: list[ledger.Entry], listed: list[Submission]
) -> int | None:
    """The ref under which the same bytes were sent, by the ledger or by Kaggle's own list."""
    refs = [int(entry.ref) for entry in entries if entry.sha256 == chosen.sha256]
    refs += [submission.ref for submission in listed if _mark(chosen) in submission.description]
    return max(refs, default=None)


def _mark(chosen: Candidate) -> str:
    """By this the list of submissions tells whether it has these bytes."""
    return f"sha256 {chosen.sha256[:16]}"


def _description(chosen: Candidate, message: str) -> str:
    accuracy = f"{chosen.oof_accuracy:.5f} ± {chosen.oof_standard_error:.5f}"
    described = f"{chosen.preset}, out of fold {accuracy}, {_mark(chosen)}"
    return f"{message} | {described}" if message else described


def _send(chosen: Candidate, description: str, known: set[int]) -> int:
    """Send until it has arrived, once; returns its ref.

    When no answer comes, the submission may exist all the same. So before every further try, and
    after the last, the list is asked for one with these bytes that is not among the `known` ones.
    """
    tried = False

    def attempt() -> int:
        nonlocal tried
        arrived = _arrived(chosen, known) if tried else None
        tried = True
        return arrived or kaggle_client.submit(chosen.csv, description)

    try:
        return patiently("the submission", attempt)
    except OutsideError:
        arrived = None
        with contextlib.suppress(CallError):
            arrived = _arrived(chosen, known)
        if arrived is None:
            raise
        return arrived


def _arrived(chosen: Candidate, known: set[int]) -> int | None:
    listed = kaggle_client.submissions()
    return next(
        (s.ref for s in listed if s.ref not in known and _mark(chosen) in s.description), None
    )


def _stop_if_none_left() -> None:
    left = _left()
    print(f"submissions left today: {left}")
    if left <= 0:
        now = datetime.now(UTC)
        tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        minutes = int((tomorrow - now).total_seconds() // 60)
        raise OutsideError(
            "no submission is left today; the next day begins at "
            f"{tomorrow:%Y-%m-%d %H:%M} UTC, in {minutes // 60} h {minutes % 60} min"
        )


def _left() -> int:
    return patiently("the number of submissions left", kaggle_client.submissions_left)


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
    """The submission once it is no longer pending; None if it still is after `wait` seconds."""
    console = Console()
    end = time.monotonic() + wait
    with console.status("") as countdown:
        if wait and not console.is_terminal:
            print(f"waiting up to {wait:.0f} s for the score", flush=True)
        next_look = time.monotonic()
        while (now := time.monotonic()) < end:
            countdown.update(f"waiting for the score, {end - now:.0f} s at most")
            if now >= next_look:
                next_look = now + POLL
                with contextlib.suppress(CallError):  # the next look may go better
                    found = next((s for s in kaggle_client.submissions() if s.ref == ref), None)
                    if found is not None and found.status != "PENDING":
                        return found
            time.sleep(0.5)
    return None


def _report(found: Submission | None, ref: int, chosen: Candidate, book: Path) -> None:
    """Enter the score in the ledger and say how it compares with the estimate."""
    if found is None:
        print(f"submission {ref} has no score yet; `digits ledger --refresh` looks again")
        return
    ledger.settle(book, str(ref), found.status, found.public_score)
    if found.status != "COMPLETE":
        raise OutsideError(f"Kaggle could not score submission {ref}: {found.error}")
    estimate, score = chosen.oof_accuracy, float(found.public_score)
    # Both are measured on a sample; that of the score is at most as large as the test set.
    score_error = math.sqrt(score * (1 - score) / chosen.rows)
    agree = abs(score - estimate) <= 2 * math.hypot(chosen.oof_standard_error, score_error)
    print(
        f"public score {found.public_score}, out of fold {estimate:.5f} ± "
        f"{chosen.oof_standard_error:.5f}: they {'agree' if agree else 'do not agree'} within two "
        "standard errors of their difference"
    )
