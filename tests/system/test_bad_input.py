"""Datasets and presets that are wrong: each ends in one line, and every earlier file stays.

One table: a name, what spoils a good dataset, preset or archive, and what the line has to contain.
Every row goes through the command line, stage by stage, in a project in which the good dataset of
the same name was built before. Every value, header and archive is tested with the module that reads
it; here is a row for each kind.
"""

import gzip
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    CODE_READ_ONCE,
    PATIENCE,
    Digits,
    build,
    contents,
    copy_package,
    replace_cell,
    write_digits,
)

from pipeline import fingerprints, stages
from pipeline.download import local

STAGES = ("config", "download", "preprocess", "split", "train")
NAMES = ("train.csv", "test.csv", "sample_submission.csv")
TRAIN, TEST, SAMPLE = NAMES
PRESET = "[split]\nfolds = 4\n\n[train]\nepochs = 1\n"
# A lower limit to the size of a dataset, so that this file writes no gigabytes.
SMALL_LIMIT = 150_000_000

Spoil = Callable[[Path], object]


# --- what spoils a dataset, home/tiny -------------------------------------------------------------


def cell(name: str, line: int, column: int, text: str) -> Spoil:
    return lambda home: replace_cell(home / "tiny" / name, line, column, text)


def content(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(home: Path) -> None:
        path = home / "tiny" / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def lines(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Spoil:
    """Change the list of a file's lines, the header first."""
    return content(name, lambda data: b"\n".join([*change(data.splitlines()), b""]))


def zipped_in_place(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """name.gz in place of `name`, changed after it was packed."""

    def spoil(home: Path) -> None:
        path = home / "tiny" / name
        packed = change(gzip.compress(path.read_bytes(), mtime=0))
        path.with_name(f"{name}.gz").write_bytes(packed)
        path.unlink()

    return spoil


def gzip_bomb(_: bytes) -> bytes:
    """A thousandth as long as the three gigabytes of zeros that it unpacks to."""
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + block * 3000 + packer.flush() + bytes(8)


def rows(data: bytes, following: bytes) -> bytes:
    """The header, and other rows."""
    return data.partition(b"\n")[0] + b"\n" + following


# --- what spoils an archive, home/tiny.zip --------------------------------------------------------


def archive(
    change: Callable[[zipfile.ZipFile], object] = lambda archive: None,
    leave_out: str = "",
    method: int = zipfile.ZIP_DEFLATED,
    patch: Callable[[bytes], bytes] = lambda content: content,
) -> Spoil:
    """A zip of the good dataset without one file, with something added to it, and patched."""

    def spoil(home: Path) -> None:
        path = home / "tiny.zip"
        with zipfile.ZipFile(path, "w", method) as opened:
            for name in NAMES:
                if name != leave_out:
                    opened.write(home / "tiny" / name, name)
            change(opened)
        path.write_bytes(patch(path.read_bytes()))

    return spoil


def member(name: str, mode: int = 0o644, data: bytes = b"") -> Spoil:
    """A zip in which test.csv has another name, and the mode of a file or a link."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return archive(lambda opened: opened.writestr(entry, data), leave_out=TEST)


def patched(field: int, value: bytes) -> Callable[[bytes], bytes]:
    """Change a field of the first member, at its place in the central directory."""

    def patch(content: bytes) -> bytes:
        place = content.find(b"PK\x01\x02") + field
        return content[:place] + value + content[place + len(value) :]

    return patch


def large_member(opened: zipfile.ZipFile) -> None:
    with opened.open(TEST, "w") as file:
        for _ in range(700):
            file.write(bytes(1_000_000))


def says_less(content: bytes) -> bytes:
    return content.replace((700_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))


# --- the tables -----------------------------------------------------------------------------------


def preset(toml: str) -> Spoil:
    return lambda home: (home / "mine.toml").write_text(toml)


SMALL: dict[str, tuple[Spoil, list[str]]] = {
    "a pixel that is a word": (
        cell(TRAIN, 5, 9, "x"),
        ["tiny/train.csv, line 5, column pixel8: 'x' is not", "a whole number from 0 to 255"],
    ),
    "a label of 10": (
        cell(TRAIN, 2, 0, "10"),
        ["tiny/train.csv, line 2, column label: '10' is not", "a whole number from 0 to 9"],
    ),
    "a row that is short": (
        lines(TEST, lambda rows: [*rows[:6], rows[6].rpartition(b",")[0], *rows[7:]]),
        ["tiny/test.csv, line 7: expected 784 values, found 783"],
    ),
    "no rows to test on": (lines(TEST, lambda rows: rows[:1]), ["tiny/test.csv: it has no rows"]),
    "one class missing": (
        lines(TRAIN, lambda rows: [row for row in rows if row[:2] != b"3,"]),
        ["tiny/train.csv: no row is labelled 3;"],
    ),
    "no header": (lines(TRAIN, lambda rows: rows[1:]), ["tiny/train.csv, line 1: ", "no header"]),
    "UTF-16": (
        content(TRAIN, lambda data: data.decode().encode("utf-16")),
        ["tiny/train.csv: this is UTF-16", "save it as UTF-8"],
    ),
    "an empty file": (
        content(TRAIN, lambda _: b""),
        ["tiny/train.csv, line 1: ", "the first line should begin with label,pixel0,pixel1"],
    ),
    "a file missing": (
        lambda home: (home / "tiny" / TEST).unlink(),
        ["tiny: test.csv is missing"],
    ),
    "ids with a gap": (
        lines(SAMPLE, lambda rows: [*rows[:3], *rows[4:], b"21,0"]),
        ["tiny/sample_submission.csv, line 4, column ImageId: ", "expected 3, found 4"],
    ),
    "too many ids": (
        lines(SAMPLE, lambda rows: [*rows, b"21,0"]),
        ["tiny/sample_submission.csv: 21 rows", "tiny/test.csv has 20"],
    ),
    "a gzip cut short": (
        zipped_in_place(TEST, lambda packed: packed[:-2000]),
        ["tiny/test.csv.gz: ", "damaged", "get it again"],
    ),
    "a pixel in a gzip": (
        lambda home: (cell(TRAIN, 5, 9, "256")(home), zipped_in_place(TRAIN, bytes)(home)),
        ["tiny/train.csv.gz, line 5, column pixel8: '256' is not"],
    ),
    "a zip cut short": (
        archive(patch=lambda content: content[: len(content) // 2]),
        ["tiny.zip: ", "not a zip", "give the folder"],
    ),
    "a zip with another checksum": (
        archive(patch=patched(16, bytes(4))),
        ["tiny.zip: train.csv", "damaged", "get it again"],
    ),
    "a zip without one of the files": (
        archive(leave_out=TEST),
        ["tiny.zip: ", "expected one file named test.csv, found none"],
    ),
    "a member twice": (
        archive(lambda opened: opened.writestr("again/train.csv", b"")),
        ["tiny.zip: ", "expected one file named train.csv, found "],
    ),
    "a member that climbs out": (
        member("data/../../test.csv"),
        ["tiny.zip: its member data/../../test.csv ", "outside", "put the three CSVs into"],
    ),
    "a member with an absolute path": (
        member("/test.csv"),
        ["tiny.zip: its member /test.csv ", "outside"],
    ),
    "a member that is a link": (
        member(TEST, stat.S_IFLNK | 0o777, b"/etc/passwd"),
        ["tiny.zip: test.csv", "link", "give the folder"],
    ),
    "a member that is encrypted": (
        archive(patch=patched(8, b"\x01")),
        ["tiny.zip: train.csv", "encrypted", "unpack it and give the folder"],
    ),
    "a member packed by LZMA": (
        archive(method=zipfile.ZIP_LZMA),
        ["tiny.zip: train.csv", "compression", "unpack it"],
    ),
    "a missing dataset": (
        lambda home: shutil.rmtree(home / "tiny"),
        ["there is no dataset ", "tiny", "give the path of a folder", "train.csv"],
    ),
    "a missing preset": (
        lambda home: (home / "mine.toml").unlink(),
        ["mine.toml: there is no such file"],
    ),
    "invalid TOML": (preset("[train\n"), ["mine.toml: not valid TOML: ", "line 1"]),
    "an unknown key": (
        preset("[train]\nepoch = 1"),
        ["mine.toml: unknown key train.epoch, did you mean epochs?"],
    ),
    "a value out of range": (
        preset("[split]\nfolds = 1000000000"),
        ["mine.toml: split.folds must be between 1 and 100, not 1000000000"],
    ),
    "more folds than images of a class": (
        preset("[split]\nfolds = 9\n"),
        ["train_labels.npy: class 0 has 8 rows, too few for 9 parts", "lower split.folds"],
    ),
    "a hold-out too small for ten classes": (
        preset("[split]\nfolds = 1\nholdout = 0.05"),
        ["train_labels.npy: ", "split.holdout"],
    ),
    "a member with another split": (
        preset("[ensemble]\nmembers = ['default', 'fast']"),
        ["mine.toml: ensemble.members: fast has another [split]"],
    ),
}
# Much larger than they claim to be.
LARGE: dict[str, tuple[Spoil, list[str]]] = {
    "a row that never ends": (
        content(TRAIN, lambda data: rows(data, b"1" * 10**8)),
        ["tiny/train.csv, line 2: longer than 65,536 bytes"],
    ),
    "rows of one value, millions of them": (
        content(TRAIN, lambda data: rows(data, b"1\n" * 10**7)),
        ["tiny/train.csv, line 2: expected 785 values, found 1"],
    ),
    "a row of thousands of values and many of two": (
        content(TEST, lambda data: rows(data, b"," * 60_000 + b"\n" + b"1,\n" * 10**6)),
        ["tiny/test.csv, line 2, column pixel0: empty"],
    ),
    "a gzip that unpacks to gigabytes": (
        zipped_in_place(TRAIN, gzip_bomb),
        ["tiny/train.csv.gz: ", f"{SMALL_LIMIT:,} bytes", "get it again"],
    ),
    "a member that says it has gigabytes": (
        archive(patch=patched(24, (3_000_000_000).to_bytes(4, "little"))),
        ["tiny.zip: train.csv", f"{SMALL_LIMIT:,} bytes", "give the folder"],
    ),
    "a member that has gigabytes and does not say so": (
        archive(large_member, leave_out=TEST, patch=says_less),
        ["tiny.zip: test.csv", "damaged", "get it again"],
    ),
    "brackets without end": (
        preset(f"[train]\nepochs = {'[' * 100_000}"),
        ["mine.toml: not valid TOML: "],
    ),
    "a number without end": (
        preset(f"[train]\nepochs = {'9' * 5000}"),
        ["mine.toml: not valid TOML: "],
    ),
}


# --- the rows, one by one -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good dataset and a good preset; not to be changed."""
    home = tmp_path_factory.mktemp("good")
    write_digits(home / "tiny")
    (home / "mine.toml").write_text(PRESET)
    return home


@pytest.fixture(scope="module")
def built(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the good dataset was built. All rows of the table leave it unchanged."""
    project = copy_package(tmp_path_factory.mktemp("built") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ROOT", project)
        build(str(good / "tiny"), str(good / "mine.toml"))
    return project


@pytest.fixture
def in_built(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with commands running in it."""
    monkeypatch.setattr(stages, "ROOT", built)
    # No row changes the code, and reading it is most of what a row would take.
    monkeypatch.setattr(fingerprints, "fingerprints", CODE_READ_ONCE)
    monkeypatch.chdir(built)
    return built


def arguments(home: Path, stage: str) -> list[str]:
    """The command line of a stage for the dataset and preset in `home`."""
    [dataset] = [*home.glob("*.zip"), home / "tiny"][:1]
    command = [stage, "--config", str(home / "mine.toml")]
    return command if stage == "config" else [*command, "--dataset", str(dataset)]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and date of everything below a folder."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@pytest.mark.parametrize("name", SMALL)
def test_bad_input_ends_in_one_line_and_every_file_stays(
    in_built: Path, good: Path, tmp_path: Path, digits: Digits, name: str
) -> None:
    home = Path(shutil.copytree(good, tmp_path / "home"))
    spoil, said = SMALL[name]
    spoil(home)
    before, around = contents(in_built), listing(tmp_path)
    for stage in STAGES:
        ended = digits(*arguments(home, stage))
        if ended.code:
            break
        assert ended.error == ""
    assert ended.code == 2
    assert ended.error.startswith("digits: ")
    assert ended.error.count("\n") == 1
    for words in said:
        assert words in ended.error
    assert contents(in_built) == before
    assert listing(tmp_path) == around


def test_the_good_dataset_is_accepted(in_built: Path, good: Path, digits: Digits) -> None:
    """What the table spoils is good, so nothing is due."""
    before = contents(in_built)
    for stage in STAGES:
        ended = digits(*arguments(good, stage))
        assert (ended.code, ended.error) == (0, "")
    assert contents(in_built) == before


# --- memory ---------------------------------------------------------------------------------------

MEMORY = 600_000_000  # bytes; what is measured is two thirds of it
PROGRAM = """\
import json, re, sys
from pathlib import Path
from pipeline import cli
from pipeline.download import local
local.LIMIT = int(sys.argv[1])
for words in json.loads(sys.argv[2]):
    sys.argv = ["digits", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 2
# Not ru_maxrss, which starts from the peak of the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak")
def test_large_input_is_refused_within_little_memory(
    project: Path, good: Path, tmp_path: Path
) -> None:
    assert SMALL_LIMIT < local.LIMIT
    commands = []
    for number, (spoil, _) in enumerate(LARGE.values()):
        home = Path(shutil.copytree(good, tmp_path / f"home{number}"))
        spoil(home)
        commands.append(arguments(home, "download"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SMALL_LIMIT), json.dumps(commands)],
        cwd=project,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    for line, (_, said) in zip(done.stderr.splitlines(), LARGE.values(), strict=True):
        assert all(words in line for words in said)
    assert int(done.stdout.splitlines()[-1]) * 1024 < MEMORY
    assert not contents(project / "data")
