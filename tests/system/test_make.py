"""The Makefile and the cache, seen from outside: what runs, what is said, and what is in the files.

Every test works in a copy of this project with a tiny dataset and tiny presets beside it, and
types `make`. Training takes seconds, so two presets are built once, in `built`, and tests copy the
result. Where it is enough to know what is due, they ask `digits status` in this process.
"""

import ast
import contextlib
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli, estimate, stages
from pipeline.environment import CHECKPOINTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("Makefile", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
ROWS_PER_CLASS, TEST_ROWS = 20, 30
# Two folds of one epoch, and one of several, so that there is time to interrupt it.
PAIR = "[split]\nfolds = 2\n\n[train]\nwidth = 4\nepochs = 1\nbatch_size = 20\n"
SINGLE = "[split]\nfolds = 1\n\n[train]\nwidth = 4\nepochs = 6\nbatch_size = 20\n"

BEFORE_TRAINING = ["download", "preprocess", "split"]
AFTER_TRAINING = ["ensemble", "write"]
STAGES = [*BEFORE_TRAINING, "train", *AFTER_TRAINING, "report"]
FOLDS = {"pair": ["train fold 0", "train fold 1"], "single": ["train fold 0"]}
# Each task, and those after it that may have to run again when it does.
FROM = {
    "download": [*BEFORE_TRAINING, *FOLDS["pair"], *AFTER_TRAINING],
    "preprocess": ["preprocess", "split", *FOLDS["pair"], *AFTER_TRAINING],
    "split": ["split", *FOLDS["pair"], *AFTER_TRAINING],
    "train fold 0": ["train fold 0", *AFTER_TRAINING],
    "train fold 1": ["train fold 1", *AFTER_TRAINING],
    "ensemble": ["ensemble", "write"],
    "write": ["write"],
}
TRAINING = [*FOLDS["pair"], *AFTER_TRAINING]
FOLDERS = {
    "download": "data/blobs/raw",
    "preprocess": "data/blobs/arrays",
    "split": "data/blobs/folds/2-folds-seed-0",
    "train fold 0": "data/blobs/pair/fold-0",
    "train fold 1": "data/blobs/pair/fold-1",
    "ensemble": "data/blobs/pair/ensemble",
}
FOLD_FILES = ("weights.keras", "history.csv", "oof.npy", "test.npy", "augmented.npy")
FILES = {
    "download": ["train.csv", "test.csv", "sample_submission.csv"],
    "preprocess": ["train_images.npy", "train_labels.npy", "test_images.npy"],
    "split": ["fold_ids.npy"],
    "train fold 0": [*FOLD_FILES],
    "train fold 1": [*FOLD_FILES],
    "ensemble": ["oof.npy", "test.npy", "metrics.json"],
}
# Every file of the preset "pair", and the task that writes it.
ARTIFACTS = {
    **{f"{FOLDERS[t]}/{name}": t for t in FILES for name in [*FILES[t], "manifest.json"]},
    "submissions/blobs-pair.csv": "write",
    "submissions/blobs-pair.json": "write",
}
# What a task says when it begins.
BEGUN = re.compile(r"^([a-z]+(?: [a-z]+)?(?: fold \d+)?): .*; writing to ", re.MULTILINE)


# --- a project to work in -------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """A copy of this project, and beside it a dataset, presets and an environment."""

    home: Path

    @property
    def clone(self) -> Path:
        return self.home / "clone"

    @property
    def dataset(self) -> Path:
        return self.home / "blobs"

    def preset(self, name: str) -> Path:
        return self.home / f"{name}.toml"

    def path(self, name: str) -> Path:
        return self.clone / name

    def code(self, name: str) -> Path:
        return self.clone / "pipeline" / name

    def command(self, *words: str, preset: str, variables: dict[str, str]) -> list[str]:
        """`make` with these words; paths are relative, so that a copied project uses its own."""
        choice = {"DATASET": "../blobs", "CONFIG": f"../{preset}.toml"}
        chosen = {"VENV": "../venv"} | (choice if "demo" not in words else {}) | variables
        given = [f"{name}={value}" for name, value in chosen.items()]
        return ["make", *words, *given]

    def make(
        self, *words: str, preset: str = "pair", **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        return self.call(self.command(*words, preset=preset, variables=variables))

    def call(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=self.clone, env=environment(), capture_output=True, text=True, timeout=300
        )

    def start(self, *words: str, preset: str = "pair") -> "subprocess.Popen[str]":
        """The same in the background, in a process group of its own."""
        return self.start_call(self.command(*words, preset=preset, variables={}))

    def start_call(self, command: list[str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.clone,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ran(self, *words: str, preset: str = "pair") -> list[str]:
        """The tasks that began in a run that has to succeed."""
        result = self.make(*words, preset=preset)
        assert result.returncode == 0, result.stdout + result.stderr
        return BEGUN.findall(result.stdout)

    def commands(self, *words: str, **variables: str) -> list[str]:
        """What make would start, in its order: the arguments of each `digits`."""
        result = self.make("-n", *words, **variables)
        assert result.returncode == 0, result.stderr
        return re.findall(r" -m pipeline (.*?)(?: ## .*)?$", result.stdout, re.MULTILINE)

    def status(self, preset: str = "pair") -> dict[str, tuple[str, str]]:
        """What `make status` says: for each task its state, and the rest of the line."""
        result = self.make("status", preset=preset)
        assert result.returncode == 0, result.stderr
        return states(result.stdout)

    def due(self, preset: str = "pair") -> list[str]:
        """The tasks up to `write` that are not fresh."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
            patch.setattr(stages, "ROOT", self.clone)
            patch.chdir(self.clone)
            choice = ("--dataset", "../blobs", "--config", f"../{preset}.toml")
            cli.app(["status", *choice], standalone_mode=False)
        found = states(said.getvalue()).items()
        return [name for name, (state, _) in found if state != "fresh" and name != "report"]

    def artifacts(self) -> dict[str, tuple[bytes, int]]:
        """Content and modification time of every file that the pipeline wrote."""
        made = [path for top in ("data", "submissions") for path in self.path(top).rglob("*")]
        return {
            str(path.relative_to(self.clone)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in made
            if path.is_file() and not path.name.startswith(".")
        }

    def outputs(self, *presets: str) -> dict[str, bytes]:
        """Content of every artifact but manifests and reports, which say how long it took.

        Args:
            presets: these presets' only, and those that all presets share.
        """
        others = {"pair", "single"} - set(presets or ("pair", "single"))
        return {
            name: content
            for name, (content, _) in self.artifacts().items()
            if not name.endswith("manifest.json")
            if not re.match(r"submissions/.*\.(json|html)", name)
            if not any(f"/{other}/" in name or f"-{other}." in name for other in others)
        }

    def below(self, *places: str) -> dict[str, tuple[bytes, int]]:
        return {name: file for name, file in self.artifacts().items() if name.startswith(places)}

    def copied_to(self, home: Path) -> "Project":
        shutil.copytree(self.home, home, symlinks=True)
        return Project(home)


def states(said: str) -> dict[str, tuple[str, str]]:
    """For each task its state and the rest of the line, from the output of `digits status`."""
    line = r"^([a-z]+(?: [a-z]+)?(?: fold \d+)?) +(fresh|stale|missing|waiting)\b *(.*)$"
    return {name: (state, rest) for name, state, rest in re.findall(line, said, re.MULTILINE)}


def environment() -> dict[str, str]:
    """The environment without the settings of the user or of a `make test` around this.

    PWD goes too: it names the folder of the tests, not the one in which they start a command.
    """
    ours = ("DATASET", "CONFIG", "VENV", "PYTHON", "EXTRAS", "ENGINE", "JOBS", "GNUMAKE", "PWD")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("DIGITS", "MAKE", "MFLAGS", "PYTHON"))
    }


def write_dataset(folder: Path) -> None:
    """The competition's three CSVs, with images that are easy to tell apart."""
    random = np.random.default_rng(0)
    shapes = np.kron(random.random((10, 7, 7)) > 0.6, np.ones((4, 4)))

    def row(label: int) -> str:
        return ",".join(map(str, (shapes[label] * random.integers(9, 256)).astype(int).ravel()))

    folder.mkdir()
    pixels = ",".join(f"pixel{i}" for i in range(784))
    train = [f"{i % 10},{row(i % 10)}" for i in range(10 * ROWS_PER_CLASS)]
    test = [row(i % 10) for i in range(TEST_ROWS)]
    ids = [f"{i + 1},0" for i in range(TEST_ROWS)]
    for name, lines in (
        ("train.csv", [f"label,{pixels}", *train]),
        ("test.csv", [pixels, *test]),
        ("sample_submission.csv", ["ImageId,Label", *ids]),
    ):
        (folder / name).write_text("\n".join([*lines, ""]), encoding="ascii")


def write_environment(project: Project) -> None:
    """An environment that is this one, with the stamp that marks it as installed."""
    python = project.home / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    checksum = project.call(["sh", "-c", "cat requirements.lock pyproject.toml | cksum"]).stdout
    (python.parents[1] / f".installed-{checksum.strip().replace(' ', '-')}").touch()


def new_project(home: Path) -> Project:
    """A fresh clone, in which nothing was built, and what is beside it."""
    project = Project(home)
    project.clone.mkdir(parents=True)
    for name in COPIED:
        shutil.copy(ROOT / name, project.clone)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", project.code("."), ignore=ignored)
    write_dataset(project.dataset)
    project.preset("pair").write_text(PAIR, encoding="ascii")
    project.preset("single").write_text(SINGLE, encoding="ascii")
    write_environment(project)
    return project


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone; not to be changed."""
    return new_project(tmp_path_factory.mktemp("pristine") / "home")


@pytest.fixture(scope="module")
def built(pristine: Project) -> Iterator[Project]:
    """A project in which both presets are built; not to be changed."""
    project = pristine.copied_to(pristine.home.with_name("built"))
    assert project.ran("write") == FROM["download"]
    assert project.ran("submission") == ["report"]
    own = ["split", *FOLDS["single"], *AFTER_TRAINING]  # it holds out other rows
    assert project.ran("write", preset="single") == own
    before = project.artifacts()
    yield project
    assert project.artifacts() == before, "a test changed what the others share"


@pytest.fixture
def fresh(pristine: Project, tmp_path: Path) -> Project:
    """A clone of the test's own, in which nothing was built."""
    return pristine.copied_to(tmp_path / "home")


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A project of the test's own, in which everything is built."""
    return built.copied_to(tmp_path / "home")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def set_cell(path: Path, line: int, column: int, value: str) -> None:
    lines = path.read_text(encoding="ascii").split("\n")
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines), encoding="ascii")


def digits_lines(stderr: str) -> list[str]:
    """What the pipeline itself said went wrong; make adds lines of its own."""
    assert "Traceback" not in stderr
    return [line for line in stderr.splitlines() if line.startswith("digits:")]


# --- building, and building again -----------------------------------------------------------------


def test_everything_is_built_and_then_everything_is_fresh(built: Project) -> None:
    assert set(ARTIFACTS) <= set(built.artifacts())
    assert not list(built.clone.glob("**/.*partial")) + list(built.clone.glob("**/*.tmp"))

    before = built.artifacts()
    again = built.make("submission")
    assert (again.returncode, again.stderr) == (0, "")
    lines = again.stdout.splitlines()
    fresh = [f"{stage}: {'all folds ' if stage == 'train' else ''}fresh" for stage in STAGES]
    assert lines[: len(STAGES)] == fresh
    assert lines[len(STAGES)].startswith("out-of-fold accuracy ")
    assert {"submission submissions/blobs-pair.csv", "report submissions/blobs-pair.html"} < {
        *lines
    }
    assert built.artifacts() == before


def test_after_make_c_the_printed_paths_are_relative_to_where_the_user_is(built: Project) -> None:
    words = built.command("submission", preset="pair", variables={})[1:]
    result = subprocess.run(
        ["make", "-C", "clone", *words],
        cwd=built.home,
        env=environment() | {"PWD": str(built.home)},
        capture_output=True,
        text=True,
    )
    assert "\nsubmission clone/submissions/blobs-pair.csv\n" in result.stdout
    assert "\nreport clone/submissions/blobs-pair.html\n" in result.stdout


def test_the_code_that_runs_is_the_clones(project: Project) -> None:
    with project.code("ensemble.py").open("a", encoding="utf-8") as file:
        file.write('print("this is the clone")\n')
    result = project.make("write")
    assert "this is the clone" in result.stdout
    assert BEGUN.findall(result.stdout) == ["ensemble"]


def test_two_at_a_time_leave_the_same_files(built: Project, fresh: Project) -> None:
    result = fresh.make("write", "JOBS=2")
    assert result.returncode == 0, result.stderr
    assert sorted(BEGUN.findall(result.stdout)) == sorted(FROM["download"]), "each runs once"
    first_done = result.stdout.index("train fold 0: done"), result.stdout.index("fold 1: done")
    assert len(BEGUN.findall(result.stdout[: min(first_done)])) == 5, "both folds began before"
    assert fresh.outputs("pair") == shared_outputs(built, "pair")


def training(project: Project, *words: str, **exported: str) -> tuple[str, str]:
    """The options of `digits train`, and what make says besides."""
    command = project.command("-n", "train", *words, preset="pair", variables={})
    result = subprocess.run(
        command, cwd=project.clone, env=environment() | exported, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    [options] = re.findall(r" -m pipeline train (.*) ## ", result.stdout)
    return options, result.stderr


def test_jobs_is_the_number_of_folds_at_a_time(fresh: Project) -> None:
    assert "--jobs" not in training(fresh)[0]
    assert "--jobs '2'" in training(fresh, "JOBS=2")[0]
    options, _ = training(fresh, "JOBS=2", "ENGINE=ray")
    assert "--engine 'ray'" in options
    assert "--jobs '2'" in options


@pytest.mark.parametrize(
    ("words", "exported"), [(["-j2"], {}), (["-j"], {}), ([], {"MAKEFLAGS": "-j8"})]
)
def test_j_of_make_trains_one_fold_at_a_time_and_names_jobs(
    fresh: Project, words: list[str], exported: dict[str, str]
) -> None:
    options, said = training(fresh, *words, **exported)
    assert "--jobs" not in options
    assert "JOBS=2" in said
    assert training(fresh, "JOBS=2", *words, **exported)[1] == ""


@pytest.mark.parametrize("word", ["1", "yes", "true"])
def test_a_switch_is_on(fresh: Project, word: str) -> None:
    assert " --force" in fresh.commands("submit", FORCE=word)[-1]
    assert " --yes" in fresh.make("-n", "clean", YES=word).stdout


@pytest.mark.parametrize("word", ["0", "no", "false", ""])
def test_a_switch_is_off(fresh: Project, word: str) -> None:
    assert " --force" not in fresh.commands("submit", FORCE=word)[-1]
    assert " --yes" not in fresh.make("-n", "clean", YES=word).stdout


@pytest.mark.parametrize("name", ["FORCE", "YES", "TENSORBOARD"])
def test_a_switch_that_is_neither_is_refused(fresh: Project, name: str) -> None:
    result = fresh.make("submit", **{name: "maybe"})
    assert result.returncode == 2
    assert f"{name} must be 1, yes or true, or 0, no, false" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("message", ["costs $5", "$(x", "it's $$ `new`", "50% of $HOME"])
def test_a_message_is_sent_as_it_is(fresh: Project, message: str) -> None:
    """It would go through make's own words, its environment and the shell."""
    cat = fresh.home / "venv" / "bin" / "python"
    cat.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n', encoding="utf-8")
    result = fresh.make("submit", MESSAGE=message)
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert words[words.index("--message") + 1] == message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "CONFG=fast"], "there is no variable CONFG, did you mean CONFIG?"),
        (["demo", "CONFIG=fast"], "make submission CONFIG=fast"),
        (["demo", "DATASET=mnist"], "make submission DATASET=mnist"),
        (["trian"], "there is no target trian, did you mean train?"),
        (["submission", "trian"], "there is no target trian"),
        (["pipeline"], "there is no target pipeline"),  # a folder, which make would call done
        (["distclean", "write"], "a second command"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_runs(
    fresh: Project, words: list[str], said: str
) -> None:
    result = fresh.call(["make", "VENV=../venv", *words])
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert said in line
    assert not result.stdout
    assert fresh.artifacts() == {}


def test_members_are_trained_once_and_averaged(project: Project) -> None:
    replaced = PAIR.replace("width = 4", "width = 3")
    project.preset("narrow").write_text(replaced, encoding="ascii")
    both = '[split]\nfolds = 2\n[ensemble]\nmembers = ["pair.toml", "narrow.toml"]\n'
    project.preset("both").write_text(both, encoding="ascii")
    trained = ["train narrow fold 0", "train narrow fold 1", *AFTER_TRAINING]
    assert project.ran("write", preset="both") == trained

    def tests(preset: str) -> list[np.ndarray]:
        folders = sorted(project.path(f"data/blobs/{preset}").glob("fold-*"))
        return [np.load(folder / "test.npy") for folder in folders]

    mean = np.mean([*tests("pair"), *tests("narrow")], axis=0)
    metrics = json.loads(project.path("data/blobs/both/ensemble/metrics.json").read_text())
    mean = estimate.apply(mean, metrics["temperature"])
    np.testing.assert_allclose(
        np.load(project.path("data/blobs/both/ensemble/test.npy")), mean, rtol=1e-5
    )
    assert project.due(preset="both") == project.due(preset="pair") == []
    replace(project.preset("narrow"), "width = 3", "width = 5")
    assert project.due(preset="both") == trained
    assert project.due(preset="pair") == []


def test_by_hand_fold_after_fold_leaves_the_same_files(built: Project, fresh: Project) -> None:
    for stage in (*BEFORE_TRAINING, "train --fold 1", "train", *AFTER_TRAINING):
        result = by_hand(fresh, *stage.split(), preset="pair")
        assert result.returncode == 0, result.stderr
        if stage == "train":
            assert "train: 1 of 2 folds fresh\n" in result.stdout
            assert BEGUN.findall(result.stdout) == ["train fold 0"]
    assert fresh.outputs("pair") == shared_outputs(built, "pair")
    assert fresh.due() == []


@pytest.mark.parametrize("stage", ["split", "train"])
def test_a_fresh_stage_runs_again_only_by_force_and_what_is_the_same_spreads_nothing(
    built: Project, project: Project, stage: str
) -> None:
    assert BEGUN.findall(by_hand(project, stage, preset="pair").stdout) == []
    forced = by_hand(project, stage, "--force", preset="pair")
    assert forced.returncode == 0, forced.stderr
    assert BEGUN.findall(forced.stdout) == (FOLDS["pair"] if stage == "train" else [stage])
    assert forced.stdout.count(": forced; writing to ") == (2 if stage == "train" else 1)
    assert project.outputs() == built.outputs()
    assert project.due() == project.due(preset="single") == []


def by_hand(project: Project, *words: str, preset: str) -> "subprocess.CompletedProcess[str]":
    return project.call(by_hand_command(*words, preset=preset))


def by_hand_command(*words: str, preset: str) -> list[str]:
    choice = ["--dataset", "../blobs", "--config", f"../{preset}.toml"]
    return ["../venv/bin/python", "-m", "pipeline", *words, *choice]


def shared_outputs(project: Project, preset: str) -> dict[str, bytes]:
    """A preset's outputs in a project with several, without the splits that it does not use."""
    drawn = {"pair": "2-folds", "single": "holdout"}[preset]
    return {
        name: content
        for name, content in project.outputs(preset).items()
        if "/folds/" not in name or f"/folds/{drawn}" in name
    }


def test_several_targets_run_each_stage_once_and_in_order(fresh: Project) -> None:
    targets = ["write", "submission", "train", "split", "ensemble", "preprocess", "download"]
    commands = fresh.commands("-j2", *targets)  # one after the other, whatever -j says
    assert [command.split()[0] for command in commands] == [*STAGES, "result"]


def test_demo_is_a_submission_of_a_dataset_and_preset_of_its_own(fresh: Project) -> None:
    commands = fresh.commands("demo")
    assert [command.split()[0] for command in commands] == [*STAGES, "result"]
    assert all("--dataset 'sample' --config 'demo'" in command for command in commands)


def test_a_target_runs_itself_and_what_it_needs(fresh: Project) -> None:
    for position, target in enumerate(STAGES, start=1):
        started = [command.split()[0] for command in fresh.commands(target)]
        assert started == STAGES[:position]


# --- parameters -----------------------------------------------------------------------------------


def test_a_training_parameter_retrains_and_does_no_more(built: Project, project: Project) -> None:
    upstream = ("data/blobs/raw", "data/blobs/arrays", "data/blobs/folds")
    untouched = project.below(*upstream, "data/blobs/pair", "submissions/blobs-pair")
    replace(project.preset("single"), "width = 4", "width = 4\nlearning_rate = 0.001")

    state, rest = project.status("single")["train fold 0"]
    assert state == "stale"
    assert "parameter train.learning_rate was 0.002 and is now 0.001" in rest
    assert project.ran("write", preset="single") == [*FOLDS["single"], *AFTER_TRAINING]
    assert project.below(*upstream, "data/blobs/pair", "submissions/blobs-pair") == untouched
    weights = "data/blobs/single/fold-0/weights.keras"
    assert project.outputs()[weights] != built.outputs()[weights]
    assert project.due(preset="single") == []


def test_another_seed_of_the_split_draws_and_trains_again(project: Project) -> None:
    replace(project.preset("pair"), "folds = 2", "folds = 2\nseed = 1")
    assert project.due() == FROM["split"]
    before = project.below("data/blobs/raw", "data/blobs/arrays")
    assert project.ran("split") == ["split"]
    assert project.below("data/blobs/raw", "data/blobs/arrays") == before
    assert project.due() == FROM["split"][1:]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width = 4", "# the smallest\nwidth=4"),
        ("epochs = 1", "epochs = 1\nlearning_rate = 0.002  # the default"),
        ("folds = 2", "folds = 2\nholdout = 0.3  # unused with two folds"),
    ],
)
def test_a_preset_that_means_the_same_rebuilds_nothing(
    project: Project, old: str, new: str
) -> None:
    replace(project.preset("pair"), old, new)
    assert project.due() == []


# --- code -----------------------------------------------------------------------------------------


def add_comments(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    path.write_text(f"# The beginning.\n{code}\n\n# The end.\n", encoding="utf-8")


def reword_docstrings(path: Path) -> None:
    """Reword the docstrings of a module, of its functions and of its classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body[0] = ast.Expr(ast.Constant("In other words."))
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


def add_statement(path: Path, function: str = "") -> None:
    """Let a function, or the module on import, do something more, which changes no result."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    changed = next(f for f in functions if f.name == function) if function else tree
    imports = [i for i, node in enumerate(changed.body) if isinstance(node, ast.ImportFrom)]
    changed.body.insert(max(imports, default=0) + 1, ast.parse("len('')").body[0])
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


def test_words_and_layout_of_the_code_make_nothing_stale(project: Project) -> None:
    for path in project.code(".").rglob("*.py"):
        reword_docstrings(path)  # which also reformats it
        add_comments(path)
    assert project.due() == []


def test_a_changed_statement_of_the_training_retrains(built: Project, project: Project) -> None:
    add_statement(project.code("train/fold.py"), "train")
    assert project.due() == TRAINING
    # The new code gives the same bytes, so nothing changes for what depends on them.
    assert project.ran("write", preset="single") == FOLDS["single"]
    assert project.outputs() == built.outputs()
    assert project.due(preset="single") == []


@pytest.mark.parametrize(
    ("file", "function", "due"),
    [
        ("download/__init__.py", "download", []),  # what was copied is not copied again
        ("download/local.py", "", []),
        ("download/sample.py", "", []),
        ("preprocess.py", "", FROM["preprocess"]),
        ("csvs.py", "read_images", FROM["preprocess"]),
        ("csvs.py", "check_fit", FROM["preprocess"]),
        ("check.py", "check_submission", []),
        ("split.py", "", FROM["split"]),
        ("train/augment.py", "", TRAINING),
        ("train/checkpoint.py", "", TRAINING),
        ("train/runtime.py", "", []),  # what it chooses is recorded with each fold
        ("train/schedule.py", "", TRAINING),
        ("train/networks/strided.py", "network", TRAINING),
        ("train/layers.py", "convolution", TRAINING),
        ("train/networks/fine.py", "network", []),  # another preset's
        ("train/cluster.py", "", []),
        ("train/local.py", "", []),
        ("train/progress.py", "", []),
        ("ensemble.py", "", FROM["ensemble"]),
        ("write.py", "", FROM["write"]),
        ("cli/__init__.py", "", []),
        ("cli/status.py", "", []),
    ],
)
def test_code_makes_stale_what_runs_it(
    project: Project, file: str, function: str, due: list[str]
) -> None:
    add_statement(project.code(file), function)
    assert project.due() == due


def test_one_more_network_makes_nothing_stale(project: Project) -> None:
    fine = project.code("train/networks/fine.py")
    another = fine.read_text(encoding="utf-8").replace("fine", "another")
    fine.with_name("another.py").write_text(another, encoding="utf-8")
    assert project.due() == []


# --- dates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("date", [946_684_800, 2_524_608_000], ids=["past", "future"])
def test_dates_do_not_count(project: Project, date: int) -> None:
    for path in project.home.rglob("*"):
        os.utime(path, (date, date))
    assert project.ran("submission") == []
    assert project.due(preset="single") == []


def test_a_zipped_source_of_the_same_content_changes_nothing_further(project: Project) -> None:
    source = project.dataset / "test.csv"
    source.with_name("test.csv.gz").write_bytes(gzip.compress(source.read_bytes()))
    source.unlink()
    assert project.ran("write") == ["download"]
    assert project.due() == [], "the CSVs are the same, and so is everything made from them"


# --- errors in the data ---------------------------------------------------------------------------


def test_an_invalid_pixel_is_named_and_everything_stays(project: Project) -> None:
    source = project.dataset / "test.csv"
    good, before = source.read_bytes(), project.artifacts()
    set_cell(source, 7, 300, "x")
    result = project.make("write")
    assert result.returncode == 2
    [line] = digits_lines(result.stderr)
    assert "test.csv, line 7, column pixel300: " in line
    assert "download: done" not in result.stdout
    assert "preprocess: " not in result.stdout
    assert project.artifacts() == before
    assert "write" in project.due()

    source.write_bytes(good)
    assert project.due() == project.due(preset="single") == []


def test_an_invalid_pixel_in_the_raw_data_is_found_and_imported_again(
    built: Project, project: Project
) -> None:
    set_cell(project.path("data/blobs/raw/test.csv"), 7, 300, "x")
    state, rest = project.status()["download"]
    assert state == "stale"
    assert "data/blobs/raw/test.csv was changed after `download` wrote it" in rest
    result = project.make("write")
    assert result.returncode == 0
    assert "data/blobs/raw/test.csv, line 7, column pixel300: 'x' is not" in result.stdout
    assert BEGUN.findall(result.stdout) == ["download"]
    assert project.outputs() == built.outputs()
    assert project.due() == []


# --- artifacts that are missing or damaged --------------------------------------------------------


def test_a_deleted_or_damaged_artifact_is_due_and_what_depends_on_it_may_be(
    project: Project,
) -> None:
    for name, task in ARTIFACTS.items():
        path = project.path(name)
        content, dates = path.read_bytes(), path.stat()
        for damage in (Path.unlink, empty, flip):
            damage(path)
            assert project.due() == FROM[task], f"{damage.__name__} {name}"
            path.write_bytes(content)
            os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert project.due() == []


def flip(path: Path) -> None:
    """Change one bit in the middle, and neither size nor date."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def make_a_list(path: Path) -> None:
    path.write_text("[1, 2]\n", encoding="ascii")


def test_what_is_missing_or_damaged_is_rebuilt_as_it_was(built: Project, project: Project) -> None:
    for name, damage in (
        ("data/blobs/raw/train.csv", Path.unlink),
        ("data/blobs/folds/2-folds-seed-0/fold_ids.npy", truncate),
        ("data/blobs/pair/fold-1/weights.keras", Path.unlink),
        ("data/blobs/pair/ensemble/test.npy", flip),
        ("data/blobs/pair/ensemble/manifest.json", make_a_list),
        ("submissions/blobs-pair.csv", truncate),
        ("submissions/blobs-pair.json", empty),
    ):
        damage(project.path(name))
    assert project.ran("write") == ["download", "split", "train fold 1", "ensemble", "write"]
    assert project.outputs() == built.outputs()
    assert project.due() == project.due(preset="single") == []


def test_a_damaged_cache_of_fingerprints_costs_only_time(project: Project) -> None:
    cache = project.path("data/.fingerprints.json")
    for content in ("", "{", '{"a": 1}'):
        cache.write_text(content, encoding="ascii")
        assert project.due() == []


# --- interruptions, and concurrent runs -----------------------------------------------------------


def test_a_killed_run_resumes_and_leaves_the_same_files(built: Project, project: Project) -> None:
    shutil.rmtree(project.path("data/blobs/single"))
    staging = project.path("data/blobs/single/fold-0/.manifest.partial")
    victim = project.start("write", preset="single")
    wait_for(lambda: any(staging.glob(CHECKPOINTS)), victim)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not project.path("data/blobs/single/fold-0/manifest.json").exists()

    result = project.make("write", preset="single")
    assert result.returncode == 0, result.stderr
    resumed = re.search(r"^fold 0: resuming after epoch (\d+)$", result.stdout, re.MULTILINE)
    assert resumed
    epoch = int(resumed[1])
    assert f"epoch {epoch + 1}/6" in result.stdout
    assert f"epoch {epoch}/6" not in result.stdout
    assert project.outputs() == built.outputs()
    assert not staging.exists()


def wait_for(event: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not event():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_concurrent_runs_share_the_work(built: Project, fresh: Project) -> None:
    staging = fresh.path("data/blobs/single/fold-0/.manifest.partial")
    runs = [fresh.start(*words, preset="single") for words in (["write"], ["write", "JOBS=4"])]
    wait_for(lambda: any(staging.glob(CHECKPOINTS)), runs[0])
    with stopped(*runs):
        late = fresh.start("train", preset="single")
        read_until(late, "train fold 0: waiting for process")
    assert "train fold 0: fresh" in late.communicate(timeout=300)[0]
    assert late.returncode == 0
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sorted(done(*said)) == sorted([*BEFORE_TRAINING, *FOLDS["single"], *AFTER_TRAINING])
    assert fresh.outputs("single") == shared_outputs(built, "single")
    assert fresh.due(preset="single") == []


@contextlib.contextmanager
def stopped(*runs: "subprocess.Popen[str]") -> Iterator[None]:
    """Stop them for a while, with whatever locks they hold."""
    for run in runs:
        os.killpg(run.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for run in runs:
            os.killpg(run.pid, signal.SIGCONT)


def read_until(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    said = iter(process.stdout.readline, "")
    assert any(words in line for line in said), f"it never said {words!r}"


def done(*said: str) -> list[str]:
    """The tasks that these runs say they have completed."""
    return re.findall(r"^([a-z]+(?: fold \d+)?): done in ", "\n".join(said), re.MULTILINE)


# --- what is said ---------------------------------------------------------------------------------


def test_help_lists_every_target_and_variable(fresh: Project) -> None:
    shutil.rmtree(fresh.home / "venv")
    makefile = fresh.path("Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):(?!=)[^#\n]*(?:## (.+))?$", makefile, re.MULTILINE)
    wanted = {"demo", "test", "submission", "submit", "status", "clean", "distclean", "help"}
    assert wanted | set(STAGES) <= {target for target, meaning in targets if meaning}

    plain = fresh.call(["make"])
    assert plain.returncode == 0
    assert plain.stdout == fresh.call(["make", "help"]).stdout
    lines = [line.split(maxsplit=1) for line in plain.stdout.splitlines()]
    for target, meaning in targets:
        assert [target, meaning] in lines or target == "none"
    variables = ["DATASET=kaggle", "CONFIG=default", "MESSAGE=", "VENV=.venv", "PYTHON=python3"]
    for variable in (*variables, "EXTRAS=", "ENGINE=local", "JOBS=", "WAIT=120"):
        assert any(line[0] == variable and line[1:] for line in lines)
    assert all(len(line) <= 100 for line in plain.stdout.splitlines())


def test_status_of_a_fresh_clone_and_of_a_built_one(fresh: Project, built: Project) -> None:
    tasks = [*FROM["download"], "report"]
    assert {name: state for name, (state, _) in fresh.status().items()} == dict.fromkeys(
        tasks, "missing"
    )
    status = built.status()
    assert {name: state for name, (state, _) in status.items()} == dict.fromkeys(tasks, "fresh")
    assert all(re.fullmatch(r"\d+\.\d s", rest) for _, rest in status.values())


def test_status_says_why(project: Project) -> None:
    project.path("data/blobs/pair/fold-0/oof.npy").unlink()
    status = project.status()
    assert {name for name, (state, _) in status.items() if state == "fresh"} == {
        *BEFORE_TRAINING,
        "train fold 1",
    }
    assert "data/blobs/pair/fold-0/oof.npy is missing" in status["train fold 0"][1]
    assert status["ensemble"][0] == "waiting"
    assert "for train fold 0, which may come out the same" in status["ensemble"][1]
    add_statement(project.code("split.py"))
    assert "the code in split.py has changed" in project.status()["split"][1]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CONFIG": "fsat"}, ["no preset 'fsat'", "did you mean fast?"]),
        ({"DATASET": "kagle"}, ["no dataset 'kagle'"]),
        ({"DATASET": ""}, ["--dataset must not be empty"]),
        ({"CONFIG": "../typo.toml"}, ["typo.toml: ", "train.epoch", "did you mean epochs?"]),
    ],
)
def test_a_mistake_ends_in_one_line_and_nothing_is_built(
    fresh: Project, variables: dict[str, str], said: list[str]
) -> None:
    fresh.preset("typo").write_text("[train]\nepoch = 1\n", encoding="ascii")
    result = fresh.make("submission", **variables)
    assert result.returncode == 2
    [line] = digits_lines(result.stderr)
    for words in said:
        assert words in line
    assert not result.stdout
    assert fresh.artifacts() == {}


OLD_PYTHON = """#!{python}
import runpy, sys
sys.version_info = (3, 9, 18, "final", 0)
sys.modules["tomllib"] = None
option, what, *sys.argv[1:] = sys.argv[1:]
sys.path[0] = ""
exec(what) if option == "-c" else runpy.run_module(what, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("target", ["status", "test"])
def test_an_old_python_is_refused(fresh: Project, target: str) -> None:
    old = fresh.home / "old-python"
    old.write_text(OLD_PYTHON.format(python=sys.executable), encoding="utf-8")
    old.chmod(0o755)
    result = fresh.make(target, VENV="../none", PYTHON="../old-python")
    assert result.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed, and ../old-python is 3.9" in result.stderr
    assert "PYTHON=" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (fresh.home / "none").exists()


def test_an_old_make_is_refused(fresh: Project) -> None:
    result = fresh.make(".FEATURES=", "submission")
    assert result.returncode == 2
    assert "GNU Make 4.3 or newer is needed" in result.stderr
    assert "brew install make" in result.stderr
    assert not result.stdout


# --- cleaning -------------------------------------------------------------------------------------


def test_clean_and_distclean_need_no_environment(project: Project) -> None:
    """What they remove and ask is tested in test_clean.py."""
    shutil.rmtree(project.home / "venv")
    project.path("data/README.md").write_text("what is here\n", encoding="ascii")
    words = ["VENV=.venv", f"PYTHON={bare_python(project)}"]
    kept = project.below("data/README.md", "data/blobs/raw", "submissions")
    before = project.artifacts()
    refused = project.call(["make", "clean", *words])
    assert refused.returncode == 2
    assert "clean removes 3 networks" in refused.stdout
    assert "YES=1" in refused.stderr
    assert project.artifacts() == before
    for word in ("no", "1"):
        done = project.call(["make", "clean", f"YES={word}", *words])
        assert done.returncode == (0 if word == "1" else 2), done.stderr
    assert project.artifacts() == kept
    assert project.due() == FROM["preprocess"]

    done = project.call(["make", "distclean", *words])
    assert done.returncode == 0, done.stderr
    assert project.artifacts() == project.below("data/README.md", "submissions")
    places = {path.name for path in project.clone.iterdir()}
    assert places == {"bare", "data", "pipeline", "submissions", *COPIED}


def bare_python(project: Project) -> Path:
    """A Python without any package."""
    python = project.clone / "bare"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return python
