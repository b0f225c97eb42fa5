"""Check for memory before training: a process that runs out of it is killed without a message."""

import contextlib
import resource
from pathlib import Path

from pipeline.errors import ExternalError

# What the smallest run was seen to need, rounded down: memory, and address space with it.
MEMORY = 600 << 20
ADDRESSES = 3 << 30


def check() -> None:
    """Refuse to start what could not even load its libraries.

    Raises:
        ExternalError: there is too little memory; the message says what to do.
    """
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < ADDRESSES:
        raise ExternalError(
            f"training needs {_gib(ADDRESSES)} of address space, and the limit is "
            f"{_gib(addresses)}; lift it with `ulimit -v unlimited`, then run the same "
            "command again; it continues from here"
        )
    left = available()
    if left is not None and left < MEMORY:
        raise ExternalError(
            f"training needs at least {_gib(MEMORY)} of memory, and {_gib(left)} is left; close "
            "other programs, or give the container more, then run the same command again; it "
            "continues from here"
        )


def available(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still use; None where the system does not say.

    Args:
        root: the folder that contains proc/ and sys/.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        found.append((sizes["MemAvailable"] + sizes.get("SwapFree", 0)) << 10)
    # A container's own limit, in cgroup versions 2 and 1.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max"
            found.append(int((root / "sys/fs/cgroup" / name).read_text(encoding="ascii")))
    return min(found, default=None)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
