"""Digit Recognizer, from the competition's CSVs to a score on its leaderboard.

The stages, in the order in which data flows:

download -> preprocess -> split -> train (once per fold) -> ensemble -> write -> report -> submit

Each is a module or folder of this package. `stages.py` declares what each reads and writes,
`artifacts.py` keeps files complete and knows which are stale, `config.py` holds every parameter,
and `cli/` is the command line.
"""

import os
import sys

if sys.platform == "win32":
    raise SystemExit(
        "digits: Windows has no file locks as they are used here; type `wsl --install`, and then "
        "the same commands in the Ubuntu that it starts"
    )

# Python mistakes a partially written bytecode file for a complete one. On a disk that is almost
# full (commands run in the project's folder), this package could not be imported again, even later.
_disk = os.statvfs(".")
if _disk.f_bavail * _disk.f_frsize < 16 << 20:
    sys.dont_write_bytecode = True
