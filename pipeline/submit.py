"""Send the submission to the competition, once, and wait for its score."""

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import check, csvs
from pipeline.artifacts import add_metadata, metadata, require_fresh
from pipeline.errors import ExternalError, UserError
from pipeline.estimate import standard_error
from pipeline.files import fingerprint, read_json
from pipeline.kaggle import client, ledger
from pipeline.kaggle.client import CallError, Submission, with_retries
from pipeline.kaggle.ledger import Entry
from pipeline.stages import Graph

# Seconds between two looks at the list of submissions.
POLL = 5.0
# How often to look for a submission whose answer was lost: the list may lag behind.
LOOKS = 3
FORCED = "`digits submit --force` or `make submit FORCE=1`"
# A share of the rows that no label of the competition comes near.
MOST_OF_ONE_LABEL = 0.5


def candidate(graph: Graph, from_competition: bool = False) -> Entry:
    """Check that the submission of a dataset and a preset may be sent; return its ledger entry.

    `from_competition` confirms that a folder or zip contains the competition's own files; this is
    recorded in its manifest. Raises UserError if the CSV is stale or not valid, or if nothing says
    that it was made from these files.
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
    check.check_submission(csv, download.writes["sample_submission"])
    if source != "kaggle" and not metadata(download.manifest).get("from_competition"):
        raise UserError(_refusal(csv.name, source, graph.command_to_confirm()))
    return _entry(csv, write.params, metadata(write.manifest))


def candidate_file(csv: Path, graph: Graph) -> Entry:
    """Check that a user's CSV may be submitted, and return its ledger entry.

    A CSV that was written here and predicts the same for each row tells where this one comes from.
    Raises UserError if it does not fit the sample submission of the dataset, or is known not
    to be made from the competition's own files.
    """
    download, ours = graph.task("download"), graph.task("write").folder
    if download.params["source"] not in ("kaggle", "local"):
        raise UserError(_refusal(csv.name, download.params["source"]))
    sample = download.writes["sample_submission"]
    if not sample.exists():
        raise UserError(f"{sample} is missing: run `{graph.command_here('download')}`")
    check.compare_submission(csv, sample)
    entry, labels = Entry(file=csv.name, sha256=fingerprint(csv)), _by_id(csv)
    for manifest in sorted(ours.glob("*.json")):
        written = manifest.with_suffix(".csv")
        found = read_json(manifest) or {}
        if found.get("stage") != "write" or not written.exists():
            continue
        try:
            theirs = _by_id(written)
        except UserError:  # a damaged CSV is no evidence
            continue
        if not np.array_equal(labels, theirs):
            continue
        params, known = found["params"], found["metadata"]
        if params["source"] != "kaggle" and not known.get("from_competition"):
            raise UserError(_refusal(f"{csv.name} is {written.name}, which", params["source"]))
        entry = _entry(csv, params, known)
    return entry


def _by_id(csv: Path) -> NDArray[np.int64]:
    """Read the labels of a submission, in the order of their ids, int64 (n,)."""
    ids, labels = csvs.read_labels(csv)
    return labels[ids.argsort()]


def _refusal(what: str, source: str, confirmation: str = "") -> str:
    why = (
        "public MNIST data contains the competition's answers, which makes a score worthless. "
        "Use DATASET=kaggle"
    )
    if source == "local":
        why = "nothing says that its files are the competition's own"
        why += f". If they are, confirm it once: {confirmation}" if confirmation else ""
    return f"{what} was made from the source {source!r} and is not sent: {why}"


def _entry(csv: Path, params: Mapping[str, Any], found: Mapping[str, Any]) -> Entry:
    """Return an entry for a CSV that was written with these parameters and metadata."""
    return Entry(
        file=csv.name,
        sha256=fingerprint(csv),
        dataset=params["dataset"],
        preset=params["preset"],
        oof_accuracy=f"{found['oof_accuracy']:.5f}",
        oof_standard_error=f"{found['oof_standard_error']:.5f}",
    )


def submit(
    csv: Path, chosen: Entry, ledger_path: Path, message: str, force: bool, wait: float
) -> None:
    """Send a submission unless it was sent before, enter it in the ledger, wait for its score.

    Args:
        csv: the CSV.
        chosen: from `candidate` or `candidate_file`.
        ledger_path: submissions/ledger.csv.
        message: comes first in the description.
        force: send it even if this exact file was submitted before, or predicts mostly one label.
        wait: seconds to wait for the score; 0 not to wait.
    """
    _, labels = csvs.read_labels(csv)
    if chosen.oof_accuracy and not math.isfinite(float(chosen.oof_accuracy)):
        raise UserError(f"{csv.name}: its estimate is not finite; train again")
    rows = np.bincount(labels)
    if rows.max() > MOST_OF_ONE_LABEL * len(labels) and not force:
        raise UserError(
            f"{csv.name} predicts {rows.argmax()} for {rows.max():,} of {len(labels):,} rows; "
            f"training probably diverged: look at the report, or send it with {FORCED}"
        )
    # The lock is held until the submission is in the ledger: if two processes start at once, the
    # second one finds it there.
    with ledger.locked(ledger_path):
        entries = ledger.read(ledger_path)
        refs = with_retries("the list of submissions", lambda: _listed(chosen))
        refs += [int(entry.ref) for entry in entries if entry.sha256 == chosen.sha256]
        if refs and not force:
            ref = max(refs)
            print(f"this exact file was already submitted, as {ref}; {FORCED} submits it again")
        else:
            if _submissions_left() == 0:
                now = datetime.now(UTC)
                raise ExternalError(
                    "no submission is left today; the next day starts at "
                    f"{now + timedelta(days=1):%Y-%m-%d} 00:00 UTC, in {24 - now.hour} h or less"
                )
            ref = _send(csv, chosen, message, refs)
            print(f"sent {csv.name} as submission {ref}")
        if str(ref) not in {entry.ref for entry in entries}:
            sent = {"message": message, "ref": str(ref), "status": "PENDING"}
            at = datetime.now(UTC).isoformat(timespec="seconds")
            ledger.write(ledger_path, [*entries, replace(chosen, submitted_at=at, **sent)])
    if ref not in refs:
        _report_twins(chosen, [*refs, ref])
    _submissions_left()
    found = _wait_for_score(ref, wait)
    if found is None:
        print(f"submission {ref} has no score yet; `digits ledger --refresh` looks it up")
        return
    ledger.record_score(ledger_path, str(ref), found.status, found.public_score)
    if found.status != "COMPLETE":
        raise ExternalError(f"Kaggle could not score submission {ref}: {found.error_description}")
    _compare(chosen, found.public_score, len(labels))


def refresh(ledger_path: Path) -> None:
    """Look up the scores of the ledger's pending submissions."""
    listed = {str(s.ref): s for s in with_retries("the list of submissions", client.submissions)}
    for entry in ledger.read(ledger_path):
        found = listed.get(entry.ref)
        if entry.status == "PENDING" and found and found.judged:
            ledger.record_score(ledger_path, entry.ref, found.status, found.public_score)


def _mark(chosen: Entry) -> str:
    """Return the part of a description that identifies this exact file on Kaggle."""
    return f"sha256 {chosen.sha256[:16]}"


def _listed(chosen: Entry) -> list[int]:
    """Return the refs under which Kaggle lists this exact file, newest first."""
    return [entry.ref for entry in client.submissions() if _mark(chosen) in entry.description]


def _send(csv: Path, chosen: Entry, message: str, known: list[int]) -> int:
    """Send until it has arrived, once; return its ref.

    Even if no answer comes, the submission may exist. So look in the list for this exact file after
    each failure, except among the `known` refs; the list may lag behind.
    """
    description = f"{chosen.preset or chosen.file}, {_mark(chosen)}"
    if chosen.oof_accuracy:
        estimate = f"out of fold {chosen.oof_accuracy} ± {chosen.oof_standard_error}"
        description = f"{chosen.preset}, {estimate}, {_mark(chosen)}"
    if message:
        description = f"{message} | {description}"

    def arrived() -> int | None:
        for look in range(LOOKS):
            time.sleep(client.pause_before(2 + look))
            listed = with_retries("the list of submissions", lambda: _listed(chosen))
            if new := [ref for ref in listed if ref not in known]:
                return new[0]
        return None

    return with_retries("the submission", lambda: client.submit(csv, description), between=arrived)


def _report_twins(chosen: Entry, known: list[int]) -> None:
    """Say if this exact file was also sent from elsewhere: the ledger's lock is of this clone."""
    with contextlib.suppress(CallError):
        for ref in _listed(chosen):
            if ref not in known:
                print(
                    f"this exact file was also submitted as {ref}, at the same time, by another "
                    "clone or computer; it counts as another submission of today"
                )


def _submissions_left() -> int | None:
    """Print how many submissions are left today, and return it; None if Kaggle does not say."""
    try:
        left = client.submissions_left()
    except CallError as error:  # the submission does not depend on it
        print(f"submissions left today: unknown ({error})")
        return None
    print(f"submissions left today: {left}")
    return left


def _wait_for_score(ref: int, wait: float) -> Submission | None:
    """Return the submission once it is judged; None if it is not after `wait` seconds."""
    end = time.monotonic() + wait
    if wait:
        print(f"waiting up to {wait:.0f} s for the score", flush=True)
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(CallError):  # the next look may succeed
            for entry in client.submissions():
                if entry.ref == ref and entry.judged:
                    return entry
        time.sleep(min(POLL, left))
    return None


def _compare(chosen: Entry, public_score: str, rows: int) -> None:
    """Say whether the score agrees with the estimate; both are measured on a sample."""
    if not chosen.oof_accuracy:
        print(f"public score {public_score}")
        return
    score = float(public_score)
    # The score's sample has at most as many rows as the test set.
    score_error = standard_error(score, rows)
    distance = abs(score - float(chosen.oof_accuracy))
    agree = distance <= 2 * math.hypot(float(chosen.oof_standard_error), score_error)
    print(
        f"public score {public_score}, out of fold {chosen.oof_accuracy} ± "
        f"{chosen.oof_standard_error}: they {'agree' if agree else 'do not agree'} within two "
        "standard errors of their difference"
    )
