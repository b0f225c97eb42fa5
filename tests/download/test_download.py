"""download/: each source writes the competition's CSVs, or the message names what is wrong."""

import gzip
import importlib
import io
import re
import tarfile
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
        ("sample ()", "rename it"),
    ],
)
def test_names_that_datasets_cannot_have(tmp_path: Path, name: str, part: str) -> None:
    if name != "absent":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=part) as caught:
        dataset(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("digit-recognizer (1).zip", "digit-recognizer-1"),
        ("digits.tar.gz", "digits"),
        ("my digits", "my-digits"),
        ("a.b.zip", "a-b"),
        ("zähl", "z-hl"),
        ("数字.zip", "local"),
        ("../..", None),
    ],
)
def test_any_file_name_makes_a_dataset_name(tmp_path: Path, file: str, name: str | None) -> None:
    path = tmp_path / file
    if not path.exists():
        path.touch()
    found = dataset(str(path))
    assert re.fullmatch("[A-Za-z0-9_-]+", found.name)
    assert name in (None, found.name)


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


@pytest.mark.parametrize("level", ["a", "a/b"])
@pytest.mark.parametrize("pack", [lambda folder: None, zipped])
def test_a_folder_further_down(
    tmp_path: Path, tiny_folder: Path, level: str, pack: Callable[[Path], None]
) -> None:
    inner = write_digits(tmp_path / "outer" / level)
    pack(inner)
    folder, _ = fetch(tmp_path, "local", tmp_path / "outer")
    assert contents(folder) == contents(tiny_folder)


def test_a_folder_that_each_csv_was_unpacked_to(tmp_path: Path, tiny_folder: Path) -> None:
    for name in NAMES:  # as Windows unpacks train.csv.zip
        (tmp_path / "outer" / name).mkdir(parents=True)
        (tmp_path / "outer" / name / name).write_bytes((tiny_folder / name).read_bytes())
    folder, _ = fetch(tmp_path, "local", tmp_path / "outer")
    assert contents(folder) == contents(tiny_folder)


def test_two_folders_further_down_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_digits(tmp_path / "outer" / name)
    message = fault(tmp_path, tmp_path / "outer")
    assert "contains 2 files named train.csv" in message
    assert f"{tmp_path}/outer/a/train.csv and {tmp_path}/outer/b/train.csv" in message


def wrap(path: Path, members: dict[str, bytes]) -> Path:
    """Write a zip or tar."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(
            path, f"w:{path.suffix[1:].replace('tgz', 'gz').replace('tar', '')}"
        ) as t:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                t.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz", "d.tgz", "d.tar.xz", "d (1).zip"])
@pytest.mark.parametrize("inside", ["", "./", "a/b/", "digit-recognizer\\", "train.csv/"])
@pytest.mark.parametrize("pack", [lambda folder: None, zipped, gzipped])
def test_an_archive_with_packed_files(
    tmp_path: Path, tiny_folder: Path, name: str, inside: str, pack: Callable[[Path], None]
) -> None:
    expected = contents(tiny_folder)
    pack(tiny_folder)
    members = {inside + each: content for each, content in contents(tiny_folder).items()}
    folder, _ = fetch(tmp_path, "local", wrap(tmp_path / name, members))
    assert contents(folder) == expected


@pytest.mark.parametrize("inner", ["inner.zip", "inner.tar.gz"])
@pytest.mark.parametrize("outer", ["outer.zip", "outer.tgz"])
def test_an_archive_in_an_archive(
    tmp_path: Path, tiny_folder: Path, inner: str, outer: str
) -> None:
    expected = contents(tiny_folder)
    packed = wrap(tmp_path / inner, expected).read_bytes()
    members = {f"a/{inner}": packed, f"__MACOSX/a/._{inner}": b"rubbish", "README.txt": b""}
    folder, _ = fetch(tmp_path, "local", wrap(tmp_path / outer, members))
    assert contents(folder) == expected


def test_two_archives_in_an_archive_are_refused_by_name(tmp_path: Path, tiny_folder: Path) -> None:
    packed = archive_of(tiny_folder, tmp_path / "inner.zip").read_bytes()
    path = wrap(tmp_path / "outer.zip", {"a.zip": packed, "b/c.zip": packed})
    message = fault(tmp_path, path)
    assert "contains 2 files" in message
    assert "a.zip" in message
    assert "c.zip" in message


def test_a_csv_both_plain_and_packed_in_an_archive_is_refused(
    tmp_path: Path, tiny_folder: Path
) -> None:
    members = contents(tiny_folder)
    members["old/train.csv.gz"] = gzip.compress(members["train.csv"])
    assert "2 files named train.csv" in fault(tmp_path, wrap(tmp_path / "a.zip", members))


def test_archives_without_end_are_refused(tmp_path: Path) -> None:
    packed = b""
    for _ in range(5):
        packed = wrap(tmp_path / "a.zip", {"a.zip": packed}).read_bytes()
    assert "too many archives" in fault(tmp_path, tmp_path / "a.zip")


@pytest.mark.parametrize("inner", ["train.csv.zip", "inner.zip", "inner.tar.gz", "train.csv.gz"])
@pytest.mark.parametrize("outer", ["outer.zip", "outer.tgz"])
def test_unpacking_an_inner_archive_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, outer: str
) -> None:
    monkeypatch.setattr(local, "LIMIT", 3_000_000)
    bomb = b"0" * 20_000_000
    packed = gzip.compress(bomb)
    if not inner.endswith("csv.gz"):
        packed = wrap(tmp_path / inner, {"train.csv": bomb}).read_bytes()
    path = wrap(tmp_path / outer, {inner: packed})
    assert "unpacks to more than 3,000,000 bytes" in fault(tmp_path, path)
    copied = tmp_path / "data" / "raw" / "train.csv"
    assert copied.stat().st_size < 10_000_000


@pytest.mark.parametrize("name", ["../train.csv", "/train.csv", "..\\train.csv", "C:\\train.csv"])
@pytest.mark.parametrize("outer", ["outer.zip", "outer.tgz"])
def test_a_member_outside_the_archive_is_refused(
    tmp_path: Path, tiny_folder: Path, name: str, outer: str
) -> None:
    path = wrap(tmp_path / outer, {**contents(tiny_folder), name: b""})
    assert "points outside" in fault(tmp_path, path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("train.csv")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert "train.csv is a symbolic link" in fault(tmp_path, tmp_path / "a.tar")


def test_a_tar_that_is_truncated(tmp_path: Path, tiny_folder: Path) -> None:
    path = wrap(tmp_path / "a.tar.gz", contents(tiny_folder))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "is damaged" in fault(tmp_path, path)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qmnist-test-images-idx3-ubyte.gz", "QMNIST: take DATASET=mnist"),
        ("fashion-mnist_train.csv", "Fashion-MNIST: take DATASET=fashion"),
        ("mnist_train.csv", "MNIST: take DATASET=mnist"),
        ("train-images.idx3-ubyte", "take DATASET=mnist or DATASET=fashion"),
    ],
)
def test_the_files_of_other_datasets_are_named(
    tmp_path: Path, wrapped: bool, name: str, said: str
) -> None:
    path = wrap(tmp_path / "a.zip", {name: b""})
    if not wrapped:
        path = tmp_path / "folder"
        path.mkdir()
        (path / name).touch()
    assert said in fault(tmp_path, path)


def test_a_folder_with_an_archive(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "downloads").mkdir()
    archive_of(tiny_folder, tmp_path / "downloads" / "digit-recognizer (1).zip")
    folder, metadata = fetch(tmp_path, "local", tmp_path / "downloads")
    assert contents(folder) == contents(tiny_folder)
    assert metadata["origin"] == "digit-recognizer (1).zip"


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
