"""Digit Recognizer, from the competition's CSVs to a score on its leaderboard.

The stages, in the order in which data flows through them; each is a module of this package:

download -> preprocess -> split -> train (once a fold) -> ensemble -> write -> submit

`stages.py` names what each one reads and writes, `artifacts.py` keeps the files whole and knows
which are stale, `config.py` holds every parameter, and `cli.py` makes each stage a command.
"""
