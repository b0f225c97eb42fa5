"""Runs a command as in a Kaggle notebook: Kaggle's folders, no network, nothing to install with.

`command` returns what to start. It runs in namespaces of its own (Linux; as root, or where users
may have namespaces) in which

- there is no network but loopback;
- /kaggle/input has the competition's files and datasets, read-only, each in its place;
- /kaggle/working, the current folder, becomes the output; everything else is read-only but /tmp,
  which is empty at first and then gone, like the home folder in it;
- Python has its packages, but not ensurepip, which Kaggle's image lacks.

What the image has besides is not there: this tests paths, permissions and versions.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

WRITABLE = ("proc", "dev", "sys")
# What a notebook of Kaggle has in its environment, as far as this project or its packages read it.
VARIABLES = {
    "KAGGLE_KERNEL_RUN_TYPE": "Batch",
    "HOME": "/tmp/home",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def possible() -> bool:
    """Check whether this machine lets us make the namespaces."""
    return subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode == 0


def command(
    words: Sequence[str],
    python: Path,
    working: Path,
    competition: Path | None = None,
    place: str = "competitions",
    datasets: Mapping[str, Path] | None = None,
    variables: Mapping[str, str] | None = None,
) -> list[str]:
    """Return what to start to run a command as in a notebook.

    Args:
        words: the command; `python3` is `python`.
        python: of the environment that stands for Kaggle's image.
        working: the folder that becomes /kaggle/working.
        competition: the folder with the competition's files, if it is attached.
        place: the folder of /kaggle/input that it is attached in; "" for the older place.
        datasets: folders by the names of their datasets.
        variables: more of the environment.
    """
    mounts = {f"/kaggle/input/{name}": str(path) for name, path in (datasets or {}).items()}
    if competition:
        mounts[f"/kaggle/input/{place}/digit-recognizer"] = str(competition)
    environment = python.absolute().parent
    layout = {
        "words": list(words),
        "python": str(python),
        "environment": str(environment.parent),
        "working": str(working),
        "mounts": mounts,
        "variables": {
            **VARIABLES,
            "PATH": f"{environment}:/usr/local/bin:/usr/bin:/bin",
            **(variables or {}),
        },
    }
    return [*_unshare(), sys.executable, __file__, json.dumps(layout)]


def _unshare() -> list[str]:
    return ["unshare", "--net", "--mount", *(["--map-root-user"] if os.getuid() else [])]


def _enter(layout: Mapping[str, object]) -> None:
    """Build the root folder, change into it, and become the command."""
    words, variables = layout["words"], layout["variables"]
    assert isinstance(words, list)
    assert isinstance(variables, dict)
    mounts = layout["mounts"]
    assert isinstance(mounts, dict)
    query = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    asked = [str(layout["python"]), "-c", query]
    library = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    root = Path(tempfile.mkdtemp(prefix="kaggle-image-"))
    _mount("-t", "tmpfs", "tmpfs", root)
    for entry in Path("/").iterdir():
        copy = root / entry.name
        if entry.is_symlink():
            copy.symlink_to(entry.readlink())
        elif entry.is_dir() and entry.name not in ("tmp", "kaggle"):
            copy.mkdir()
            _mount("--rbind", entry, copy)
            if entry.name not in WRITABLE:
                _mount("-o", "remount,bind,ro", copy)
    _mount("-t", "tmpfs", "tmpfs", _folder(root / "tmp"))
    (root / "tmp" / "home").mkdir()
    environment = str(layout["environment"])
    if environment.startswith("/tmp/"):
        _read_only(environment, root)
    _mount("--bind", _folder(root / "empty"), f"{root}{library}/ensurepip")
    for place, folder in mounts.items():
        _read_only(folder, root, place)
    _mount("--bind", layout["working"], _folder(root / "kaggle" / "working"))
    _mount("-o", "remount,ro", root)
    _loopback()
    os.chroot(root)
    os.chdir("/kaggle/working")
    os.execvpe(words[0], words, variables)


def _read_only(folder: str, root: Path, place: str = "") -> None:
    inside = _folder(Path(f"{root}{place or folder}"))
    _mount("--bind", folder, inside)
    _mount("-o", "remount,bind,ro", inside)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def _loopback() -> None:
    """Start the loopback interface, over which a notebook talks to its kernel."""
    up = struct.pack("16sh", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS


if __name__ == "__main__":
    _enter(json.loads(sys.argv[1]))
