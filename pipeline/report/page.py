"""The report: one HTML page that shows what was learnt, and every error.

It reads what the other stages wrote and computes nothing that they could use. Where the labels of
the test set are public, they are read here, after everything has been decided.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline import csvs
from pipeline.environment import differences
from pipeline.estimate import reliability
from pipeline.files import fingerprint, read_json
from pipeline.kaggle import ledger as ledgers
from pipeline.nearest import Nearest
from pipeline.report import pictures, render

# With more errors than this the page would be slow; the most confident ones are shown.
SHOWN = 5000
UNSURE_SHOWN = 200
# How many of each gallery are shown with their nearest training images, and with how many.
NEAR_SHOWN, NEIGHBOURS = 500, 5


def report(
    train_images: Path,
    train_labels: Path,
    test_images: Path,
    fold_ids: Path,
    oof: Path,
    test: Path,
    metrics: Path,
    augmented: Mapping[str, Sequence[Path]],
    histories: Mapping[str, Sequence[Path]],
    manifests: Mapping[str, Sequence[Path]],
    submission: Path,
    page: Path,
    template: Path,
    title: str,
    command: str,
    class_names: Sequence[str],
    members: Mapping[str, Mapping[str, Any]],
    solution: Path | None = None,
    ledger: Path | None = None,
) -> dict[str, Any]:
    """Write the report to `page`, from the template.

    The arrays are those of preprocess, split and ensemble. By preset, a file for each fold:
    `augmented`, training images and their augmentations; `histories`, history.csv; `manifests`, how
    it was trained. `title` names dataset and preset; `command` makes the submission again;
    `members` are the values of `config.Train`, by preset; `solution` has the labels of the test
    set, if they are public; `ledger` the submissions so far.

    Returns:
        Metadata: the number of out-of-fold errors, of those whose nearest training images have the
            predicted label too, and the expected calibration error.
    """
    names = tuple(class_names)
    images, labels = np.load(train_images), np.load(train_labels)
    images_to_predict, folds = np.load(test_images), np.load(fold_ids)
    oof_probabilities, test_probabilities = np.load(oof), np.load(test)
    held_out = np.flatnonzero(folds >= 0)
    params = {preset: SimpleNamespace(**values) for preset, values in members.items()}

    curves = {
        preset: [np.genfromtxt(path, delimiter=",", names=True, ndmin=1) for path in paths]
        for preset, paths in histories.items()
    }
    validation = _judged(labels[held_out], oof_probabilities[held_out], names)
    wrong = held_out[oof_probabilities[held_out].argmax(axis=1) != labels[held_out]]
    unsure = np.argsort(test_probabilities.max(axis=1))[:UNSURE_SHOWN]
    galleries = {
        "errors": _gallery(images, oof_probabilities, wrong, labels, folds),
        "unsure": _gallery(images_to_predict, test_probabilities, unsure),
    }
    predicted = test_probabilities.argmax(axis=1)
    sets = {"training labels": labels, "predictions for the test set": predicted}
    judged_test = None
    if solution:
        _, truth = csvs.read_labels(solution)
        sets["labels of the test set"] = truth
        judged_test = _judged(truth, test_probabilities, names)
        missed = np.flatnonzero(predicted != truth)
        galleries["test_errors"] = _gallery(images_to_predict, test_probabilities, missed, truth)
    near = _add_nearest(galleries, images, labels, images_to_predict)
    doubtful = sum(_doubtful(digit, near["labels"]) for digit in galleries["errors"]["digits"])

    html = render(
        template,
        title=title,
        command=command,
        score=_score(submission, ledger),
        params=params,
        metrics=json.loads(metrics.read_text(encoding="utf-8")),
        names=names,
        run=_run(manifests),
        rows=(len(images), len(images_to_predict)),
        examples=[
            (name, pictures.strip(images[labels == label][:10])) for label, name in enumerate(names)
        ],
        distributions=pictures.distributions(sets, names),
        chance=200 * math.sqrt(0.09 / len(predicted)),
        augmentations={
            preset: _augmentation(params[preset], np.load(paths[0]), labels[folds != 0], names)
            for preset, paths in augmented.items()
        },
        networks={preset: _layers(paths[0]) for preset, paths in manifests.items()},
        learning={preset: pictures.learning(its) for preset, its in curves.items()},
        losses={preset: _losses(params[preset], its) for preset, its in curves.items()},
        validation=validation,
        test=judged_test,
        galleries=galleries,
        near=near,
        neighbours=NEIGHBOURS,
        doubtful=doubtful,
    )
    page.write_text(html, encoding="utf-8")
    error = validation["calibration_error"]
    return {"oof_errors": len(wrong), "doubtful_labels": doubtful, "calibration_error": error}


def _score(submission: Path, ledger: Path | None) -> str:
    """Look up the most recent public score of this exact file; "" without one."""
    digest = fingerprint(submission)
    entries = ledgers.read(ledger) if ledger else []
    scores = [entry.public_score for entry in entries if entry.sha256 == digest]
    return next(filter(None, reversed(scores)), "")


def _judged(
    truth: NDArray[np.integer[Any]], probabilities: NDArray[np.float32], names: Sequence[str]
) -> dict[str, Any]:
    """Collect what is shown about predictions whose true labels are known."""
    predicted, classes = probabilities.argmax(axis=1), range(len(names))
    matrix = confusion_matrix(truth, predicted, labels=classes)
    scores = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    wrong = predicted != truth
    pairs = Counter(zip(truth[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    confidence, right, rows, calibration_error = reliability(probabilities.max(axis=1), ~wrong)
    return {
        "rows": len(truth),
        "wrong": int(wrong.sum()),
        "confusion": matrix.tolist(),
        "classes": [
            {"name": name, "precision": p, "recall": r, "f1": f, "rows": int(n)}
            for name, p, r, f, n in zip(names, *scores, strict=True)
        ],
        "pairs": [(names[t], names[p], count) for (t, p), count in pairs.most_common(10)],
        "reliability": pictures.reliability(confidence, right, rows),
        "calibration_error": calibration_error,
    }


def _gallery(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    rows: NDArray[np.int64],
    truth: NDArray[np.integer[Any]] | None = None,
    fold_ids: NDArray[np.int8] | None = None,
) -> dict[str, Any]:
    """Draw a sheet of images and describe each; of too many for a page, the most confident ones."""
    order = np.argsort(-probabilities[rows].max(axis=1), kind="stable")
    found, rows = len(rows), rows[order[:SHOWN]]
    return {
        "found": found,
        "sheet": pictures.sheet(images[rows]),
        "digits": [
            {
                "row": int(row) + 1,
                "truth": None if truth is None else int(truth[row]),
                "fold": None if fold_ids is None else int(fold_ids[row]),
                "probabilities": [round(float(p), 4) for p in probabilities[row]],
                "predicted": int(probabilities[row].argmax()),  # of two that round to the same
                "near": [],
            }
            for row in rows
        ],
    }


def _run(manifests: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Summarise where the folds were trained, with what, for how long, and how they differ."""
    folds = {
        f"{preset} fold {fold}" if len(manifests) > 1 else f"fold {fold}": _metadata(path)
        for preset, paths in manifests.items()
        for fold, path in enumerate(paths)
    }
    every = list(folds.values())
    return {
        "devices": sorted({f"{it['device']} ({it['device_reason']})" for it in every}),
        "precisions": sorted({f"{it['precision']} ({it['precision_reason']})" for it in every}),
        "differences": differences(folds),
        "versions": every[0]["versions"],
        "seconds": sum(sum(it["epoch_seconds"]) for it in every),
        "folds": len(every),
    }


def _metadata(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = (read_json(manifest) or {}).get("metadata", {})
    return found


def _augmentation(
    params: SimpleNamespace,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    names: Sequence[str],
) -> list[tuple[str, str]]:
    """Draw images, uint8 (k, 10, 28, 28, 1), and what training made of each, if anything.

    The labels are those of the rows that the network was trained on, in their order.
    """
    started = params.augment_after < params.epochs
    if not started or not (params.rotation or params.zoom or params.shift or params.shear):
        return []
    first = labels[: len(images)]
    return [(names[y], pictures.strip(its)) for y, its in zip(first, images, strict=True)]


def _layers(manifest: Path) -> list[dict[str, Any]]:
    """Read the layers of a trained network, and add the logarithms of their outputs' sizes."""
    layers: list[dict[str, Any]] = _metadata(manifest)["layers"]
    return [{**it, "magnitude": math.log10(math.prod(it["shape"]))} for it in layers]


def _losses(params: SimpleNamespace, folds: Sequence[NDArray[np.void]]) -> dict[str, float]:
    """Average the folds' last training loss and held-out loss.

    No training loss goes below the floor, the entropy of a smoothed label, in nats.
    """
    other = params.label_smoothing / 10
    label = np.array([1 - 9 * other, *[other] * 9])
    return {
        "training": float(np.mean([its["loss"][-1] for its in folds])),
        "held_out": float(np.mean([its["val_loss"][-1] for its in folds])),
        "floor": float(-np.sum(label * np.log(label))) if other else 0.0,
        "epochs": max(len(its) for its in folds),
    }


def _add_nearest(
    galleries: Mapping[str, dict[str, Any]],
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    test_images: NDArray[np.uint8],
) -> dict[str, Any]:
    """Add to each gallery's digits their nearest training images, as places in one sheet.

    Return the sheet, and for each image in it the row in train.csv, counted from 1, and the label.
    """
    found, nearest = [], Nearest(images)
    for name, gallery in galleries.items():
        digits = gallery["digits"][:NEAR_SHOWN]
        rows = np.array([digit["row"] - 1 for digit in digits], np.int64)
        own = name == "errors"
        images_of = images if own else test_images
        near, _ = nearest.search(images_of[rows], NEIGHBOURS, rows if own else None)
        found.append((digits, near))
    shown = np.unique(np.concatenate([rows.ravel() for _, rows in found]))
    for digits, rows in found:
        for digit, places in zip(digits, np.searchsorted(shown, rows).tolist(), strict=True):
            digit["near"] = places
    return {
        "sheet": pictures.sheet(images[shown]),
        "rows": (shown + 1).tolist(),
        "labels": labels[shown].tolist(),
    }


def _doubtful(digit: Mapping[str, Any], labels: Sequence[int]) -> bool:
    """Check whether all nearest training images of an error have the label that was predicted."""
    return {labels[place] for place in digit["near"]} == {digit["predicted"]}
