"""The two ways in which a run may end badly. Both end in one line that says what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can put right: an argument, a parameter, a file. Exit code 2."""


class OutsideError(Exception):
    """Something outside failed: the network, the service, the disk. Exit code 1."""


@contextmanager
def one_line() -> Iterator[None]:
    """End the process in one line and an exit code, for modules that are run beside `digits`."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"digits: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("digits: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
