"""preprocess.py: arrays equal their CSVs; CSVs that do not belong together are refused."""

from pathlib import Path

import numpy as np
import pytest
from conftest import digit_images, write_digits

from pipeline.errors import UserError
from pipeline.preprocess import preprocess

ARRAYS = ("train_images", "train_labels", "test_images")


def run(source: Path, folder: Path) -> dict[str, object]:
    folder.mkdir()
    csvs = {name: source / f"{name}.csv" for name in ("train", "test", "sample_submission")}
    return preprocess(**csvs, **{name: folder / f"{name}.npy" for name in ARRAYS})


def test_the_arrays_are_the_csvs(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "source", train_rows=35, test_rows=12, seed=4)
    metadata = run(source, tmp_path / "arrays")
    arrays = {path.stem: np.load(path) for path in (tmp_path / "arrays").iterdir()}
    assert set(arrays) == set(ARRAYS)
    assert {array.dtype for array in arrays.values()} == {np.dtype("uint8")}
    images, labels = digit_images(35, seed=4)
    np.testing.assert_array_equal(arrays["train_images"], images)
    np.testing.assert_array_equal(arrays["train_labels"], labels)
    np.testing.assert_array_equal(arrays["test_images"], digit_images(12, seed=5)[0])
    assert metadata == {
        "train_rows": 35,
        "test_rows": 12,
        "train_rows_per_class": [4, 4, 4, 4, 4, 3, 3, 3, 3, 3],
    }


def test_the_arrays_can_be_mapped_into_memory(tmp_path: Path) -> None:
    run(write_digits(tmp_path / "source"), tmp_path / "arrays")
    mapped = np.load(tmp_path / "arrays" / "train_images.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.flags.c_contiguous


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("\n1,0\n2,0\n", "\n2,0\n1,0\n", 2), ("\n7,0\n", "\n8,0\n", 8), ("\n1,0\n", "\n0,0\n", 2)],
)
def test_ids_that_do_not_count_up(tmp_path: Path, old: str, new: str, line: int) -> None:
    source = write_digits(tmp_path / "source")
    path = source / "sample_submission.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        run(source, tmp_path / "arrays")
    assert f"{path}, line {line}, column ImageId: " in str(caught.value)
    assert list((tmp_path / "arrays").iterdir()) == []
