"""files.py: files are complete or absent, and content alone tells them apart."""

import os
import time
from pathlib import Path

import pytest
from conftest import settle

from pipeline.files import atomic, fingerprint, read_json, write_json

# --- writing -------------------------------------------------------------------------------------


def test_atomic_puts_the_content_in_place(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("all of it")
        assert not (tmp_path / "new" / "file.txt").exists()
    assert (tmp_path / "new" / "file.txt").read_text() == "all of it"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_leaves_the_old_content_when_the_block_raises(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["file.txt"]


def test_atomic_leaves_nothing_when_the_first_write_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_write_json_can_be_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"k": [1, "é"]})
    assert read_json(tmp_path / "a.json") == {"k": [1, "é"]}


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"'])
def test_read_json_accepts_objects_only(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "absent.json") is None


# --- fingerprints of files -----------------------------------------------------------------------


def test_equal_content_has_equal_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    (tmp_path / "c").write_bytes(b"Same")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "c")


def test_a_change_in_place_with_the_old_date_is_noticed(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"pixel 1")
    dates = path.stat().st_atime_ns, path.stat().st_mtime_ns
    settle(path)
    before = fingerprint(path, cache)
    assert cache, "the fingerprint should have been remembered"
    with path.open("r+b") as file:
        file.write(b"pixel 2")
    os.utime(path, ns=dates)
    assert path.stat().st_mtime_ns == dates[1]
    assert fingerprint(path, cache) != before


def test_a_remembered_file_is_not_read_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"content")
    settle(path)
    fingerprint(path, cache)
    cache[str(path)][4] = "remembered"
    assert fingerprint(path, cache) == "remembered"


def test_a_file_written_this_moment_is_not_remembered(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"content")
    os.utime(path)
    path.touch()
    if time.time_ns() - path.stat().st_ctime_ns < 50_000_000:
        fingerprint(path, cache)
        assert cache == {}


@pytest.mark.parametrize("damage", [5, "text", [], [1, 2]])
def test_a_damaged_entry_of_the_cache_is_ignored(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert fingerprint(path, {str(path): damage}) == fingerprint(path)  # type: ignore[dict-item]
