"""endings.py: every error ends in one line that names the remedy, and in the right exit code."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.endings import REMEDIES, ending, explained
from pipeline.errors import ExternalError, UserError


class ResourceExhaustedError(Exception):
    """As TensorFlow raises it."""


def system_error(number: int, path: str | None = "data/x.npy") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        (UserError("a.csv, line 3: not a number"), 2, ["a.csv, line 3: not a number"]),
        (ExternalError("the network is down"), 1, ["the network is down"]),
        (system_error(errno.ENOSPC), 1, ["data/x.npy: No space left", "free some space"]),
        (system_error(errno.EIO), 1, [f"data/x.npy: {os.strerror(errno.EIO)}"]),
        # Where no file is named, the disk is that of the folder that the command works in.
        (system_error(errno.ENOSPC, None), 1, [f"{Path.cwd()}: No space left"]),
        (OSError("the socket is closed"), 1, ["the socket is closed"]),
        # What NumPy raises when a disk fills up.
        (OSError("100 requested and 20 written"), 1, ["100 requested and 20 written", "space"]),
        (KeyboardInterrupt(), 130, ["stopped", "same command"]),
        (MemoryError(), 1, ["out of memory", "close other programs"]),
        (ResourceExhaustedError("OOM when allocating"), 1, ["out of memory"]),
        (ImportError("x.so: failed to map segment from shared object"), 1, ["out of memory"]),
        (ImportError("No module named 'x'"), 1, ["ImportError", "--debug"]),
        (ZeroDivisionError("half"), 1, ["ZeroDivisionError", "half", "--debug"]),
    ],
)
def test_an_error_ends_in_a_line_and_an_exit_code(
    error: BaseException, code: int, parts: list[str]
) -> None:
    line, found = ending(error)
    assert found == code
    for part in parts:
        assert part in line


def test_after_each_remedy_the_same_command_resumes() -> None:
    for number in REMEDIES:
        assert "run the same command again" in explained(system_error(number))


def test_the_place_stands_in_for_a_missing_file_name() -> None:
    assert explained(system_error(errno.ENOSPC, None), "data/tiny").startswith("data/tiny: ")
    assert explained(system_error(errno.ENOSPC), "data/tiny").startswith("data/x.npy: ")
