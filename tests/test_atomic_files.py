"""files.py: files are complete or absent, and content alone tells them apart."""

import os
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


def test_atomic_leaves_the_old_content_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for before in ([], ["file.txt"]):
        with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt
        assert [left.name for left in tmp_path.iterdir()] == before
        path.write_text("old")
    assert path.read_text() == "old"


def test_what_write_json_wrote_is_read_again_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    write_json(path, {"k": [1, "é"]})
    assert read_json(path) == {"k": [1, "é"]}
    for content in ("", "{", "[1]", "null", path.read_text().replace("1", "2", 1)):
        path.write_text(content)
        assert read_json(path) is None, content


# --- fingerprints of files -----------------------------------------------------------------------


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


def test_a_remembered_file_is_not_read_again_unless_its_entry_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"content")
    settle(path)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.files.time.time_ns", lambda: path.stat().st_ctime_ns + 1)
        fingerprint(path, cache)
    assert cache == {}, "it may change again within one tick of the clock"
    digest = fingerprint(path, cache)
    cache[str(path)][4] = "remembered"
    assert fingerprint(path, cache) == "remembered"
    for damage in (5, "text", [], [1, 2]):
        assert fingerprint(path, {str(path): damage}) == digest  # type: ignore[dict-item]
