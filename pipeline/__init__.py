"""Digit Recognizer, from the competition's CSVs to a score on its leaderboard.

The stages, in the order in which data flows through them; each is a module of this package:

download -> preprocess -> split -> train (once a fold) -> ensemble -> write -> submit

`stages.py` names what each one reads and writes, `artifacts.py` keeps the files whole and knows
which are stale, `config.py` holds every parameter, and `cli.py` makes each stage a command.
"""

import os
import sys

# Python takes a short write of a module's bytecode for a whole one. On a disk that is all but full
# it would leave a part of it, and this package could not be imported again, with space or without.
_disk = os.statvfs(__path__[0])
if _disk.f_bavail * _disk.f_frsize < 16 << 20:
    sys.dont_write_bytecode = True
