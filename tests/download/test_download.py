"""download/: each source writes the competition's CSVs, or the message names what is wrong."""

import gzip
import importlib
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build, contents, digit_images, write_digits

from pipeline import artifacts, csvs, stages
from pipeline.datasets import NAMED, Dataset, dataset, user_files
from pipeline.download import download, local
from pipeline.errors import ExternalError, UserError

NAMES = ("train.csv", "test.csv", "sample_submission.csv")


def fetch(tmp_path: Path, source: str, path: Path | None = None) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    files = user_files(Dataset("mine", source, path))
    writes = {name.removesuffix(".csv"): folder / name for name in NAMES}
    return folder, download(
        files=files,
        source=source,
        module=importlib.import_module(f"pipeline.download.{source}"),
        **writes,
    )


# --- what DATASET= may be ------------------------------------------------------------------------


@pytest.mark.parametrize("word", NAMED)
def test_built_in_datasets(word: str) -> None:
    assert dataset(word, Path()) == Dataset(word, word)


def test_a_folder_is_a_dataset(tiny_folder: Path) -> None:
    assert dataset(str(tiny_folder), Path()) == Dataset("tiny", "local", tiny_folder)
    assert dataset(f"{tiny_folder}/", Path()).name == "tiny"


def test_a_zip_is_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "my-digits_2.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    assert dataset(str(path), Path()) == Dataset("my-digits_2", "local", path)


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
        dataset(str(tmp_path / name), Path())
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("digit-recognizer (1).zip", "digit-recognizer-1"),
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
    found = dataset(str(path), Path())
    assert re.fullmatch("[A-Za-z0-9_-]+", found.name)
    assert name in (None, found.name)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("keggle", "'keggle', did you mean kaggle?"),
        ("nothing", "'nothing' (choose from kaggle, sample, mnist, fashion"),
        ("", "--dataset must not be empty"),
        (" ", "--dataset must not be empty"),
        ("tniy", "'tniy', did you mean tiny?"),
    ],
)
def test_an_unknown_dataset_gets_the_nearest_and_a_list(
    project: Path, tiny_folder: Path, word: str, said: str
) -> None:
    run_download(str(tiny_folder))
    with pytest.raises(UserError, match="kaggle, sample, mnist, fashion, tiny") as caught:
        dataset(word, project)
    assert said in str(caught.value)
    assert "path" in str(caught.value)


def run_download(word: str) -> bool:
    graph = stages.load(word, "sprint")
    return artifacts.run(graph.task("download"), graph.tasks)


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_made_from_the_users_files_has_a_name(
    project: Path, tiny_folder: Path, packed: bool
) -> None:
    home = wrap(project.parent / "tiny.zip", contents(tiny_folder)) if packed else tiny_folder
    build(str(home))
    named, again = stages.load("tiny", "sprint"), stages.load(str(home), "sprint")
    assert {state.word for state in artifacts.states(named.tasks).values()} == {"fresh"}
    assert {state.word for state in artifacts.states(again.tasks).values()} == {"fresh"}
    assert not run_download("tiny")
    home.rename(project.parent / "gone")  # and so do its files
    assert {state.word for state in artifacts.states(named.tasks).values()} == {"fresh"}
    with pytest.raises(UserError, match="there is no dataset"):
        stages.load(str(home), "sprint")
    (project / "data/tiny/raw/test.csv").write_text("damaged")
    with pytest.raises(UserError, match=r"tiny.*is missing"):
        run_download("tiny")
    (project.parent / "gone").rename(home)
    assert run_download("tiny")


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
        wrap(folder / f"{name}.zip", {name: (folder / name).read_bytes()})
        (folder / name).unlink()


def mixed(folder: Path) -> None:
    path = folder / "test.csv"
    (folder / "test.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def plain(folder: Path) -> None:
    """Leave the CSVs as they are."""


def wrap(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("inside", "pack"),
    [
        *(("", plain), ("", gzipped), ("", zipped), ("", mixed)),
        *(("a", plain), ("a", zipped)),
    ],
)
def test_a_folder_with_the_files_packed_in_any_way(
    tmp_path: Path, tiny_folder: Path, inside: str, pack: Callable[[Path], None]
) -> None:
    pack(write_digits(tmp_path / "outer" / inside))
    folder, metadata = fetch(tmp_path, "local", tmp_path / "outer")
    assert contents(folder) == contents(tiny_folder)
    assert metadata["origin"] == (inside or "outer")


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


@pytest.mark.parametrize(
    ("inside", "pack", "method"),
    [
        *(("", plain, zipfile.ZIP_STORED), ("", gzipped, zipfile.ZIP_DEFLATED)),
        *(("./", zipped, zipfile.ZIP_DEFLATED), ("a/b/", plain, zipfile.ZIP_DEFLATED)),
        *(("digit-recognizer\\", plain, zipfile.ZIP_STORED),),
        *(("train.csv/", zipped, zipfile.ZIP_STORED),),
    ],
)
def test_a_zip_with_the_files_in_any_folder(
    tmp_path: Path, tiny_folder: Path, inside: str, pack: Callable[[Path], None], method: int
) -> None:
    expected = contents(tiny_folder)
    pack(tiny_folder)
    members = {inside + name: content for name, content in contents(tiny_folder).items()}
    rubbish = {"__MACOSX/._train.csv": b"rubbish", "README.txt": b"text"}
    path = wrap(tmp_path / "d (1).zip", members | rubbish, method)
    folder, metadata = fetch(tmp_path, "local", path)
    assert contents(folder) == expected
    assert metadata["origin"] == path.name


def test_a_zip_in_a_zip(tmp_path: Path, tiny_folder: Path) -> None:
    expected = contents(tiny_folder)
    inner = wrap(tmp_path / "inner.zip", expected).read_bytes()
    members = {"a/inner.zip": inner, "__MACOSX/a/._inner.zip": b"rubbish", "README.txt": b""}
    folder, _ = fetch(tmp_path, "local", wrap(tmp_path / "outer.zip", members))
    assert contents(folder) == expected


def test_zips_without_end_are_refused(tmp_path: Path) -> None:
    packed = b""
    for _ in range(5):
        packed = wrap(tmp_path / "a.zip", {"a.zip": packed}).read_bytes()
    assert "unpack it and give the folder" in fault(tmp_path, tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.csv"])
def test_a_file_that_is_not_a_zip(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("a.tar"):
        shutil.make_archive(str(tmp_path / "a"), "gztar" if name.endswith("gz") else "tar")
    else:
        path.write_bytes((tiny_folder / "train.csv").read_bytes())
    assert fault(tmp_path, path) == f"{path}: not a zip archive; unpack it and give the folder"


@pytest.mark.parametrize("inner", ["train.csv", "inner.zip", "train.csv.gz"])
def test_unpacking_a_zip_stops_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    monkeypatch.setattr(local, "LIMIT", 3_000_000)
    packed = b"0" * 20_000_000
    if inner.endswith(".zip"):
        packed = wrap(tmp_path / inner, {"train.csv": packed}).read_bytes()
    elif inner.endswith(".gz"):
        packed = gzip.compress(packed)
    path = wrap(tmp_path / "outer.zip", {inner: packed})
    assert "unpacks to more than 3,000,000 bytes" in fault(tmp_path, path)
    assert (tmp_path / "data" / "raw" / "train.csv").stat().st_size < 10_000_000


def test_a_folder_with_an_archive(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "downloads").mkdir()
    wrap(tmp_path / "downloads" / "digit-recognizer (1).zip", contents(tiny_folder))
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


MEMBER, DIRECTORY = b"PK\x03\x04", b"PK\x01\x02"  # how a zip's headers of a file begin


def test_the_files_of_the_user_are_untouched(tmp_path: Path) -> None:
    mine = write_digits(tmp_path / "mine")
    before = contents(mine)
    fetch(tmp_path, "local", mine)
    assert contents(mine) == before


@pytest.mark.parametrize("kind", ["zip", "csv.gz"])
def test_damaged_content_is_named(tmp_path: Path, tiny_folder: Path, kind: str) -> None:
    path = tiny_folder / "train.csv.gz"
    if kind == "zip":
        path = wrap(tmp_path / "tiny.zip", contents(tiny_folder))
    else:
        gzipped(tiny_folder)
    content = bytearray(path.read_bytes())
    start = content.find(b"train.csv") + 300
    content[start : start + 100] = bytes(byte ^ 0x55 for byte in content[start : start + 100])
    path.write_bytes(content)
    message = fault(tmp_path, path if kind == "zip" else tiny_folder)
    assert message.startswith(f"{path}: train.csv is damaged")
    assert "get it again" in message
