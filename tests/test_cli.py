"""cli.py: exit codes, what is said on which stream, and that nothing heavy is imported early."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import build, contents, replace_cell, run_digits, write_digits

from pipeline import artifacts, cli, ledger, stages
from pipeline.errors import OutsideError, UserError

COMMANDS = sorted(
    command.name or command.callback.__name__ for command in cli.app.registered_commands
)


def fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Run the command line in this process; gives the exit code and the one line on stderr."""
    monkeypatch.setattr(sys, "argv", ["digits", *arguments])
    # pytest's stdout is no file.
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    errors = capsys.readouterr().err
    assert isinstance(caught.value.code, int)
    return caught.value.code, errors


def one_line(text: str) -> bool:
    return text.startswith("digits: ") and text.count("\n") == 1 and text.endswith("\n")


# --- help and start-up ---------------------------------------------------------------------------


def test_the_stages_are_commands() -> None:
    stages = {"download", "preprocess", "split", "train", "ensemble", "write", "report"}
    assert stages | {"check", "status", "config"} <= set(COMMANDS)


HELP_PROGRAM = """\
import contextlib, io, json, sys
from pipeline import cli
sys.stdout = io.TextIOWrapper(io.BytesIO(), write_through=True)
said = {}
for command in json.loads(sys.argv[1]):
    sys.argv = ["digits", *command, "--help"]
    sys.stdout.buffer.seek(0); sys.stdout.buffer.truncate()
    try:
        cli.main()
        code = None
    except SystemExit as end:
        code = end.code
    said[" ".join(command)] = [code, sys.stdout.buffer.getvalue().decode()]
heavy = ("tensorflow", "keras", "pandas", "kaggle", "kagglesdk", "sklearn", "mlxtend", "numpy")
print(json.dumps([said, [name for name in heavy if name in sys.modules]]), file=sys.__stdout__)
"""


def test_help_is_given_without_importing_anything_heavy() -> None:
    commands = [[], *([name] for name in COMMANDS)]
    process = subprocess.run(
        [sys.executable, "-c", HELP_PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    said, heavy = json.loads(process.stdout)
    assert process.stderr == ""
    assert heavy == []
    for command in commands:
        code, text = said[" ".join(command)]
        assert code == 0
        assert "Usage: " in text
        assert "--help" in text
    for name in COMMANDS:
        assert name in said[""][1]


STATUS_PROGRAM = """\
import sys
from pipeline import cli
sys.argv = ["digits", *sys.argv[1:]]
try:
    cli.main()
finally:
    heavy = ("tensorflow", "keras", "pandas", "kaggle", "sklearn", "mlxtend")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("command", [["status", "--dataset", "sample"], ["config"]])
def test_commands_that_compute_nothing_import_nothing_heavy(
    project: Path, command: list[str]
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", STATUS_PROGRAM, *command],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0
    assert process.stderr == "[]\n"


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--epoch", "1"], "--epoch"),
        (["trian"], "trian"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--epochs", "0"], "--epochs"),
        (["check"], "file"),
        (["status", "--config", "spirnt"], "did you mean sprint?"),
        (["status", "--dataset", "keggle"], "there is no dataset 'keggle'"),
        (["train", "--config", "demo", "--dataset", "sample", "--fold", "3"], "folds 0 to 2"),
        (["preprocess", "--dataset", "sample"], "run `make preprocess`"),
        (["check", "absent.csv"], "absent.csv"),
        (["check", "pipeline/__init__.py"], "sample_submission.csv is missing"),
        (["check", "."], ""),
    ],
)
def test_a_mistake_is_told_in_one_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    code, errors = fails(monkeypatch, capsys, *arguments)
    assert code == 2
    assert one_line(errors)
    assert said in errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("use another file"), 2, "digits: use another file\n"),
        (OutsideError("the network\nis down"), 1, "digits: the network is down\n"),
        (KeyboardInterrupt(), 130, "digits: stopped; the same command goes on from here\n"),
        (OSError(28, "No space left on device", "x.npy"), 1, "digits: x.npy: No space left"),
        (ZeroDivisionError("half"), 1, "digits: ZeroDivisionError: half (a fault"),
    ],
)
def test_exit_codes(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def download(*_: object) -> dict[str, object]:
        raise error

    monkeypatch.setattr("pipeline.download.download", download)
    found, errors = fails(monkeypatch, capsys, "download", "--dataset", "sample")
    assert found == code
    assert one_line(errors)
    assert errors.startswith(said)
    assert not list((project / "data").rglob("*.csv"))


def test_in_a_process_of_its_own_a_mistake_shows_no_traceback_and_debug_does(
    project: Path,
) -> None:
    plain = run_digits(project, "status", "--dataset", "absent")
    assert (plain.returncode, plain.stdout) == (2, "")
    assert one_line(plain.stderr)
    debug = run_digits(project, "--debug", "status", "--dataset", "absent")
    assert debug.returncode == 2
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.endswith(plain.stderr)


def test_no_command_shows_the_help(project: Path) -> None:
    process = run_digits(project)
    assert "Usage: " in process.stdout + process.stderr
    assert "Traceback" not in process.stderr


# --- stages --------------------------------------------------------------------------------------


def test_the_stages_one_by_one(project: Path, tiny_folder: Path) -> None:
    """From a folder to a checked submission, each stage in a process; a trial changes nothing."""
    (project / "mine.toml").write_text(
        "[split]\nfolds = 1\n[train]\nwidth = 4\nepochs = 2\nbatch_size = 16\n"
    )
    choice = ["--dataset", str(tiny_folder), "--config", "mine.toml"]
    for stage in ("download", "preprocess", "split", "train", "ensemble", "write", "report"):
        process = run_digits(project, stage, *choice)
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        assert f"{stage}" in process.stdout.splitlines()[0]
        assert "done in" in process.stdout.splitlines()[-1]
    assert len((project / "submissions/tiny-mine.csv").read_text().splitlines()) == 21

    page = (project / "submissions/tiny-mine.html").read_text()
    assert "<title>tiny, mine: " in page
    assert "on the test set" not in page

    checked = run_digits(project, "check", "submissions/tiny-mine.csv")
    assert checked.returncode == 0
    assert checked.stdout == ("submissions/tiny-mine.csv: 20 rows, as the competition wants them\n")

    status = run_digits(project, "status", *choice)
    assert status.returncode == 0
    lines = status.stdout.splitlines()
    assert len(lines) == 7
    assert all(line.split()[-3] == "fresh" and line.endswith(" s") for line in lines)

    before = contents(project / "data"), contents(project / "submissions")
    trial = run_digits(project, "train", *choice, "--fold", "0", "--epochs", "1", "--limit", "20")
    assert trial.returncode == 0, trial.stderr
    after = contents(project / "data"), contents(project / "submissions")
    scratch = {name for name in after[0] if name.startswith("tiny/scratch/")}
    assert "tiny/scratch/mine/fold-0/weights.keras" in scratch
    assert {name: after[0][name] for name in after[0].keys() - scratch} == before[0]
    assert after[1] == before[1]
    facts = json.loads((project / "data/tiny/scratch/mine/fold-0/manifest.json").read_text())
    assert (facts["facts"]["epochs"], facts["facts"]["rows"]) == (1, 20)
    assert run_digits(project, "status", *choice).stdout == status.stdout


def test_a_damaged_csv_leaves_the_earlier_arrays(project: Path, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "tiny")
    build(str(folder))
    before = contents(project / "data/tiny/tensors")
    replace_cell(project / "data/tiny/raw/test.csv", line=5, column=9, text="x")
    process = run_digits(project, "preprocess", "--dataset", str(folder))
    assert process.returncode == 2
    assert one_line(process.stderr)
    assert "data/tiny/raw/test.csv is not the file that download wrote" in process.stderr
    assert "run `make preprocess`" in process.stderr
    assert contents(project / "data/tiny/tensors") == before


# --- status, config, check -----------------------------------------------------------------------


def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> list[str]:
    """Run a command that ends well in this process; gives the lines it prints."""
    monkeypatch.setattr(sys, "argv", ["digits", *arguments])
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    return capsys.readouterr().out.splitlines()


def test_status_says_what_is_missing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = say(monkeypatch, capsys, "status", "--dataset", "sample", "--config", "demo")
    names = ["download", "preprocess", "split", "train fold 0", "train fold 1", "train fold 2"]
    assert [line.split() for line in lines] == [
        [*name.split(), "missing"] for name in [*names, "ensemble", "write", "report"]
    ]


@pytest.mark.parametrize("verify", [[], ["--verify"]])
def test_status_says_what_is_stale_and_why(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verify: list[str],
) -> None:
    build(str(tiny_folder))
    (project / "data/tiny/tensors/test_images.npy").unlink()
    choice = ["--dataset", str(tiny_folder), "--config", "sprint", *verify]
    states = {
        line[:14].strip(): line[15:].split() for line in say(monkeypatch, capsys, "status", *choice)
    }
    assert states["download"][0] == "fresh"
    assert states["preprocess"][0] == "stale"
    reason = " ".join(states["preprocess"][3:])
    assert reason == "data/tiny/tensors/test_images.npy is missing"
    assert " ".join(states["train fold 0"][3:]).endswith("is to be made again")
    assert states["write"][0] == "stale"


def test_config_marks_what_a_preset_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = say(monkeypatch, capsys, "config", "--config", "sprint")
    assert lines[0] == "[split]"
    assert "[train]" in lines
    shown = {line.split("#")[0].strip() for line in lines}
    assert "* epochs = 1" in shown
    assert "batch_size = 128" in shown
    assert all(line.startswith("[") or "# " in line for line in lines)


def test_check_takes_the_sample_that_is_named(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = str(tiny_folder / "sample_submission.csv")
    lines = say(monkeypatch, capsys, "check", sample, "--sample", sample)
    assert lines == [f"{sample}: 20 rows, as the competition wants them"]


@pytest.mark.parametrize("beside", ["[]", '{"params": [1]}', '{"params": {"dataset": 5}}', "{"])
def test_check_of_a_file_with_a_stranger_beside_it(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beside: str,
) -> None:
    (tiny_folder / "s.csv").write_text("ImageId,Label\n1,1\n")
    (tiny_folder / "s.json").write_text(beside)
    code, errors = fails(monkeypatch, capsys, "check", str(tiny_folder / "s.csv"))
    assert code == 2
    assert one_line(errors)


# --- what was learnt, in the terminal -------------------------------------------------------------


def test_show_draws_a_digit_and_says_what_is_said_of_it(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = build(str(tiny_folder))
    choice = ["--dataset", str(tiny_folder), "--config", "sprint"]
    home = project / "data" / "tiny"
    images = np.load(home / "tensors" / "train_images.npy")
    labels = np.load(home / "tensors" / "train_labels.npy")
    held_out = np.load(stages.named(steps, "split").outputs[0]) == 0
    row = int(np.flatnonzero(held_out)[0])
    lines = say(monkeypatch, capsys, "show", str(row + 1), *choice)
    picture, probabilities = lines[:28], lines[28:]
    for drawn, pixels in zip(picture, images[row, :, :, 0], strict=True):
        ink = np.array([character != " " for character in drawn.ljust(56)])[::2]
        np.testing.assert_array_equal(ink, pixels > 0)
    assert len(probabilities) == 10
    [true] = [line for line in probabilities if " true" in line]
    assert true.split()[0] == str(labels[row])
    assert true.endswith("true predicted")
    # A row that no fold holds out has no probabilities that would be worth anything.
    other = int(np.flatnonzero(~held_out)[0])
    lines = say(monkeypatch, capsys, "show", str(other + 1), *choice)
    assert lines[28:] == [f"true {labels[other]}; no fold holds this row out"]
    test = say(monkeypatch, capsys, "show", "1", "--test", *choice)
    assert len(test) == 38
    assert not [line for line in test if " true" in line]


@pytest.mark.parametrize(
    ("row", "said"), [("81", "there is no row 81: there are 80"), ("0", "Invalid value for 'row'")]
)
def test_show_of_a_row_that_is_not_there(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: str,
    said: str,
) -> None:
    build(str(tiny_folder))
    choice = ["--dataset", str(tiny_folder), "--config", "sprint"]
    code, errors = fails(monkeypatch, capsys, "show", row, *choice)
    assert code == 2
    assert said in errors
    path = project / "data/tiny/sprint/ensemble/oof.npy"
    path.write_bytes(path.read_bytes()[:-1])
    code, errors = fails(monkeypatch, capsys, "show", "1", *choice)
    assert "oof.npy is not the file that ensemble wrote: run `make ensemble DATASET=" in errors
    path.unlink()
    code, errors = fails(monkeypatch, capsys, "show", "1", *choice)
    assert "run `make ensemble DATASET=" in errors


def test_runs_lists_the_best_first(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "LEDGER", project / "submissions" / "ledger.csv")
    choice = ["runs", "--dataset", str(tiny_folder)]
    assert say(monkeypatch, capsys, *choice) == [
        f"nothing was trained on {choice[-1]} yet: make submission DATASET={choice[-1]}"
    ]
    step = stages.named(build(str(tiny_folder), "sprint"), "ensemble")
    build(str(tiny_folder), "fast")
    artifacts.add_fact(step, "oof_accuracy", 0.5)
    artifacts.add_fact(step, "fold_accuracies", [0.5])
    entry = ledger.Entry(*"abc", "tiny", "sprint", *"defgh", public_score="0.49")
    ledger.write(cli.LEDGER, [entry, replace(entry, public_score="0.48")])
    _, best, second = say(monkeypatch, capsys, *choice)
    assert best.split()[:2] == ["fast", "1.00000"]
    assert second.split() == ["sprint", "0.50000", "0.00000", "0.5000", "0", "s", "0.49"]
    step.manifest.write_text(step.manifest.read_text().replace("0.5", "0.9"))
    assert len(say(monkeypatch, capsys, *choice)) == 2, "a figure that nobody measured"
