"""Stage 3: decide which rows each fold holds out, and say what makes the estimate doubtful."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Split

# In so many digits, every pixel of the middle has ink somewhere; in fewer, it may not.
ENOUGH = 100
MIDDLE = slice(8, 20)  # rows and columns


def split(
    train_images: Path,
    train_labels: Path,
    test_images: Path,
    fold_ids: Path,
    remarks: Path,
    params: "Split",
) -> dict[str, Any]:
    """Draw stratified folds, then move each copy of an image to the fold of its first row.

    Args:
        train_images: uint8 (n, 28, 28, 1).
        train_labels: uint8 (n,).
        test_images: uint8 (m, 28, 28, 1).
        fold_ids: to be written, int8 (n,): the fold that holds out the row, or -1 if none does
            (only with folds = 1, the single hold-out).
        remarks: to be written, JSON: warnings about the data, to be shown with the estimate.
        params: the number of folds, the share to hold out if it is 1, and the seed.

    Returns:
        Metadata: the number of rows held out in each fold, and of copies.

    Raises:
        UserError: a class has fewer rows than there are folds, or a fold holds out none.
    """
    images, labels = np.load(train_images), np.load(train_labels)
    first: dict[bytes, int] = {}
    firsts = np.array([first.setdefault(it.tobytes(), row) for row, it in enumerate(images)])
    ids = _drawn(train_labels, labels, params)[firsts]
    held_out = np.bincount(ids[ids >= 0], minlength=params.folds)
    if not held_out.all():
        raise UserError(
            f"{train_images}: fold {held_out.argmin()} holds out no row, since only {len(first):,} "
            f"of {len(images):,} images differ; remove the copies, or lower split.folds"
        )
    copies = {
        "train": len(images) - len(first),
        "test": sum(image.tobytes() in first for image in np.load(test_images)),
    }
    found = [*_on_copies(copies, labels, firsts), *_on_classes(labels, ids), *_on_pixels(images)]
    for remark in found:
        print(f"note: {remark}", flush=True)
    np.save(fold_ids, ids)
    remarks.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return {"held_out": held_out.tolist(), "copies": copies}


def _drawn(path: Path, labels: NDArray[np.uint8], params: "Split") -> NDArray[np.int8]:
    """Draw the fold of each row."""
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    folds, rows = params.folds, np.bincount(labels)
    rarest = int(rows.argmin())
    if rows[rarest] < max(folds, 2):
        raise UserError(
            f"{path}: class {rarest} has {rows[rarest]} rows, too few for {max(folds, 2)} parts; "
            "lower split.folds, or add rows of this class"
        )
    if folds == 1:
        parts = StratifiedShuffleSplit(1, test_size=params.holdout, random_state=params.seed)
    else:
        parts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=params.seed)
    ids = np.full(len(labels), -1, dtype=np.int8)
    try:
        for fold, (_, held_out) in enumerate(parts.split(np.zeros(len(labels)), labels)):
            ids[held_out] = fold
    except ValueError as error:
        raise UserError(
            f"{path}: split.holdout = {params.holdout} leaves one of its two parts with fewer rows "
            f"than there are classes ({error}); choose a value nearer to 0.5"
        ) from error
    return ids


def _on_copies(
    copies: dict[str, int], labels: NDArray[np.uint8], firsts: NDArray[np.int64]
) -> Iterator[str]:
    are = {name: "is an exact copy" if n == 1 else "are exact copies" for name, n in copies.items()}
    if copies["train"]:
        other = int((labels != labels[firsts]).sum())
        yield (
            f"{copies['train']:,} of {len(labels):,} training images {are['train']} of an earlier "
            f"one{f', {other:,} with another label' if other else ''}. Copies stay in one fold, "
            "so no network is tested on what it has seen; but the estimate rests on only "
            f"{len(labels) - copies['train']:,} different images, and is less certain than its "
            "standard error says"
        )
    if copies["test"]:
        yield (
            f"{copies['test']:,} of the test images {are['test']} of a training image: expect "
            "accuracy on the test set, but not on new digits, to exceed the estimate"
        )


def _on_classes(labels: NDArray[np.uint8], ids: NDArray[np.int8]) -> Iterator[str]:
    for label in np.unique(labels):
        folds = ids[labels == label]
        if (folds < 0).all():
            yield (
                f"class {label} has {len(folds)} rows and none is held out, so the estimate says "
                "nothing about it; add rows, or raise split.holdout"
            )
        elif (folds == folds[0]).all():
            yield (
                f"all {len(folds)} rows of class {label} are in fold {folds[0]}, which is tested "
                "by a network that has never seen this class; add rows that differ"
            )


def _on_pixels(images: NDArray[np.uint8]) -> Iterator[str]:
    edge = np.concatenate([images[:, [0, -1]].ravel(), images[:, :, [0, -1]].ravel()])
    if edge.mean() > 127:
        yield (
            f"the training images are inverted: their edges average {edge.mean():.0f} of 255, "
            "where the competition's are black; write 255 - value to the CSVs, unless the test "
            "images and those you want to read are inverted, too"
        )
    middle = np.zeros((28, 28), bool)
    middle[MIDDLE, MIDDLE] = True
    same = (images.min(axis=0) == images.max(axis=0))[..., 0] & middle
    if len(images) >= ENOUGH and same.any():
        pixel = int(np.flatnonzero(same)[0])
        yield (
            f"{same.sum()} pixels in the middle of the training images never change, first of all "
            f"pixel{pixel}, always {images[0].ravel()[pixel]}; check what wrote that column"
        )
