"""stages.py: the graph is consistent, a change concerns the right stages, and one can be added."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType

import pytest
from conftest import PACKAGE, Digits, build, fake_environment, run_digits, write_digits

from pipeline import artifacts, config, datasets, environment, fingerprints, stages
from pipeline.artifacts import states
from pipeline.config import Preset
from pipeline.endings import command
from pipeline.errors import UserError
from pipeline.stages import STAGES, Graph
from pipeline.task import Task, _flat
from pipeline.train import fold

MODULES = fingerprints._modules(PACKAGE.parent)
ONCE = [stage.name for stage in STAGES if not stage.per_fold]


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths of the tasks are below tmp_path."""
    monkeypatch.setattr(stages, "ROOT", tmp_path)


def preset(name: str, text: str, folder: Path) -> Preset:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return config.load(str(path))


def sample(chosen: Preset) -> Graph:
    """The graph of a preset on the sample."""
    return stages.graph(datasets.dataset("sample", stages.ROOT), chosen)


def written(task: Task) -> list[Path]:
    """Every file that a task writes, its manifest included."""
    return [*task.writes.values(), task.manifest]


@pytest.fixture
def graphs(tmp_path: Path) -> list[Graph]:
    """The graphs of every source with every preset."""
    words = [*datasets.NAMED, str(write_digits(tmp_path / "tiny"))]
    return [stages.load(word, name) for word in words for name in config.preset_names()]


# --- the graph -----------------------------------------------------------------------------------


def test_every_file_is_written_once_beside_its_manifest_and_before_it_is_read(
    graphs: list[Graph], tmp_path: Path
) -> None:
    for graph in graphs:
        made: set[Path] = set()
        for task in graph.tasks:
            stage = next(each for each in STAGES if each.name == task.stage)
            own = set(_flat(dict(stage.files(graph.dataset))))
            assert set(task.inputs) <= made | own, task.name
            assert {path.parent for path in written(task)} == {task.folder}
            assert task.folder.is_relative_to(tmp_path)
            assert made.isdisjoint(written(task))
            assert len(set(written(task))) == len(written(task))
            made.update(written(task))
        assert len({task.name for task in graph.tasks}) == len(graph.tasks)
        report, solution = graph.task("report"), graph.task("download").writes.get("solution")
        public = graph.dataset.source in ("sample", "mnist", "fashion")
        assert (solution in report.inputs) == public, "nobody has the competition's"
        for task in graph.tasks:
            assert not set(written(report)) & set(task.inputs)
            assert task is report or solution not in task.inputs


def test_a_stage_runs_once_or_for_each_fold(tmp_path: Path) -> None:
    graph = sample(preset("four", "[split]\nfolds = 4", tmp_path))
    assert [task.name for task in graph.all("train")] == [f"train fold {i}" for i in range(4)]
    assert {stage: graph.task(stage).name for stage in ONCE} == {stage: stage for stage in ONCE}
    assert {task.stage for task in graph.tasks} == {stage.name for stage in STAGES}
    assert graph.up_to("split") == [graph.task(s) for s in ("download", "preprocess", "split")]
    assert graph.up_to("train") == [*graph.up_to("split"), *graph.all("train")]
    submission = graph.task("write").writes["submission"]
    assert submission == tmp_path / "submissions" / "sample-four.csv"


def test_members_are_trained_where_they_would_be_on_their_own() -> None:
    best = sample(config.load("best"))
    names = ["best-strided", "best-halved", "best-fine"]
    assert len(best.all("train")) == 15
    assert [task.name for task in best.all("train") if task.fold == 0] == [
        f"train {name} fold 0" for name in names
    ]
    for name in names:
        alone = sample(config.load(name)).all("train")
        members = [task for task in best.all("train") if task.folder.parent.name == name]
        assert [replace(task, name="") for task in members] == [
            replace(task, name="") for task in alone
        ]
    variant = config.variant(config.load("fast"), "sweeps/widths/width=8", {"width": 8})
    assert [task.name for task in sample(variant).all("train")] == ["train width=8 fold 0"]
    oof = best.task("ensemble").reads["fold_oof"]
    assert isinstance(oof, Mapping)
    assert list(oof) == names
    assert set(_flat(oof)) == {task.writes["oof"] for task in best.all("train")}


def test_presets_that_split_alike_share_one_split(tmp_path: Path) -> None:
    one = sample(preset("one", "[split]\nfolds = 3", tmp_path))
    text = "[split]\nfolds = 3\nholdout = 0.5\n[train]\nepochs = 1"
    two = sample(preset("two", text, tmp_path))
    split, other = one.task("split"), two.task("split")
    alike = replace(other, preset=split.preset, params=split.params)
    assert (split, split.values()) == (alike, other.values()), "or each would find it stale"
    folders = [{task.folder for task in graph.all("train")} for graph in (one, two)]
    assert folders[0].isdisjoint(folders[1])


def test_presets_that_split_differently_share_nothing(tmp_path: Path) -> None:
    texts = ("folds = 3", "folds = 4", "folds = 3\nseed = 1", "folds = 1\nholdout = 0.1")
    texts += ("folds = 1\nholdout = 0.2",)
    graphs = [sample(preset(f"p{i}", f"[split]\n{text}", tmp_path)) for i, text in enumerate(texts)]
    assert len({graph.task("split").folder for graph in graphs}) == len(texts)


def test_a_trial_shares_no_file_with_the_real_run(tmp_path: Path) -> None:
    demo = config.load("demo")
    scratch = tmp_path / "data" / "sample" / "scratch"
    for task in sample(config.trial(demo, epochs=1)).all("train"):
        assert all(path.is_relative_to(scratch) for path in written(task))
    for task in sample(demo).tasks:
        assert not any(path.is_relative_to(scratch) for path in written(task))


def test_the_command_that_makes_a_graph_can_be_typed(tmp_path: Path) -> None:
    kaggle, sample = (
        datasets.dataset("kaggle", stages.ROOT),
        datasets.dataset("sample", stages.ROOT),
    )
    assert command("submit", kaggle, config.load("default"), tmp_path) == "make submit"
    words = ("submission", sample, config.load("fast"), tmp_path)
    assert command(*words) == "make submission DATASET=sample CONFIG=fast"
    elsewhere = f"make -C {tmp_path} submission DATASET=sample CONFIG=fast"
    assert command(*words, Path("/")) == elsewhere
    digits, mine = write_digits(tmp_path / "tiny"), preset("mine", "", tmp_path / "tiny")
    words = ("write", datasets.dataset(str(digits), stages.ROOT), mine, tmp_path)
    assert command(*words, tmp_path) == "make write DATASET=tiny CONFIG=tiny/mine.toml"
    assert f"DATASET={digits} CONFIG={digits}/mine.toml" in command(*words, Path("/"))


# --- what makes which stage stale ----------------------------------------------------------------


def test_a_parameter_concerns_its_own_stage_only(tmp_path: Path) -> None:
    before = sample(preset("p", "", tmp_path))
    for text, concerned in (
        ("[train]\nepochs = 3", {"train", "report"}),  # which shows how the networks were trained
        ("[train]\nnetwork = 'fine'", {"train", "report"}),
        ("[split]\nseed = 3", {"split"}),
    ):
        after = sample(preset("p", text, tmp_path))
        assert {
            old.stage
            for old, new in zip(before.tasks, after.tasks, strict=True)
            if (old.values(), old.code) != (new.values(), new.code)
        } == concerned


def due(graph: Graph) -> list[str]:
    """The names of the tasks that are not fresh."""
    return [name for name, state in states(graph.tasks).items() if not state.fresh]


def stale(graph: Graph) -> set[str]:
    """The stages with a task that is stale by itself."""
    found = states(graph.tasks)
    return {task.stage for task in graph.tasks if found[task.name].word == "stale"}


def from_stage(graph: Graph, first: str | None) -> list[str]:
    """The names of the tasks of a stage and of those after it."""
    names = [task.name for task in graph.tasks]
    return names[names.index(graph.all(first)[0].name) :] if first else []


# --- the code of a stage -------------------------------------------------------------------------


@pytest.fixture
def built(project: Path, tiny_folder: Path) -> Graph:
    """Every stage of the preset sprint, done in the project."""
    return build(str(tiny_folder))


EVERY = {stage.name for stage in STAGES} - {"download"}


# By module, the stages that execute it.
CONCERNED = {
    "download/local.py": set(),  # what was read from elsewhere does not age
    "csvs.py": {"preprocess", "write", "report"},
    "split.py": {"split"},
    "train/augment.py": {"train"},
    "train/networks/strided.py": {"train"},
    "train/networks/fine.py": set(),
    "estimate.py": {"ensemble", "write", "report"},
    "report/pictures.py": {"report"},
    "__init__.py": EVERY,
    "train/runtime.py": set(),
    "artifacts.py": set(),
    "stages.py": set(),
}


def test_changed_code_concerns_the_stages_that_execute_it(built: Graph, project: Path) -> None:
    for module, concerned in CONCERNED.items():
        path = project / "pipeline" / module
        before = path.read_text()
        path.write_text(f"{before}\n# A comment.\n")
        assert due(built) == [], module
        # A statement that is run on import, which may change anything in its module.
        path.write_text(f"{before}\nid(0)\n")
        assert stale(built) == concerned, module
        first = next((each.name for each in STAGES if each.name in concerned), None)
        assert due(built) == from_stage(built, first), module
        path.write_text(before)


def test_of_the_raw_data_only_that_of_the_sample_ages(project: Path) -> None:
    for path in (project / "pipeline" / "download").glob("*.py"):
        path.write_text(path.read_text() + "\nid(0)\n")
    write_digits(project / "mine")
    for word in (*datasets.NAMED, "mine"):
        download = stages.load(word, "sprint").task("download")
        assert bool(download.fingerprints()) == (word == "sample")


def test_the_page_and_the_ledger_concern_the_report_only(
    built: Graph, project: Path, tiny_folder: Path
) -> None:
    template = project / "pipeline" / "report" / "page.html"
    before = template.read_text()
    template.write_text(f"{before}\n")
    assert due(built) == ["report"]
    assert "report/page.html" in states(built.tasks)["report"].reason
    template.write_text(before)
    (project / "submissions" / "ledger.csv").write_text("submitted_at\n")
    assert due(stages.load(str(tiny_folder), "sprint")) == ["report"]


def test_a_dataset_is_the_same_however_its_path_is_written(project: Path) -> None:
    write_digits(project / "mine")
    build("mine")
    assert due(stages.load(str(project / "mine"), "sprint")) == []


@pytest.mark.slow
def test_every_module_that_a_stage_executes_is_among_its_code(
    project: Path, tiny_folder: Path
) -> None:
    """Run the real stages, record whose code is executed, and compare with the fingerprints."""
    (project / "mine.toml").write_text(
        "[split]\nfolds = 1\n[train]\nwidth = 4\nepochs = 1\nbatch_size = 16\n"
    )
    graph = stages.load(str(tiny_folder), "mine.toml")
    here = environment.environment("CPU", "", ("float32", ""))
    handed_in = {"environment": here, "progress": fold.Progress()}
    for task in graph.tasks:
        executed: set[str] = set()

        def record(frame: FrameType, event: str, _: object, seen: set[str] = executed) -> None:
            name, file = frame.f_code.co_name, frame.f_code.co_filename
            # A module is imported once; whether that happens here depends on the tests before.
            if name != "<module>" and file.startswith(f"{PACKAGE}/"):
                seen.add(module_name(Path(file)))

        def work(writes: Mapping[str, Path], task: Task = task, record: object = record) -> object:
            sys.setprofile(record)  # type: ignore[arg-type]
            try:
                return task.work(writes, **(handed_in if task.stage == "train" else {}))
            finally:
                sys.setprofile(None)

        assert artifacts.run(task, graph.tasks, work=partial(work))  # type: ignore[arg-type]
        found = fingerprints.closure(task.code, PACKAGE.parent).keys()
        assert task.function.partition(":")[0] in found & executed
        # What calls the function, and what it is called with, which the manifest records.
        around = {"pipeline.artifacts", "pipeline.config", "pipeline.environment"}
        around |= {"pipeline.task", "pipeline.fingerprints"}  # imports what the function imports
        assert executed - around <= found, task.name


# --- the package ---------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("pipeline.csvs") < order.index("pipeline.preprocess")
    assert order.index("pipeline.stages") < order.index("pipeline.cli")


# --- adding a stage ------------------------------------------------------------------------------

COUNT = '''\
"""Count the rows of each class."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def count(train_labels: Path, counts: Path) -> dict[str, Any]:
    """Write how many rows each class has."""
    rows = np.bincount(np.load(train_labels)).tolist()
    counts.write_text(json.dumps(rows))
    return {"classes": len(rows)}
'''
DECLARATION = """\
    Stage(
        name="count",
        help="count the rows of each class.",
        function="pipeline.count:count",
        folder="data/{dataset.name}/counts",
        reads=("preprocess.train_labels",),
        writes=("counts.json",),
    ),
"""
TARGET = "count: preprocess ; $(STAGE) ## count the rows of each class\n"


def declare(project: Path, declaration: str) -> None:
    """Add a stage after the others."""
    path = project / "pipeline" / "stages.py"
    before, start, rest = path.read_text().partition("\nSTAGES = (\n")
    declared, end, after = rest.partition("\n)\n")
    path.write_text(f"{before}{start}{declared}\n{declaration}{end.lstrip()}{after}")


@pytest.mark.slow
def test_a_stage_is_added_with_a_module_a_declaration_and_a_target(
    project: Path, tiny_folder: Path
) -> None:
    environment = fake_environment(project)
    module, makefile = project / "pipeline" / "count.py", project / "Makefile"
    module.write_text(COUNT)
    declare(project, DECLARATION)
    makefile.write_text(f"{makefile.read_text()}\n{TARGET}")
    choice = ["--dataset", str(tiny_folder), "--config", "sprint"]
    for stage in ("download", "preprocess"):
        assert run_digits(project, stage, *choice).returncode == 0

    first = run_digits(project, "count", *choice)
    assert first.returncode == 0, first.stderr
    assert "count: it has not run yet; writing to data/tiny/counts/" in first.stdout
    assert (project / "data/tiny/counts/counts.json").read_text() == str([8] * 10)
    assert run_digits(project, "count", *choice).stdout == "count: fresh\n"
    status = run_digits(project, "status", *choice).stdout
    assert re.search(r"^count +fresh", status, re.MULTILINE)
    module.write_text(COUNT.replace("len(rows)", "len(rows) + 1"))
    status = run_digits(project, "status", *choice).stdout
    assert re.search(r"^count +stale .*count\.py", status, re.MULTILINE)
    assert "count the rows" in run_digits(project, "--help").stdout

    words = ["make", f"VENV={environment}", f"DATASET={tiny_folder}", "CONFIG=sprint"]
    for target, expected in (("help", TARGET.partition("## ")[2]), ("count", "count: done in")):
        done = subprocess.run([*words, target], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


# --- a stage of one's own that is declared wrongly ------------------------------------------------

[COUNTING] = eval(f"[{DECLARATION}]", {"Stage": stages.Stage})
FORGETS_TO_RETURN = COUNT.replace("    return {", "    {")
RETURNS_NUMPY = COUNT.replace("len(rows)", "np.int64(len(rows))")
WRITES_NOTHING = COUNT.replace("    counts.write_text", "    str")


def count_in(project: Path, monkeypatch: pytest.MonkeyPatch, code: str, **changes: object) -> None:
    """Declare the stage `count`, with these changes, in this process and its project."""
    module = ModuleType("pipeline.count")
    exec(code, module.__dict__)
    (project / "pipeline" / "count.py").write_text(code)
    monkeypatch.setitem(sys.modules, "pipeline.count", module)
    declared = (*stages.STAGES, replace(COUNTING, **changes))  # type: ignore[arg-type]
    monkeypatch.setattr(stages, "STAGES", declared)


@pytest.mark.parametrize(
    ("code", "changes", "part"),
    [
        (COUNT, {"reads": ("preprocess.train_label",)}, "preprocess writes train_images, train_l"),
        (
            COUNT,
            {"reads": ("preproces.train_labels",)},
            "before it are download, preprocess, ",
        ),
        (COUNT, {"reads": ("train_labels",)}, "reads 'train_labels', which no stage before it"),
        (COUNT, {"reads": ("ensemble.test", "train.test")}, 'rename one, such as "other=test"'),
        (COUNT, {"folder": "data/{dataset.nam}"}, "no attribute 'nam'; it may name {dataset.name}"),
        (COUNT, {"writes": ("{config}.json",)}, "'{config}.json': 'config'; it may name "),
        (COUNT, {"params": {"size": lambda *task: task[1].trian}}, "has no attribute 'trian'"),
        (COUNT, {"function": "pipeline.cuont:count"}, "there is no module pipeline.cuont"),
        (COUNT, {"function": "pipeline.count:cuont"}, "pipeline.count has no function 'cuont'"),
        (COUNT, {"modules": {"by": "pipeline.split.no"}}, "there is no module pipeline.split.no"),
        (COUNT, {"params": {"size": "3"}}, "unexpected keyword argument 'size'; its arguments"),
        (COUNT, {"writes": ("count=counts.json",)}, "unexpected keyword argument 'count'; its"),
        (FORGETS_TO_RETURN, {}, "count() must return a dict for the manifest, not NoneType"),
        (RETURNS_NUMPY, {}, "must return what fits into JSON: Object of type int64"),
        (WRITES_NOTHING, {}, "count() did not write counts.json; write it, or do not declare it"),
    ],
)
def test_a_stage_that_is_declared_wrongly_concerns_the_commands_that_need_it(
    project: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    changes: dict[str, object],
    part: str,
) -> None:
    count_in(project, monkeypatch, code, **changes)
    graph = stages.load(str(tiny_folder), "sprint")
    for stage in ("download", "preprocess"):
        assert artifacts.run(graph.task(stage), graph.tasks)
    with pytest.raises(UserError) as caught:
        artifacts.run(graph.task("count"), graph.tasks)
    said = str(caught.value)
    assert said.startswith("pipeline/stages.py, stage count: ")
    assert part in said


def test_an_error_within_a_stage_of_ones_own_is_its_own(
    project: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_in(project, monkeypatch, COUNT.replace("np.load(train_labels)", "len(3)"))
    graph = stages.load(str(tiny_folder), "sprint")
    for stage in ("download", "preprocess"):
        artifacts.run(graph.task(stage), graph.tasks)
    with pytest.raises(TypeError, match="has no len"):
        artifacts.run(graph.task("count"), graph.tasks)


def test_status_shows_the_other_stages_and_then_the_fault(
    project: Path, tiny_folder: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_in(project, monkeypatch, COUNT, reads=("preprocess.label",))
    ended = digits("status", "--dataset", str(tiny_folder), "--config", "sprint")
    assert ended.code == 2
    assert any(line.startswith("report ") for line in ended.lines)
    assert "pipeline/stages.py, stage count: it reads 'preprocess.label'" in ended.error
