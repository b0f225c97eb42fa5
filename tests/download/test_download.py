"""sources/: each leaves the competition's CSVs, whole, or says what is wrong with what it found."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import contents, digit_images, write_digits

from pipeline import csvs
from pipeline.download import download
from pipeline.errors import OutsideError, UserError
from pipeline.sources import local

NAMES = ("train.csv", "test.csv", "sample_submission.csv")


def fetch(tmp_path: Path, source: str, path: Path | None = None) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "raw"
    folder.mkdir(exist_ok=True)
    return folder, download(folder, source, path)


def known_answers(folder: Path) -> dict[str, int]:
    """Read everything with the checks of preprocess; gives the numbers of rows."""
    images, labels = csvs.read_images(folder / "train.csv", labelled=True)
    test_images, _ = csvs.read_images(folder / "test.csv", labelled=False)
    sample_ids, zeros = csvs.read_labels(folder / "sample_submission.csv")
    ids, answers = csvs.read_labels(folder / "solution.csv")
    assert ids.tolist() == sample_ids.tolist() == list(range(1, len(test_images) + 1))
    assert set(zeros) == {0}
    assert labels is not None
    assert set(answers) == set(labels) == set(range(10))
    return {"train": len(images), "test": len(test_images)}


# --- sources that have arrays --------------------------------------------------------------------


def test_sample_is_a_stratified_draw_that_is_always_the_same(tmp_path: Path) -> None:
    folder, facts = fetch(tmp_path, "sample")
    assert set(contents(folder)) == {*NAMES, "solution.csv"}
    assert known_answers(folder) == {"train": 3000, "test": 2000}
    _, labels = csvs.read_images(folder / "train.csv", labelled=True)
    assert labels is not None
    assert np.bincount(labels).tolist() == [300] * 10
    assert facts["source"] == "sample"
    before = contents(folder)
    fetch(tmp_path, "sample")
    assert contents(folder) == before


@pytest.mark.parametrize(("source", "module"), [("mnist", "mnist"), ("fashion", "fashion_mnist")])
def test_mnist_and_fashion_keep_their_own_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str
) -> None:
    from pipeline.backend import keras

    (images, labels), (test_images, answers) = digit_images(40), digit_images(30, seed=1)
    data = (images[..., 0], labels), (test_images[..., 0], answers[::-1].copy())
    monkeypatch.setattr(getattr(keras.datasets, module), "load_data", lambda: data)
    folder, facts = fetch(tmp_path, source)
    assert known_answers(folder) == {"train": 40, "test": 30}
    read, read_labels = csvs.read_images(folder / "train.csv", labelled=True)
    np.testing.assert_array_equal(read, images)
    np.testing.assert_array_equal(read_labels, labels)
    read, _ = csvs.read_images(folder / "test.csv", labelled=False)
    np.testing.assert_array_equal(read, test_images)
    np.testing.assert_array_equal(csvs.read_labels(folder / "solution.csv")[1], answers[::-1])
    assert facts == {"source": source, "origin": f"keras.datasets.{module}"}


@pytest.mark.parametrize("text", ["URL fetch failure on https://x: None -- down\nmore", ""])
def test_mnist_without_network_is_a_failure_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    from pipeline.backend import keras

    def load_data() -> None:
        raise Exception(text)

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(OutsideError, match="mnist could not be downloaded") as caught:
        fetch(tmp_path, "mnist")
    assert text.partition("\n")[0] in str(caught.value)
    assert "make demo" in str(caught.value)


# --- a folder or zip of the user's own -----------------------------------------------------------


def gzipped(folder: Path) -> None:
    for name in NAMES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


def zipped(folder: Path) -> None:
    for name in NAMES:
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / name, name)
        (folder / name).unlink()


def mixed(folder: Path) -> None:
    path = folder / "test.csv"
    (folder / "test.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def archive_of(
    folder: Path, path: Path, inside: str = "", method: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in NAMES:
            archive.write(folder / name, inside + name)
    return path


@pytest.mark.parametrize("pack", [lambda folder: None, gzipped, zipped, mixed])
def test_a_folder_in_any_wrapping(
    tmp_path: Path, tiny_folder: Path, pack: Callable[[Path], None]
) -> None:
    expected = contents(tiny_folder)
    pack(tiny_folder)
    folder, facts = fetch(tmp_path, "local", tiny_folder)
    assert contents(folder) == expected
    assert facts == {"source": "local", "origin": "tiny"}


@pytest.mark.parametrize("inside", ["", "digit-recognizer/", "a/b/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_the_files_at_any_depth(
    tmp_path: Path, tiny_folder: Path, inside: str, method: int
) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip", inside, method)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._train.csv", b"rubbish")
        archive.writestr("README.txt", b"text")
    folder, facts = fetch(tmp_path, "local", path)
    assert contents(folder) == contents(tiny_folder)
    assert facts["origin"] == "tiny.zip"


def test_the_files_that_are_read_are_those_whose_change_is_noticed(tiny_folder: Path) -> None:
    mixed(tiny_folder)
    assert local.files(tiny_folder) == {
        "train.csv": tiny_folder / "train.csv",
        "test.csv": tiny_folder / "test.csv.gz",
        "sample_submission.csv": tiny_folder / "sample_submission.csv",
    }


def fault(tmp_path: Path, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(tmp_path, "local", path)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    (tiny_folder / name).unlink()
    assert f"{name} is missing there" in fault(tmp_path, tiny_folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_that_is_missing_is_named(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for other in NAMES:
            if other != name:
                archive.write(tiny_folder / other, other)
    assert f"holds 0 members named {name}" in fault(tmp_path, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("old/test.csv", b"")
    assert "holds 2 members named test.csv" in fault(tmp_path, path)


def test_a_file_that_is_no_zip(tmp_path: Path, tiny_folder: Path) -> None:
    assert "this is no zip archive" in fault(tmp_path, tiny_folder / "train.csv")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_damaged_content(tmp_path: Path, tiny_folder: Path, method: int) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip", method=method)
    content = bytearray(path.read_bytes())
    for place in range(300, 400):
        content[place] ^= 0x55
    path.write_bytes(content)
    assert "train.csv is damaged" in fault(tmp_path, path)


def test_a_zip_whose_members_do_not_begin_where_it_says(tmp_path: Path, tiny_folder: Path) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip")
    content = bytearray(path.read_bytes())
    content[0:2] = b"XX"
    path.write_bytes(content)
    assert "train.csv is damaged" in fault(tmp_path, path)


def test_a_zip_in_a_compression_that_python_does_not_know(
    tmp_path: Path, tiny_folder: Path
) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip")
    content = bytearray(path.read_bytes())
    # Method 9, "Deflate64", which Windows uses for large files, in the directory and the member.
    for signature, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        place = content.find(signature)
        content[place + offset : place + offset + 2] = b"\x09\x00"
    path.write_bytes(content)
    assert "train.csv" in fault(tmp_path, path)


def test_an_encrypted_zip(tmp_path: Path, tiny_folder: Path) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip")
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    content[place + 8] |= 1
    path.write_bytes(content)
    assert "train.csv is encrypted" in fault(tmp_path, path)


def test_a_zip_of_one_csv_that_is_no_zip(tmp_path: Path, tiny_folder: Path) -> None:
    (tiny_folder / "test.csv").rename(tiny_folder / "test.csv.zip")
    assert "test.csv" in fault(tmp_path, tiny_folder)


def test_a_gzip_that_is_none_and_one_that_is_cut_off(tmp_path: Path, tiny_folder: Path) -> None:
    gzipped(tiny_folder)
    path = tiny_folder / "test.csv.gz"
    whole = path.read_bytes()
    for damaged in (b"no gzip at all", whole[:-20], whole[:200] + b"\xff" * 50 + whole[250:]):
        path.write_bytes(damaged)
        assert "test.csv is damaged" in fault(tmp_path, tiny_folder)


def test_what_unpacks_to_too_much_is_stopped(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LIMIT", 3_000_000)
    (tiny_folder / "test.csv").unlink()
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        file.write(b"0" * 20_000_000)
    (tiny_folder / "test.csv.gz").write_bytes(packed.getvalue())
    assert "test.csv unpacks to more than 3,000,000 bytes" in fault(tmp_path, tiny_folder)
    assert (tmp_path / "raw" / "test.csv").stat().st_size < 10_000_000


def test_the_sources_leave_the_users_files_alone(tmp_path: Path) -> None:
    mine = write_digits(tmp_path / "mine")
    before = contents(mine)
    fetch(tmp_path, "local", mine)
    assert contents(mine) == before
