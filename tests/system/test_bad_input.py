"""Datasets and presets that are wrong: each ends in one line, and every earlier file stays.

One table: a name, what spoils a good dataset, preset or archive, and what the line has to contain.
Every row goes through the command line, stage by stage, in a project in which the good dataset of
the same name was built before.
"""

import gzip
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    CODE_READ_ONCE,
    PACKAGE,
    PIXEL_NAMES,
    build,
    contents,
    replace_cell,
    write_digits,
)

from pipeline import cli, fingerprints, stages
from pipeline.download import local

STAGES = ("config", "download", "preprocess", "split", "train")
NAMES = ("train.csv", "test.csv", "sample_submission.csv")
TRAIN, TEST, SAMPLE = NAMES
PRESET = "[split]\nfolds = 4\n\n[train]\nepochs = 1\n"
# A lower limit to the size of a dataset, so that this file writes no gigabytes.
SMALL_LIMIT = 150_000_000
PATIENCE = 30  # seconds that a row may take; most take a few hundredths

Spoil = Callable[[Path], object]


# --- what spoils a dataset, home/tiny -------------------------------------------------------------


def cell(name: str, line: int, column: int, text: str) -> Spoil:
    return lambda home: replace_cell(home / "tiny" / name, line, column, text)


def lines(name: str, change: Callable[[list[str]], object]) -> Spoil:
    """Change the list of a file's lines, the header first."""

    def spoil(home: Path) -> None:
        path = home / "tiny" / name
        changed = path.read_text().splitlines()
        change(changed)
        path.write_text("".join(f"{line}\n" for line in changed))

    return spoil


def columns(name: str, change: Callable[[list[str]], object]) -> Spoil:
    """Change every row in the same way, the header too."""

    def each(rows: list[str]) -> None:
        for place, row in enumerate(rows):
            cells = row.split(",")
            change(cells)
            rows[place] = ",".join(cells)

    return lines(name, each)


def header(name: str, *names: str) -> Spoil:
    return lines(name, lambda rows: rows.__setitem__(0, ",".join(names)))


def content(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(home: Path) -> None:
        path = home / "tiny" / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def text(name: str, old: str, new: str) -> Spoil:
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return content(name, change)


def zipped_in_place(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """name.gz in place of `name`, changed after it was packed."""

    def spoil(home: Path) -> None:
        path = home / "tiny" / name
        packed = change(gzip.compress(path.read_bytes(), mtime=0))
        path.with_name(f"{name}.gz").write_bytes(packed)
        path.unlink()

    return spoil


def missing(name: str) -> Spoil:
    return lambda home: (home / "tiny" / name).unlink()


def a_folder_in_place_of_a_file(home: Path) -> None:
    (home / "tiny" / TEST).unlink()
    (home / "tiny" / TEST).mkdir()


def rows_of_class_3(rows: list[str]) -> None:
    rows[:] = [row for row in rows if not row.startswith("3,")]


def reordered(cells: list[str]) -> None:
    cells[5], cells[6] = cells[6], cells[5]


def zeros(size: int) -> bytes:
    """A deflate stream, a thousandth as long, that unpacks to `size` zeros."""
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size >> 20) + packer.flush()


def gzip_bomb(_: bytes) -> bytes:
    return gzip.compress(b"")[:10] + zeros(3_000_000_000) + bytes(8)


def as_one_line(_: bytes) -> bytes:
    return b",".join([b"label", *(name.encode() for name in PIXEL_NAMES)]) + b"\n" + b"1" * 10**8


def as_many_short_lines(data: bytes) -> bytes:
    return data.partition(b"\n")[0] + b"\n" + b"1\n" * 10**7


def as_one_wide_row_and_many_short_ones(data: bytes) -> bytes:
    return data.partition(b"\n")[0] + b"\n" + b"," * 60_000 + b"\n" + b"1,\n" * 10**6


# --- what spoils an archive, home/tiny.zip --------------------------------------------------------


def archive(
    change: Callable[[zipfile.ZipFile], object] = lambda archive: None,
    leave_out: str = "",
    method: int = zipfile.ZIP_DEFLATED,
    patch: Callable[[bytearray], object] = lambda content: None,
) -> Spoil:
    """A zip of the good dataset without one file, with something added to it, and patched."""

    def spoil(home: Path) -> None:
        path = home / "tiny.zip"
        with zipfile.ZipFile(path, "w", method) as opened:
            for name in NAMES:
                if name != leave_out:
                    opened.write(home / "tiny" / name, name)
            change(opened)
        content = bytearray(path.read_bytes())
        patch(content)
        path.write_bytes(content)

    return spoil


def member(name: str, mode: int = 0o644, content: bytes | None = None) -> Spoil:
    """A zip in which test.csv has another name, and the mode of a file or a link."""

    def spoil(home: Path) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        data = (home / "tiny" / TEST).read_bytes() if content is None else content
        archive(lambda opened: opened.writestr(entry, data), leave_out=TEST)(home)

    return spoil


def patched(field: int, value: bytes) -> Callable[[bytearray], None]:
    """Change a field of the first member, at its place in the central directory."""

    def patch(content: bytearray) -> None:
        place = content.find(b"PK\x01\x02") + field
        content[place : place + len(value)] = value

    return patch


def overwritten(content: bytearray) -> None:
    content[300:400] = bytes(byte ^ 0x55 for byte in content[300:400])


def an_archive_that_says_less_than_it_holds(home: Path) -> None:
    """Its directory promises 100 bytes of a member that unpacks to three gigabytes."""
    bomb = zeros(3_000_000_000)
    archive(lambda opened: opened.writestr(TEST, b"x"), leave_out=TEST)(home)
    content = bytearray((home / "tiny.zip").read_bytes())
    start, directory = content.find(b"PK\x03\x04", len(content) // 2), content.find(b"PK\x01\x02")
    while TEST.encode() not in content[start : start + 50]:
        start = content.find(b"PK\x03\x04", start + 1)
    data = start + 30 + len(TEST)
    entry = content.find(TEST.encode(), directory) - 46
    for place, value in ((start + 18, len(bomb)), (start + 22, 100)):
        content[place : place + 4] = value.to_bytes(4, "little")
    for place, value in ((entry + 20, len(bomb)), (entry + 24, 100)):
        content[place : place + 4] = value.to_bytes(4, "little")
    end = content.find(b"PK\x05\x06")
    moved = int.from_bytes(content[end + 16 : end + 20], "little") + len(bomb) - (directory - data)
    content[end + 16 : end + 20] = moved.to_bytes(4, "little")
    content[data:directory] = bomb
    (home / "tiny.zip").write_bytes(content)


def renamed(name: str) -> Spoil:
    return lambda home: (home / "tiny").rename(home / name)


# --- what spoils a preset, home/mine.toml ---------------------------------------------------------


def preset(toml: str | bytes) -> Spoil:
    data = toml.encode() if isinstance(toml, str) else toml
    return lambda home: (home / "mine.toml").write_bytes(data)


def train(toml: str) -> Spoil:
    return preset(f"[train]\n{toml}\n")


def split(toml: str) -> Spoil:
    return preset(f"[split]\n{toml}\n")


# --- the table ------------------------------------------------------------------------------------

PIXEL = "tiny/train.csv, line 5, column pixel8: "
LABEL = "tiny/train.csv, line 2, column label: "
ID = "tiny/sample_submission.csv, line 4, column ImageId: "
BYTE, DIGIT = "a whole number from 0 to 255", "a whole number from 0 to 9"
BEGIN = "the first line should begin with label,pixel0,pixel1"

CASES: dict[str, tuple[Spoil, list[str]]] = {
    # values
    "a pixel that is a word": (cell(TRAIN, 5, 9, "x"), [PIXEL, "'x' is not", BYTE]),
    "a pixel of 256": (cell(TRAIN, 5, 9, "256"), [PIXEL, "'256' is not", BYTE]),
    "a pixel of 10^5000": (cell(TRAIN, 5, 9, "1" + "0" * 5000), [PIXEL, "is not", BYTE]),
    "a pixel that is empty": (cell(TRAIN, 5, 9, ""), [PIXEL, "empty", BYTE]),
    "a pixel with a NUL byte": (cell(TRAIN, 5, 9, "7\0"), [PIXEL, r"'7\x00' is not", BYTE]),
    "a pixel of the test set": (
        cell(TEST, 21, 783, "256"),
        ["tiny/test.csv, line 21, column pixel783: '256' is not", BYTE],
    ),
    # rows
    "a row that is short": (
        lines(TRAIN, lambda rows: rows.__setitem__(6, rows[6].rpartition(",")[0])),
        ["tiny/train.csv, line 7: expected 785 values, found 784"],
    ),
    "a short row and a long one": (
        lines(TEST, lambda rows: rows.__setitem__(slice(3, 5), ["1", rows[3] + "," + rows[4]])),
        ["tiny/test.csv, line 4: expected 784 values, found 1"],
    ),
    "a row that never ends": (
        content(TRAIN, as_one_line),
        ["tiny/train.csv, line 2: longer than 65,536 bytes"],
    ),
    "rows of one value, millions of them": (
        content(TRAIN, as_many_short_lines),
        ["tiny/train.csv, line 2: expected 785 values, found 1"],
    ),
    "a row of thousands of values and many of two": (
        content(TEST, as_one_wide_row_and_many_short_ones),
        ["tiny/test.csv, line 2, column pixel0: empty", BYTE],
    ),
    "no rows to train on": (
        lines(TRAIN, lambda rows: rows.__delitem__(slice(1, None))),
        ["tiny/train.csv: no row is labelled 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"],
    ),
    "no rows to test on": (
        lines(TEST, lambda rows: rows.__delitem__(slice(1, None))),
        ["tiny/test.csv: it has no rows"],
    ),
    "one class missing": (
        lines(TRAIN, rows_of_class_3),
        ["tiny/train.csv: no row is labelled 3;"],
    ),
    # headers
    "a column more": (
        columns(TEST, lambda cells: cells.append("9")),
        ["tiny/test.csv, line 1: ", "'9' is unknown"],
    ),
    "a column renamed": (
        header(TRAIN, "digit", *PIXEL_NAMES),
        ["tiny/train.csv, line 1: ", "label' is missing", "digit' is unknown"],
    ),
    "columns reordered": (
        columns(TRAIN, reordered),
        ["tiny/train.csv, line 1: ", "expected column 'pixel4'", "found 'pixel5'"],
    ),
    "a column twice": (
        columns(TRAIN, lambda cells: cells.append(cells[4])),
        ["tiny/train.csv, line 1: ", "'pixel3' is there twice"],
    ),
    "a line before the header": (
        lines(TRAIN, lambda rows: rows.insert(0, "sep=,")),
        ["tiny/train.csv, line 1: ", BEGIN, "'sep=,'"],
    ),
    # files that are not such tables
    "semicolons": (text(TRAIN, ",", ";"), ["tiny/train.csv, line 1: ", BEGIN, "commas"]),
    "UTF-16": (
        content(TRAIN, lambda data: data.decode().encode("utf-16")),
        ["tiny/train.csv: this is UTF-16", "save it as UTF-8"],
    ),
    "UTF-16 without a mark": (
        content(TEST, lambda data: data.decode().encode("utf-16-be")),
        ["tiny/test.csv: this is UTF-16", "save it as UTF-8"],
    ),
    "NUL bytes from some row on": (
        content(TEST, lambda data: data[:20_000] + bytes(len(data) - 20_000)),
        ["tiny/test.csv, line ", r"\x00' is not", BYTE],
    ),
    "a workbook": (
        content(TEST, lambda _: b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256)) * 30),
        ["tiny/test.csv: ", "damaged", "get it again"],
    ),
    "an empty file": (content(TRAIN, lambda _: b""), ["tiny/train.csv, line 1: ", BEGIN]),
    "a folder for a file": (a_folder_in_place_of_a_file, ["tiny: test.csv is missing"]),
    # sample submissions
    "ids with a gap, and one more at the end": (
        lines(SAMPLE, lambda rows: (rows.pop(3), rows.append("21,0"))),
        [ID, "expected 3, found 4"],
    ),
    "too many ids": (
        lines(SAMPLE, lambda rows: rows.append("21,0")),
        ["tiny/sample_submission.csv: 21 rows", "tiny/test.csv has 20"],
    ),
    "a sample's label that is empty": (
        cell(SAMPLE, 4, 1, ""),
        ["tiny/sample_submission.csv, line 4, column Label: empty", DIGIT],
    ),
    # gzipped files
    "a gzip cut short": (
        zipped_in_place(TEST, lambda packed: packed[:-2000]),
        ["tiny/test.csv.gz: ", "damaged", "get it again"],
    ),
    "a web page for a gzip": (
        zipped_in_place(SAMPLE, lambda _: b"<!DOCTYPE html>"),
        ["tiny/sample_submission.csv.gz, line 1: ", "'<!DOCTYPE html>'"],
    ),
    "a gzip that unpacks to gigabytes": (
        zipped_in_place(TRAIN, gzip_bomb),
        ["tiny/train.csv.gz: ", f"{SMALL_LIMIT:,} bytes", "get it again"],
    ),
    "a pixel in a gzip": (
        lambda home: (
            cell(TRAIN, 5, 9, "256")(home),
            zipped_in_place(TRAIN, lambda packed: packed)(home),
        ),
        ["tiny/train.csv.gz, line 5, column pixel8: '256' is not", BYTE],
    ),
    # archives
    "a file that is not a zip": (
        lambda home: (home / "tiny" / TRAIN).rename(home / "tiny.zip"),
        ["tiny.zip: ", "not a zip", "give the folder"],
    ),
    "a zip without members": (
        lambda home: zipfile.ZipFile(home / "tiny.zip", "w").close(),
        ["tiny.zip: ", "expected one file named train.csv, found none"],
    ),
    "a zip without one of the files": (
        archive(leave_out=TEST),
        ["tiny.zip: ", "expected one file named test.csv, found none"],
    ),
    "a zip with overwritten content": (
        archive(patch=overwritten),
        ["tiny.zip: train.csv", "damaged", "get it again"],
    ),
    "a zip whose name is no text": (
        archive(
            patch=lambda content: (patched(8, b"\x00\x08")(content), patched(46, b"\xff")(content))
        ),
        ["tiny.zip: train.csv", "damaged", "get it again"],
    ),
    "a member twice": (
        archive(lambda opened: opened.writestr("again/train.csv", b"")),
        ["tiny.zip: ", "expected one file named train.csv, found "],
    ),
    "a member that climbs out": (
        member("../test.csv"),
        ["tiny.zip: its member ../test.csv ", "outside", "put the three CSVs into"],
    ),
    "a member that is a link": (
        member(TEST, stat.S_IFLNK | 0o777, b"/etc/passwd"),
        ["tiny.zip: test.csv", "link", "give the folder"],
    ),
    "a member that says it has gigabytes": (
        archive(patch=patched(24, (3_000_000_000).to_bytes(4, "little"))),
        ["tiny.zip: train.csv", f"{SMALL_LIMIT:,} bytes", "give the folder"],
    ),
    "a member that has gigabytes and does not say so": (
        an_archive_that_says_less_than_it_holds,
        ["tiny.zip: test.csv", "damaged", "get it again"],
    ),
    "a member that is encrypted": (
        archive(patch=patched(8, b"\x01")),
        ["tiny.zip: train.csv", "encrypted", "unpack it and give the folder"],
    ),
    "a member packed by Deflate64": (
        archive(patch=patched(10, b"\x09\x00")),
        ["tiny.zip: train.csv", "compression", "unpack it"],
    ),
    # paths
    "a missing dataset": (
        lambda home: shutil.rmtree(home / "tiny"),
        ["there is no dataset ", "tiny", "give the path of a folder", "train.csv"],
    ),
    "a dataset with the name of a source": (renamed("mnist"), ["mnist: rename it"]),
    "a missing preset": (
        lambda home: (home / "mine.toml").unlink(),
        ["mine.toml: there is no such file"],
    ),
    # presets
    "a number without end": (
        train(f"epochs = {'9' * 5000}"),
        ["mine.toml: not valid TOML: "],
    ),
    "brackets without end": (
        train(f"epochs = {'[' * 100_000}"),
        ["mine.toml: not valid TOML: "],
    ),
    "more folds than images of a class": (
        split("folds = 9"),
        ["train_labels.npy: class 0 has 8 rows, too few for 9 parts", "lower split.folds"],
    ),
    "a hold-out too small for ten classes": (
        split("folds = 1\nholdout = 0.05"),
        ["train_labels.npy: ", "split.holdout"],
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
    project = tmp_path_factory.mktemp("built") / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, project / "pipeline", ignore=ignored)
    (project / "submissions").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ROOT", project)
        build(str(good / "tiny"), str(good / "mine.toml"))
    return project


@pytest.fixture
def in_built(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with commands running in it."""
    monkeypatch.setattr(stages, "ROOT", built)
    monkeypatch.setattr(local, "LIMIT", SMALL_LIMIT)
    # No row changes the code, and reading it is most of what a row would take.
    monkeypatch.setattr(fingerprints, "fingerprints", CODE_READ_ONCE)
    monkeypatch.chdir(built)
    return built


@pytest.fixture
def home(good: Path, tmp_path: Path) -> Path:
    """A copy of the good dataset and preset, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "home"))


def arguments(home: Path, stage: str) -> list[str]:
    """The command line of a stage for the dataset and preset in `home`."""
    [dataset] = [
        *home.glob("*.zip"),
        *(path for path in home.glob("*") if path.is_dir() and path.suffix != ".toml"),
    ][:1] or [home / "tiny"]
    command = [stage, "--config", str(home / "mine.toml")]
    return command if stage == "config" else [*command, "--dataset", str(dataset)]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command line in this process; returns the exit code and stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["digits", *words])
        patch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert caught.value.code is None or isinstance(caught.value.code, int)
    return caught.value.code or 0, capsys.readouterr().err


def first_failure(capsys: pytest.CaptureFixture[str], home: Path) -> tuple[int, str]:
    """Run the stages one after another up to the first that fails."""
    for stage in STAGES:
        exit_code, errors = call(capsys, *arguments(home, stage))
        if exit_code:
            return exit_code, errors
        assert errors == ""
    pytest.fail("all stages accepted it")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_bad_input_ends_in_one_line_and_every_file_stays(
    in_built: Path, home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    spoil, said = CASES[name]
    spoil(home)
    before, around = contents(in_built), listing(home.parent)
    began = time.monotonic()

    exit_code, errors = first_failure(capsys, home)

    assert time.monotonic() - began < PATIENCE
    assert exit_code == 2
    assert errors.startswith("digits: ")
    assert errors.count("\n") == 1
    assert len(errors) < 1000
    for words in said:
        assert words in errors
    assert contents(in_built) == before
    assert listing(home.parent) == around


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and date of everything below a folder."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def test_the_good_dataset_is_accepted(
    in_built: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the table spoils is good, so nothing is due."""
    before = contents(in_built)
    for stage in STAGES:
        assert call(capsys, *arguments(home, stage)) == (0, "")
    assert contents(in_built) == before


# --- memory ---------------------------------------------------------------------------------------

# The rows whose files are much larger than they claim to be.
LARGE = (
    "a row that never ends",
    "rows of one value, millions of them",
    "a row of thousands of values and many of two",
    "a gzip that unpacks to gigabytes",
    "a member that says it has gigabytes",
    "a member that has gigabytes and does not say so",
    "brackets without end",
)
MEMORY = 600_000_000  # bytes; what is measured is two thirds of it
PROGRAM = """\
import json, re, sys
from pathlib import Path
from pipeline import cli
from pipeline.download import local
local.LIMIT = int(sys.argv[1])
codes = []
for words in json.loads(sys.argv[2]):
    sys.argv = ["digits", *words]
    try:
        cli.main()
    except SystemExit as end:
        codes.append(end.code)
# Not ru_maxrss, which starts from the peak of the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps([codes, int(peak) * 1024]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak")
def test_large_input_is_refused_within_little_memory(
    project: Path, good: Path, tmp_path: Path
) -> None:
    commands = []
    for number, name in enumerate(LARGE):
        home = Path(shutil.copytree(good, tmp_path / f"home{number}"))
        CASES[name][0](home)
        commands.append(arguments(home, "download"))
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SMALL_LIMIT), json.dumps(commands)],
        cwd=project,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE * len(LARGE),
    )
    codes, peak = json.loads(process.stdout.splitlines()[-1])
    assert codes == [2] * len(LARGE), process.stderr
    assert peak < MEMORY
    assert not contents(project / "data")
