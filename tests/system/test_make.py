"""The Makefile, seen from outside: what runs, what is said, and what is in the files.

Every test works in a copy of this project whose training takes no time, and types `make`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from conftest import environment, instant_project, replace_cell

STAGES = ["download", "preprocess", "split", "train", "ensemble", "write", "report"]
FOLDS = ["train fold 0", "train fold 1"]
TASKS = [*STAGES[:3], *FOLDS, *STAGES[4:]]
CHOICE = {"VENV": "venv", "DATASET": "tiny", "CONFIG": "pair.toml"}
# What a task says when it begins.
BEGUN = re.compile(r"^([a-z]+(?: [a-z]+)?(?: fold \d+)?): .*; writing to ", re.MULTILINE)

Ended = subprocess.CompletedProcess[str]


def make(project: Path, *words: str, env: Mapping[str, str] | None = None, **names: str) -> Ended:
    """Type `make` with these words and variables, on the tiny digits unless they say otherwise."""
    choice = {"VENV": "venv"} if "demo" in words else CHOICE
    given = [f"{name}={value}" for name, value in {**choice, **names}.items()]
    return subprocess.run(
        ["make", *words, *given],
        cwd=project,
        env=environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


def ran(project: Path, *words: str) -> list[str]:
    """The tasks that began in a run that has to succeed."""
    done = make(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return BEGUN.findall(done.stdout)


def refusal(done: Ended) -> str:
    """The one line with which a command was refused before anything ran."""
    assert done.returncode == 2
    assert not done.stdout
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("make: *** [")]
    return line


def commands(project: Path, *words: str, **names: str) -> list[str]:
    """What make would start, in its order: the arguments of each `digits`."""
    done = make(project, "-n", *words, **names)
    assert done.returncode == 0, done.stderr
    return re.findall(r" -m pipeline (.*?)(?: ## .*)?$", done.stdout, re.MULTILINE)


def artifacts(project: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file that the pipeline wrote."""
    made = [path for top in ("data", "submissions") for path in (project / top).rglob("*")]
    return {
        str(path.relative_to(project)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in made
        if path.is_file() and not path.name.startswith(".")
    }


def outputs(project: Path) -> dict[str, bytes]:
    """Content of every artifact but manifests and reports, which say how long it took."""
    found = artifacts(project).items()
    return {name: its for name, (its, _) in found if not name.endswith((".json", ".html"))}


def status(project: Path) -> dict[str, tuple[str, str]]:
    """What `make status` says: for each task its state, and the rest of the line."""
    line = r"^([a-z]+(?: fold \d+)?) +(fresh|stale|missing|waiting)\b *(.*)$"
    said = make(project, "status").stdout
    return {name: (state, rest) for name, state, rest in re.findall(line, said, re.MULTILINE)}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nothing was built; not to be changed."""
    return instant_project(tmp_path_factory.mktemp("fresh") / "project")


@pytest.fixture(scope="module")
def built(fresh: Path) -> Iterator[Path]:
    """A project in which everything was built; not to be changed."""
    project = copied(fresh, fresh.with_name("built"))
    assert ran(project, "submission") == TASKS
    before = artifacts(project)
    yield project
    assert artifacts(project) == before, "a test changed what the others share"


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A project of the test's own, in which everything is built."""
    return copied(built, tmp_path / "project")


def copied(project: Path, place: Path) -> Path:
    return Path(shutil.copytree(project, place, symlinks=True))


# --- building, and building again -----------------------------------------------------------------


def test_after_a_build_everything_is_fresh_also_with_make_c(built: Path) -> None:
    before = artifacts(built)
    assert not list(built.glob("**/.*partial")) + list(built.glob("**/*.tmp"))
    assert all(state == "fresh" for state, _ in status(built).values())
    done = subprocess.run(
        ["make", "-C", built.name, "submission", *map("=".join, CHOICE.items())],
        cwd=built.parent,
        env=environment() | {"PWD": str(built.parent)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    all_fresh = [f"{stage}: {'all folds ' * (stage == 'train')}fresh" for stage in STAGES]
    assert [line for line in lines if line.endswith(" fresh")] == all_fresh
    # What is printed has to work where the user is.
    assert {f"submission {built.name}/submissions/tiny-pair.csv"} < {*lines}
    assert artifacts(built) == before


def test_what_was_edited_or_damaged_is_rebuilt_and_no_more(built: Path, project: Path) -> None:
    (project / "data/tiny/pair/fold-0/oof.npy").unlink()
    code = project / "pipeline" / "write.py"
    code.write_text(f"# Another comment.\n{code.read_text(encoding='utf-8')}", encoding="utf-8")
    found = status(project)
    assert "data/tiny/pair/fold-0/oof.npy is missing" in found["train fold 0"][1]
    assert "for train fold 0, which may come out the same" in found["ensemble"][1]
    fresh = {name for name, (state, _) in found.items() if state == "fresh"}
    assert fresh == {*STAGES[:3], "train fold 1"}
    # The same files come out, and nothing spreads; only the report shows how long it took.
    assert ran(project, "submission") == ["train fold 0", "report"]
    assert outputs(project) == outputs(built)

    replace_cell(project / "data/tiny/raw/test.csv", 7, 300, "x")
    with (project / "pipeline" / "ensemble.py").open("a", encoding="utf-8") as code:
        code.write("print('this is the clone')\nid(0)\n")
    with (project / "pair.toml").open("a", encoding="ascii") as preset:
        preset.write("learning_rate = 0.001\n")
    said = [rest for _, rest in status(project).values()]
    assert "data/tiny/raw/test.csv was changed after `download` wrote it" in said[0]
    assert "parameter train.learning_rate was 0.002 and is now 0.001" in said[3]
    done = make(project, "write")
    assert BEGUN.findall(done.stdout) == ["download", *FOLDS, "ensemble"]
    assert "this is the clone" in done.stdout
    assert outputs(project) == outputs(built)


def test_a_mistake_ends_in_one_line_and_nothing_is_built(fresh: Path) -> None:
    for variables, said in (
        ({"CONFIG": "fsat"}, "did you mean fast?"),
        ({"DATASET": "kagle"}, "kagle"),
        ({"DATASET": ""}, "--dataset must not be empty"),
    ):
        line = refusal(make(fresh, "submission", **variables))
        assert line.startswith("digits: ")
        assert said in line
    assert artifacts(fresh) == {}


# --- concurrent and killed runs -------------------------------------------------------------------


def start(project: Path, *words: str) -> "subprocess.Popen[str]":
    """Type `make` in the background, in a process group of its own."""
    return subprocess.Popen(
        ["make", *words, *map("=".join, CHOICE.items())],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(event: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not event():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_concurrent_runs_leave_the_same_files(
    built: Path, fresh: Path, tmp_path: Path
) -> None:
    project = copied(fresh, tmp_path / "project")
    (project / "hold").touch()
    staging = [project / f"data/tiny/pair/fold-{fold}/.manifest.partial" for fold in (0, 1)]
    victim = start(project, "write", "JOBS=2")
    wait_for(lambda: all(folder.exists() for folder in staging), victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not list(project.glob("data/tiny/pair/*/manifest.json"))

    runs = [start(project, "write")]
    assert runs[0].stdout is not None
    assert any("train fold 0: " in line for line in runs[0].stdout)
    late = start(project, "train")
    assert late.stdout is not None
    assert any("train fold 0: waiting for process" in line for line in late.stdout)
    (project / "hold").unlink()
    said = [run.communicate(timeout=300)[0] for run in (*runs, late)]
    assert [run.returncode for run in (*runs, late)] == [0, 0], said
    done = re.findall(r"^([a-z]+(?: fold \d+)?): done in ", "\n".join(said), re.MULTILINE)
    assert sorted(done) == sorted([*FOLDS, "ensemble", "write"])
    assert outputs(project) == outputs(built)
    assert not [path for path in staging if path.exists()]


# --- the variables --------------------------------------------------------------------------------


def test_jobs_is_the_number_of_folds_at_a_time_and_j_of_make_names_it(fresh: Path) -> None:
    assert "--jobs" not in commands(fresh, "train")[-1]
    [*_, command] = commands(fresh, "train", JOBS="2", ENGINE="ray")
    assert "--engine 'ray'" in command
    assert "--jobs '2'" in command
    for words, exported in ((["-j2"], {}), (["-j"], {}), ([], {"MAKEFLAGS": "-j8"})):
        done = make(fresh, "-n", "train", *words, env=exported)
        assert "--jobs" not in done.stdout
        assert "JOBS=2" in done.stderr
        assert make(fresh, "-n", "train", *words, env=exported, JOBS="2").stderr == ""


def test_a_switch_is_on_or_off_or_refused(fresh: Path) -> None:
    for word in ("1", "yes", "true", "0", "no", "false", ""):
        on = word in ("1", "yes", "true")
        assert (" --force" in commands(fresh, "submit", FORCE=word)[-1]) == on
        assert (" --yes" in make(fresh, "-n", "clean", YES=word).stdout) == on
    for name in ("FORCE", "YES", "TENSORBOARD"):
        line = refusal(make(fresh, "submit", **{name: "maybe"}))
        assert f"{name} must be 1, yes or true, or 0, no, false" in line


def test_a_message_is_sent_as_it_is(fresh: Path, tmp_path: Path) -> None:
    """It goes through make's own words, its environment and the shell."""
    project = copied(fresh, tmp_path / "project")
    echo = project / "venv" / "bin" / "python"
    echo.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n', encoding="utf-8")
    for message in ("costs $5", "$(x", "it's $$ `new`", "50% of $HOME"):
        words = make(project, "submit", MESSAGE=message).stdout.splitlines()
        assert words[words.index("--message") + 1] == message


def test_each_target_runs_itself_and_what_it_needs_once_and_in_order(fresh: Path) -> None:
    for position, target in enumerate(STAGES, start=1):
        assert [it.split()[0] for it in commands(fresh, target)] == STAGES[:position]
    targets = ["write", "submission", "train", "split", "ensemble", "preprocess", "download"]
    found = commands(fresh, "-j2", *targets)  # one after the other, whatever -j says
    assert [command.split()[0] for command in found] == [*STAGES, "result"]
    found = commands(fresh, "demo")
    assert [command.split()[0] for command in found] == [*STAGES, "result"]
    assert all("--dataset 'sample' --config 'demo'" in command for command in found)


def test_a_wrong_word_is_refused_before_anything_runs(fresh: Path) -> None:
    for words, said in (
        (["train", "CONFG=fast"], "there is no variable CONFG, did you mean CONFIG?"),
        (["demo", "CONFIG=fast"], "make submission DATASET="),
        (["submission", "trian"], "there is no target trian, did you mean train?"),
        (["pipeline"], "there is no target pipeline"),  # a folder, which make would call done
        (["distclean", "write"], "a second command"),
        (["status", "VENV=my venv"], "VENV must be one path without spaces, : and %"),
        (["status", "VENV=a%b"], "VENV must be one path without spaces, : and %"),
        (["status", "VENV="], "VENV must be one path without spaces, : and %"),
        ([".FEATURES=", "submission"], "GNU Make 4.3 or newer is needed"),
    ):
        done = subprocess.run(
            ["make", *words], cwd=fresh, env=environment(), capture_output=True, text=True
        )
        assert said in refusal(done)
    assert artifacts(fresh) == {}


# --- without an environment -----------------------------------------------------------------------

OLD_PYTHON = """#!{python}
import runpy, sys
sys.version_info = (3, 9, 18, "final", 0)
sys.modules["tomllib"] = None
option, what, *sys.argv[1:] = sys.argv[1:]
sys.path[0] = ""
exec(what) if option == "-c" else runpy.run_module(what, run_name="__main__", alter_sys=True)
"""


def test_an_old_or_missing_python_is_refused(fresh: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text(OLD_PYTHON.format(python=sys.executable), encoding="utf-8")
    old.chmod(0o755)
    for target, python, said in (
        ("status", str(old), f"{old} is 3.9"),
        ("test", str(old), f"{old} is 3.9"),
        ("status", "no-such-python", "no-such-python is not there"),
    ):
        line = refusal(make(fresh, target, VENV="none-yet", PYTHON=python))
        assert "Python 3.11, 3.12 or 3.13 is needed, and " in line
        assert said in line
        assert "PYTHON=python3.13" in line
    assert not (fresh / "none-yet").exists()


def test_help_lists_every_target_and_variable(fresh: Path) -> None:
    plain = make(fresh, VENV="none-yet", PYTHON="no-such-python")
    assert plain.stdout == make(fresh, "help", VENV="none-yet").stdout
    lines = plain.stdout.splitlines()
    assert all(len(line) <= 100 for line in lines)
    named = {line.split()[0].partition("=")[0]: line.split()[1:] for line in lines}
    makefile = (fresh / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)) - {"none"}
    variables = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    assert {"demo", "test", "submission", "submit", "status", "clean", *STAGES} <= targets
    assert all(named[name] for name in targets | variables)


def test_clean_and_distclean_need_no_environment(project: Path) -> None:
    """What they remove and ask is tested in test_clean.py."""
    bare = project / "bare"  # a Python without any package
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    names = {"VENV": ".venv", "PYTHON": "./bare"}
    kept = {name for name in artifacts(project) if "/raw/" in name or name[0] == "s"}
    refused = make(project, "clean", **names)
    assert refused.returncode == 2
    assert "clean removes 2 networks" in refused.stdout
    assert "YES=1" in refused.stderr
    assert make(project, "clean", YES="1", **names).returncode == 0
    assert set(artifacts(project)) == kept
    assert make(project, "distclean", **names).returncode == 0
    assert set(artifacts(project)) == {name for name in kept if name[0] == "s"}
    assert {path.name for path in project.iterdir()} >= {"pipeline", "venv", "tiny"}


def test_distclean_spares_a_shared_environment_that_is_named_like_the_clone(
    fresh: Path, tmp_path: Path
) -> None:
    """/home/my is not inside /home/my digits, although a space ends a name in make."""
    project = copied(fresh, tmp_path / "my digits")
    for venv in (tmp_path / "my", project / ".venv"):
        venv.mkdir()
        (venv / "pyvenv.cfg").touch()
    for word in ("../my", str(tmp_path / "my"), ".venv"):
        if " " not in word:
            assert make(project, "distclean", VENV=word, YES="1").returncode == 0
    assert (tmp_path / "my").is_dir()
    assert not (project / ".venv").exists()
