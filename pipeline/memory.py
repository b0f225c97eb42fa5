"""Whether there is memory to train in. A process that runs out of it is killed without a word."""

import resource
from pathlib import Path

from pipeline.errors import GOES_ON, OutsideError

# What the smallest training was seen to need, rounded down: memory, and with it addresses.
MEMORY = 600 << 20
ADDRESSES = 3 << 30


def check() -> None:
    """Refuse to begin what could not even load its libraries.

    Raises:
        OutsideError: there is too little memory; the message says what to do.
    """
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < ADDRESSES:
        raise OutsideError(
            f"training needs {_gib(ADDRESSES)} of addresses, and {_gib(addresses)} are allowed; "
            f"lift the limit with `ulimit -v unlimited`, {GOES_ON}"
        )
    left = available()
    if left is not None and left < MEMORY:
        raise OutsideError(
            f"training needs at least {_gib(MEMORY)} of memory, and {_gib(left)} are left; close "
            f"other programs, or give the container more, {GOES_ON}"
        )


def available(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still use, as Linux says it; None where it does not.

    Args:
        root: where proc/ and sys/ lie.
    """
    found = []
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        found.append((sizes["MemAvailable"] + sizes.get("SwapFree", 0)) << 10)
    except (OSError, ValueError, KeyError, IndexError):
        pass
    # A container's own limit, in the two ways in which Linux keeps it.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found.append(int((root / "sys/fs/cgroup" / name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max"
            continue
    return min(found, default=None)


def ran_out(error: BaseException) -> bool:
    """Whether an error says, in its own words, that there was too little memory."""
    if isinstance(error, ImportError):  # a library of TensorFlow's for which there was no room
        return "failed to map segment" in str(error) or "Cannot allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
