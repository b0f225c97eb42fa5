"""The report: one HTML page that shows what was learnt, and what was got wrong.

It reads what the other stages left and computes nothing that they could use. The labels of a test
set, where they are public, are shown here, after everything is decided.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import csvs, pictures
from pipeline.config import Train
from pipeline.pictures import Picture

TEMPLATE = Path(__file__).with_name("report.html")
# With more errors than this the page would be slow; the surest ones are shown.
SHOWN = 5000
UNSURE_SHOWN = 200
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Sources:
    """What a report is made from: files that other stages left, and what is known of the run.

    Args:
        tensors: the folder that preprocess left.
        fold_ids: the file that split left.
        ensemble: the folder that ensemble left.
        folders: the folders that train left, an entry a fold, by the name of the preset.
        params: how each of these presets was trained.
        facts: the facts in the manifests of their folds, in the same order, one after another.
        solution: the CSV with the labels of the test set, where they are public.
        class_names: what the classes are called.
        title: the dataset and the preset.
        command: what makes the submission again.
        score: the newest score of this submission in the ledger; "" if there is none.
    """

    tensors: Path
    fold_ids: Path
    ensemble: Path
    folders: Mapping[str, Sequence[Path]]
    params: Mapping[str, Train]
    facts: Sequence[Mapping[str, Any]]
    solution: Path | None
    class_names: Sequence[str]
    title: str
    command: str
    score: str = ""


def report(path: Path, sources: Sources) -> dict[str, Any]:
    """Write the page to `path`.

    Returns:
        Facts for the manifest: the number of out-of-fold errors, and the expected calibration
        error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    images = np.load(sources.tensors / "train_images.npy")
    labels = np.load(sources.tensors / "train_labels.npy")
    test_images = np.load(sources.tensors / "test_images.npy")
    fold_ids = np.load(sources.fold_ids)
    oof, test = (np.load(sources.ensemble / f"{name}.npy") for name in ("oof", "test"))
    metrics = json.loads((sources.ensemble / "metrics.json").read_text(encoding="utf-8"))
    held_out = np.flatnonzero(fold_ids >= 0)
    names = sources.class_names

    validation = _judged(labels[held_out], oof[held_out], names)
    wrong = held_out[oof[held_out].argmax(axis=1) != labels[held_out]]
    galleries = {
        "errors": _gallery(images, labels, oof, fold_ids, wrong),
        "unsure": _gallery(
            test_images, None, test, None, np.argsort(test.max(axis=1))[:UNSURE_SHOWN]
        ),
    }
    judged_test = truth = None
    if sources.solution:
        _, truth = csvs.read_labels(sources.solution)
        judged_test = _judged(truth, test, names)
        wrong_test = np.flatnonzero(test.argmax(axis=1) != truth)
        galleries["test_errors"] = _gallery(test_images, truth, test, None, wrong_test)
    layers = {name: _layers(folders[0]) for name, folders in sources.folders.items()}

    template = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(TEMPLATE.name)
    page = template.render(
        sources=sources,
        metrics=metrics,
        names=names,
        run=_run(sources),
        data=_data(images, test_images),
        examples=pictures.examples(images, labels, names),
        distributions=_distributions(labels, test, truth, names),
        augmentations={
            name: _augmentation(params, images, labels, names)
            for name, params in sources.params.items()
        },
        networks={name: (pictures.network(its), its) for name, its in layers.items()},
        learning=pictures.learning(
            {
                name: [_history(folder / "history.csv") for folder in folders]
                for name, folders in sources.folders.items()
            }
        ),
        validation=validation,
        test=judged_test,
        galleries=galleries,
    )
    path.write_text(page, encoding="utf-8")
    return {"oof_errors": len(wrong), "calibration_error": validation["calibration_error"]}


def _judged(
    truth: NDArray[np.integer[Any]], probabilities: NDArray[np.float32], names: Sequence[str]
) -> dict[str, Any]:
    """Everything that is said of predictions whose truth is known."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, classes = probabilities.argmax(axis=1), np.arange(len(names))
    matrix = confusion_matrix(truth, predicted, labels=classes)
    scores = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    errors = np.where(np.eye(len(names), dtype=bool), 0, matrix)
    pairs = [
        (names[row], names[column], int(errors[row, column]))
        for row, column in zip(
            *np.unravel_index(errors.argsort(axis=None)[::-1], errors.shape), strict=True
        )
        if errors[row, column]
    ]
    confidence, right, rows, calibration_error = calibration(
        probabilities.max(axis=1), predicted == truth
    )
    return {
        "rows": len(truth),
        "wrong": int(errors.sum()),
        "confusion": pictures.confusion(matrix, names),
        "classes": [
            {"name": name, "precision": p, "recall": r, "f1": f, "rows": int(n)}
            for name, p, r, f, n in zip(names, *scores, strict=True)
        ],
        "pairs": pairs[:10],
        "reliability": pictures.reliability(confidence, right, rows),
        "calibration_error": calibration_error,
    }


def calibration(
    confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], float]:
    """Compare how sure predictions are with how often they are right.

    Args:
        confidence: the probability of the predicted class, (n,).
        right: whether the prediction is right, (n,).

    Returns:
        For each of the bins of equal width that is not empty its mean confidence, its share of
        right predictions and its number of rows; and the expected calibration error, the mean
        distance of the first two, weighted by the third (Guo et al. 2017, arXiv:1706.04599).
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = rows > 0
    sure = np.bincount(bins, confidence, CALIBRATION_BINS)[used] / rows[used]
    correct = np.bincount(bins, right, CALIBRATION_BINS)[used] / rows[used]
    error = float(np.average(np.abs(sure - correct), weights=rows[used]))
    return sure, correct, rows[used], error


def _gallery(
    images: NDArray[np.uint8],
    truth: NDArray[np.integer[Any]] | None,
    probabilities: NDArray[np.float32],
    fold_ids: NDArray[np.int8] | None,
    rows: NDArray[np.int64],
) -> dict[str, Any]:
    """A sheet of images; for each its row in the CSV, counted from 1, and what was said of it.

    If there are more rows than a page can show, those of which the networks are surest.
    """
    surest = np.argsort(-probabilities[rows].max(axis=1), kind="stable")
    found, rows = len(rows), rows[surest[:SHOWN]]
    return {
        "found": found,
        "sheet": pictures.sheet(images[rows]),
        "digits": [
            {
                "row": int(row) + 1,
                "truth": None if truth is None else int(truth[row]),
                "fold": None if fold_ids is None else int(fold_ids[row]),
                "probabilities": [round(float(p), 4) for p in probabilities[row]],
            }
            for row in rows
        ],
    }


def _run(sources: Sources) -> dict[str, Any]:
    """On what it ran, and how long."""
    facts = sources.facts
    return {
        "devices": sorted({f"{f['device']} ({f['device_reason']})" for f in facts}),
        "precisions": sorted({f"{f['precision']} ({f['precision_reason']})" for f in facts}),
        "versions": facts[0]["versions"],
        "seconds": sum(sum(f["epoch_seconds"]) for f in facts),
        "trainings": len(facts),
    }


def _data(images: NDArray[np.uint8], test_images: NDArray[np.uint8]) -> dict[str, Any]:
    """What there is to know of the data before anything is learnt."""
    train, test = (Counter(image.tobytes() for image in its) for its in (images, test_images))
    return {
        "train_rows": len(images),
        "test_rows": len(test_images),
        "train_duplicates": len(images) - len(train),
        "test_duplicates": len(test_images) - len(test),
        "shared": sum(count for image, count in test.items() if image in train),
    }


def _distributions(
    labels: NDArray[np.uint8],
    test: NDArray[np.float32],
    truth: NDArray[np.integer[Any]] | None,
    names: Sequence[str],
) -> Picture:
    sets = {"training labels": labels, "predictions for the test set": test.argmax(axis=1)}
    if truth is not None:
        sets["labels of the test set"] = truth
    return pictures.distributions(
        {name: np.bincount(its, minlength=len(names)) / len(its) for name, its in sets.items()},
        names,
    )


def _augmentation(
    params: Train, images: NDArray[np.uint8], labels: NDArray[np.uint8], names: Sequence[str]
) -> Picture | None:
    """A few images as they were distorted in training; None where they were not."""
    if not (params.rotation or params.zoom or params.shift or params.shear):
        return None
    from pipeline.augment import RandomAffine

    chosen = [int(np.flatnonzero(labels == label)[0]) for label in range(0, len(names), 2)]
    warp = RandomAffine(params.rotation, params.zoom, params.shift, params.shear, seed=params.seed)
    warped = [np.asarray(warp(images[chosen], training=True)) for _ in range(9)]
    return pictures.augmentation(images[chosen], warped, [names[labels[i]] for i in chosen])


def _layers(folder: Path) -> list[dict[str, Any]]:
    """The layers of a trained network: kind, shape of what comes out, number of parameters."""
    from pipeline.backend import keras

    network = keras.saving.load_model(folder / "weights.keras", compile=False)
    return [
        {
            "kind": type(layer).__name__,
            "shape": tuple(layer.output.shape[1:]),
            "parameters": layer.count_params(),
        }
        for layer in network.layers
    ]


def _history(path: Path) -> dict[str, NDArray[np.float64]]:
    with path.open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
