"""download/: each source writes the competition's CSVs, or the message names what is wrong."""

import gzip
import importlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import contents, digit_images, replace_cell, write_digits

from pipeline import csvs
from pipeline.download import NAMED, SOURCES, Dataset, dataset, download, local, user_files
from pipeline.errors import ExternalError, UserError

NAMES = ("train.csv", "test.csv", "sample_submission.csv")


def fetch(tmp_path: Path, source: str, path: Path | None = None) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    files = user_files(Dataset("mine", source, path))
    writes = {name.removesuffix(".csv"): folder / name for name in NAMES}
    return folder, download(files=files, source=source, **writes)


# --- what DATASET= may be ------------------------------------------------------------------------


@pytest.mark.parametrize("word", NAMED)
def test_built_in_datasets(word: str) -> None:
    assert dataset(word) == Dataset(word, word)


def test_every_source_has_a_module() -> None:
    for name in SOURCES:
        assert callable(importlib.import_module(f"pipeline.download.{name}").fetch)


def test_a_folder_is_a_dataset(tiny_folder: Path) -> None:
    assert dataset(str(tiny_folder)) == Dataset("tiny", "local", tiny_folder)
    assert dataset(f"{tiny_folder}/").name == "tiny"


def test_a_zip_is_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "my-digits_2.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    assert dataset(str(path)) == Dataset("my-digits_2", "local", path)


def test_the_current_folder_is_a_dataset(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder)
    assert dataset(".").name == "tiny"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("absent", "there is no dataset"),
        ("sample", "rename it"),
        ("my digits", "use only letters, digits, - and _"),
        ("a.b", "use only letters, digits, - and _"),
        ("zähl", "use only letters, digits, - and _"),
    ],
)
def test_names_that_datasets_cannot_have(tmp_path: Path, name: str, part: str) -> None:
    if name != "absent":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=part) as caught:
        dataset(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_an_unknown_dataset_gets_a_list_of_those_there_are() -> None:
    with pytest.raises(UserError, match="kaggle, sample, mnist, fashion") as caught:
        dataset("keggle")
    assert "path" in str(caught.value)


def rows(folder: Path) -> dict[str, int]:
    """Read everything with the checks of preprocess; returns the numbers of rows."""
    images, labels = csvs.read_images(folder / "train.csv", labelled=True)
    test_images, _ = csvs.read_images(folder / "test.csv", labelled=False)
    sample_ids, zeros = csvs.read_labels(folder / "sample_submission.csv")
    ids, truth = csvs.read_labels(folder / "solution.csv")
    assert ids.tolist() == sample_ids.tolist() == list(range(1, len(test_images) + 1))
    assert set(zeros) == {0}
    assert labels is not None
    assert set(truth) == set(labels) == set(range(10))
    return {"train": len(images), "test": len(test_images)}


# --- sources that have arrays --------------------------------------------------------------------


def test_sample_is_always_the_same_stratified_draw(tmp_path: Path) -> None:
    folder, metadata = fetch(tmp_path, "sample")
    assert set(contents(folder)) == {*NAMES, "solution.csv"}
    assert rows(folder) == {"train": 3000, "test": 2000}
    _, labels = csvs.read_images(folder / "train.csv", labelled=True)
    assert labels is not None
    assert np.bincount(labels).tolist() == [300] * 10
    assert metadata["source"] == "sample"
    before = contents(folder)
    fetch(tmp_path, "sample")
    assert contents(folder) == before


@pytest.mark.parametrize(("source", "module"), [("mnist", "mnist"), ("fashion", "fashion_mnist")])
def test_mnist_and_fashion_keep_their_own_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str
) -> None:
    from pipeline.backend import keras

    (images, labels), (test_images, truth) = digit_images(40), digit_images(30, seed=1)
    data = (images[..., 0], labels), (test_images[..., 0], truth[::-1].copy())
    monkeypatch.setattr(getattr(keras.datasets, module), "load_data", lambda: data)
    folder, metadata = fetch(tmp_path, source)
    assert rows(folder) == {"train": 40, "test": 30}
    read, read_labels = csvs.read_images(folder / "train.csv", labelled=True)
    np.testing.assert_array_equal(read, images)
    np.testing.assert_array_equal(read_labels, labels)
    read, _ = csvs.read_images(folder / "test.csv", labelled=False)
    np.testing.assert_array_equal(read, test_images)
    np.testing.assert_array_equal(csvs.read_labels(folder / "solution.csv")[1], truth[::-1])
    assert metadata == {"source": source, "origin": f"keras.datasets.{module}"}


@pytest.mark.parametrize("text", ["URL fetch failure on https://x: None -- down\nmore", ""])
def test_mnist_without_network_is_an_external_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    from pipeline.backend import keras

    def load_data() -> None:
        raise Exception(text)

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(ExternalError, match="mnist could not be downloaded") as caught:
        fetch(tmp_path, "mnist")
    assert text.partition("\n")[0] in str(caught.value)
    assert "make demo" in str(caught.value)


# --- a folder or zip of the user -------------------------------------------------------------


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
def test_a_folder_with_the_files_packed_in_any_way(
    tmp_path: Path, tiny_folder: Path, pack: Callable[[Path], None]
) -> None:
    expected = contents(tiny_folder)
    pack(tiny_folder)
    folder, metadata = fetch(tmp_path, "local", tiny_folder)
    assert contents(folder) == expected
    assert metadata == {"source": "local", "origin": "tiny"}


@pytest.mark.parametrize("inside", ["", "digit-recognizer/", "a/b/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_the_files_at_any_depth(
    tmp_path: Path, tiny_folder: Path, inside: str, method: int
) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip", inside, method)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._train.csv", b"rubbish")
        archive.writestr("README.txt", b"text")
    folder, metadata = fetch(tmp_path, "local", path)
    assert contents(folder) == contents(tiny_folder)
    assert metadata["origin"] == "tiny.zip"


def test_the_files_that_are_read_are_inputs_of_the_task(tiny_folder: Path) -> None:
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
def test_the_message_names_a_missing_file(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    (tiny_folder / name).unlink()
    assert f"{tiny_folder}: {name} is missing" in fault(tmp_path, tiny_folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_message_names_a_missing_member(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for other in NAMES:
            if other != name:
                archive.write(tiny_folder / other, other)
    assert f"{path}: contains 0 files named {name}" in fault(tmp_path, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_message_names_a_duplicate_member(tmp_path: Path, tiny_folder: Path) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("old/test.csv", b"")
    assert "contains 2 files named test.csv" in fault(tmp_path, path)


def test_a_file_that_is_not_a_zip(tmp_path: Path, tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    message = fault(tmp_path, path)
    assert message.startswith(str(path))
    assert "zip" in message


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_damaged_content(tmp_path: Path, tiny_folder: Path, method: int) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip", method=method)
    content = bytearray(path.read_bytes())
    for place in range(300, 400):
        content[place] ^= 0x55
    path.write_bytes(content)
    assert "train.csv is damaged" in fault(tmp_path, path)


def test_a_zip_with_wrong_offsets(tmp_path: Path, tiny_folder: Path) -> None:
    path = archive_of(tiny_folder, tmp_path / "tiny.zip")
    content = bytearray(path.read_bytes())
    content[0:2] = b"XX"
    path.write_bytes(content)
    assert "train.csv is damaged" in fault(tmp_path, path)


def test_a_zip_with_a_compression_that_python_lacks(tmp_path: Path, tiny_folder: Path) -> None:
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


def test_a_zipped_csv_that_is_not_a_zip(tmp_path: Path, tiny_folder: Path) -> None:
    (tiny_folder / "test.csv").rename(tiny_folder / "test.csv.zip")
    assert "test.csv" in fault(tmp_path, tiny_folder)


def test_a_gzip_that_is_not_one_or_is_truncated(tmp_path: Path, tiny_folder: Path) -> None:
    gzipped(tiny_folder)
    path = tiny_folder / "test.csv.gz"
    whole = path.read_bytes()
    for damaged in (b"no gzip at all", whole[:-20], whole[:200] + b"\xff" * 50 + whole[250:]):
        path.write_bytes(damaged)
        assert "test.csv is damaged" in fault(tmp_path, tiny_folder)


def test_unpacking_stops_at_the_limit(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LIMIT", 3_000_000)
    (tiny_folder / "test.csv").unlink()
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        file.write(b"0" * 20_000_000)
    (tiny_folder / "test.csv.gz").write_bytes(packed.getvalue())
    assert "test.csv unpacks to more than 3,000,000 bytes" in fault(tmp_path, tiny_folder)
    assert (tmp_path / "data" / "raw" / "test.csv").stat().st_size < 10_000_000


def test_the_files_of_the_user_are_untouched(tmp_path: Path) -> None:
    mine = write_digits(tmp_path / "mine")
    before = contents(mine)
    fetch(tmp_path, "local", mine)
    assert contents(mine) == before


def test_a_fault_of_an_earlier_file_is_printed_before_it_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write_digits(tmp_path / "data")
    replace_cell(earlier / "train.csv", line=3, column=4, text="x")
    fetch(tmp_path, "local", write_digits(tmp_path / "mine"))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{earlier / 'train.csv'}, line 3, column pixel3: ")
