"""The two ways in which a run may end badly. Both end in one line that says what to do."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can put right: an argument, a parameter, a file. Exit code 2."""


class OutsideError(Exception):
    """Something outside failed: the network, the service, the disk. Exit code 1."""


GOES_ON = "then the same command goes on from here"
REMEDIES = {
    errno.ENOSPC: f"free some space, {GOES_ON}",
    errno.EDQUOT: f"free some space, {GOES_ON}",
    errno.EFBIG: f"lift the limit with `ulimit -f unlimited`, {GOES_ON}",
    errno.EACCES: f"get the right to it, or work in a folder of your own; {GOES_ON}",
    errno.EPERM: f"get the right to it, or work in a folder of your own; {GOES_ON}",
    errno.EROFS: f"make it writable, or work in another folder; {GOES_ON}",
    errno.ENOMEM: f"close other programs, {GOES_ON}",
}


def explained(error: OSError, place: str = "a file") -> str:
    """The file or folder, or else the place, what the system says of it, and what to do."""
    number, said = error.errno, error.strerror or str(error)
    if number is None and "written" in said:  # NumPy's "100 requested and 20 written"
        number, said = errno.ENOSPC, f"not all could be written ({said})"
    remedy = REMEDIES.get(number or 0)
    return f"{error.filename or place}: {said}{f'; {remedy}' if remedy else ''}"


@contextmanager
def one_line() -> Iterator[None]:
    """End the process in one line and an exit code, for modules that are run beside `digits`."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        yield
    except UserError as error:
        print(f"digits: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"digits: {explained(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("digits: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
