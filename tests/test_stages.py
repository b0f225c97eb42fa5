"""stages.py: the graph holds together, and no module that a stage uses is forgotten in it."""

import ast
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PACKAGE, build, write_digits

from pipeline import config, stages
from pipeline.artifacts import Step, code_fingerprint, staleness
from pipeline.errors import UserError
from pipeline.sources import NAMED, SOURCES

# Modules whose code is no part of what a stage computes: a change of them makes nothing stale.
INFRASTRUCTURE = {
    "artifacts": "writes the files of all stages; the bytes are those that the stage gave",
    "backend": "imports Keras",
    "config": "its values reach a stage as parameters, and those are recorded one by one",
    "errors": "two exceptions",
    "kaggle_client": "moves the competition's files; how it does so changes none of their bytes",
    "progress": "what is shown of a training",
    "share": "where a training runs, which changes no number of it",
    "sources": "the table of sources; the one that is used is recorded as a parameter",
    "stages": "the graph itself; what it hands to a stage is recorded in the manifest",
}


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths of the steps begin with tmp_path."""
    monkeypatch.setattr(stages, "ROOT", tmp_path)


def preset(name: str, text: str, folder: Path) -> config.Config:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return config.load(str(path))


def all_graphs(folder: Path) -> list[list[Step]]:
    """The steps of every source with every preset."""
    tiny = write_digits(folder / "tiny")
    words = [*NAMED, str(tiny)]
    return [
        stages.steps(stages.dataset(word), config.load(name))
        for word in words
        for name in config.preset_names()
    ]


# --- what DATASET= may be ------------------------------------------------------------------------


@pytest.mark.parametrize("word", NAMED)
def test_built_in_datasets(word: str) -> None:
    assert stages.dataset(word) == stages.Dataset(word, word)


def test_a_folder_is_a_dataset(tiny_folder: Path) -> None:
    assert stages.dataset(str(tiny_folder)) == stages.Dataset("tiny", "local", tiny_folder)
    assert stages.dataset(f"{tiny_folder}/").name == "tiny"


def test_a_zip_is_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "my-digits_2.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    assert stages.dataset(str(path)) == stages.Dataset("my-digits_2", "local", path)


def test_a_folder_beside_the_user_is_a_dataset(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder)
    assert stages.dataset(".").name == "tiny"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "there is no dataset"),
        ("sample", "rename it; sample is the name of a dataset that is built in"),
        ("my digits", "use only letters, digits, - and _"),
        ("a.b", "use only letters, digits, - and _"),
        ("zähl", "use only letters, digits, - and _"),
    ],
)
def test_names_that_are_no_datasets(tmp_path: Path, name: str, said: str) -> None:
    if name != "absent":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=said):
        stages.dataset(str(tmp_path / name))


def test_an_unknown_word_is_told_what_there_is() -> None:
    with pytest.raises(UserError, match="give one of kaggle, sample, mnist, fashion, or the path"):
        stages.dataset("keggle")


# --- the graph -----------------------------------------------------------------------------------


def test_every_input_is_made_by_an_earlier_step(tmp_path: Path) -> None:
    for steps in all_graphs(tmp_path):
        made: set[Path] = set()
        for step in steps:
            if step.stage != "download":
                assert set(step.inputs) <= made, step.name
            made.update((*step.outputs, step.manifest))


def test_no_file_is_made_twice(tmp_path: Path) -> None:
    for steps in all_graphs(tmp_path):
        made = [path for step in steps for path in (*step.outputs, step.manifest)]
        assert len(made) == len(set(made))
        assert len({step.name for step in steps}) == len(steps)


def test_outputs_lie_beside_their_manifest_and_below_the_root(tmp_path: Path) -> None:
    for steps in all_graphs(tmp_path):
        for step in steps:
            assert {path.parent for path in step.outputs} == {step.manifest.parent}
            assert step.manifest.is_relative_to(tmp_path)


def test_there_is_a_training_for_each_fold(tmp_path: Path) -> None:
    settings = preset("four", "[split]\nfolds = 4", tmp_path)
    steps = stages.steps(stages.dataset("sample"), settings)
    assert [step.name for step in steps] == [
        *("download", "preprocess", "split"),
        *("train fold 0", "train fold 1", "train fold 2", "train fold 3"),
        *("ensemble", "write", "report"),
    ]
    assert steps[-2].outputs == (tmp_path / "submissions" / "sample-four.csv",)


def test_members_are_trained_where_they_would_be_on_their_own(tmp_path: Path) -> None:
    data = stages.dataset("sample")
    steps = stages.steps(data, config.load("best"))
    trainings = [step for step in steps if step.stage == "train"]
    assert len(trainings) == 15
    assert trainings[5].name == "train best-halved fold 0"
    alone = [s for s in stages.steps(data, config.load("best-halved")) if s.stage == "train"]
    for one, other in zip(trainings[5:10], alone, strict=True):
        assert replace(one, name="") == replace(other, name="")
    ensemble = next(step for step in steps if step.stage == "ensemble")
    assert {path for step in trainings for path in step.outputs[-2:]} < set(ensemble.inputs)
    assert list(stages.folders(steps)) == ["best-strided", "best-halved", "best-fine"]


def test_only_sources_that_know_the_answers_leave_a_solution(tmp_path: Path) -> None:
    for word, known in [("sample", True), ("mnist", True), ("fashion", True), ("kaggle", False)]:
        download = stages.steps(stages.dataset(word), config.load("fast"))[0]
        assert ("solution.csv" in {path.name for path in download.outputs}) == known


def test_only_the_report_of_what_is_done_reads_the_solution(tmp_path: Path) -> None:
    for steps in all_graphs(tmp_path):
        assert steps[-1].stage == "report"
        for step in steps[:-1]:
            assert not set(steps[-1].outputs) & set(step.inputs)
            assert "solution.csv" not in {path.name for path in step.inputs}


def split_and_train(steps: list[Step]) -> tuple[Path, Path]:
    split = next(step for step in steps if step.stage == "split")
    train = next(step for step in steps if step.stage == "train")
    return split.outputs[0], train.outputs[0]


def test_presets_that_divide_alike_share_one_draw(tmp_path: Path) -> None:
    data = stages.dataset("sample")
    one = preset("one", "[split]\nfolds = 3", tmp_path)
    two = preset("two", "[split]\nfolds = 3\nholdout = 0.5\n[train]\nepochs = 1", tmp_path)
    folds, fold_0 = split_and_train(stages.steps(data, one))
    other_folds, other_fold_0 = split_and_train(stages.steps(data, two))
    assert folds == other_folds
    assert fold_0 != other_fold_0
    splits = [stages.steps(data, settings)[2] for settings in (one, two)]
    assert splits[0] == splits[1], "or each would call the other's draw stale"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("folds = 3", "folds = 4"),
        ("folds = 3\nseed = 1", "folds = 3\nseed = 2"),
        ("folds = 1\nholdout = 0.1", "folds = 1\nholdout = 0.2"),
    ],
)
def test_presets_that_divide_otherwise_share_nothing(tmp_path: Path, one: str, other: str) -> None:
    data = stages.dataset("sample")
    places = {
        split_and_train(stages.steps(data, preset(name, f"[split]\n{text}", tmp_path)))[0]
        for name, text in (("one", one), ("other", other))
    }
    assert len(places) == 2


def test_a_trial_shares_no_file_with_the_real_run(tmp_path: Path) -> None:
    data, settings = stages.dataset("sample"), config.load("demo")
    real = stages.steps(data, settings)
    trial = stages.steps(data, config.trial(settings, 1, None))
    scratch = tmp_path / "data" / "sample" / "scratch"
    for step in trial:
        if step.stage == "train":
            assert all(path.is_relative_to(scratch) for path in (*step.outputs, step.manifest))
    for step in real:
        assert not any(path.is_relative_to(scratch) for path in (*step.outputs, step.manifest))


# --- what makes which stage stale ----------------------------------------------------------------


def changed_stages(folder: Path, text: str) -> set[str]:
    """The stages whose own parameters or code entries a preset changes, against the defaults."""
    data = stages.dataset("sample")
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    before = stages.steps(data, preset("p", "", folder / "a"))
    after = stages.steps(data, preset("p", text, folder / "b"))
    return {
        old.stage
        for old, new in zip(before, after, strict=True)
        if (old.params, old.code) != (new.params, new.code)
    }


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("[train]\nepochs = 3", "train"),
        ("[train]\nnetwork = 'fine'", "train"),
        ("[train]\nrotation = 1", "train"),
        ("[split]\nseed = 3", "split"),
    ],
)
def test_a_parameter_concerns_its_own_stage_only(tmp_path: Path, text: str, stage: str) -> None:
    assert changed_stages(tmp_path, text) == {stage}


def test_a_changed_training_parameter_trains_again_and_divides_nothing_again(
    project: Path, tiny_folder: Path
) -> None:
    (project / "mine.toml").write_text("[split]\nfolds = 2\n[train]\nepochs = 2\n")
    assert set(staleness(build(str(tiny_folder), "mine.toml")).values()) == {None}
    (project / "mine.toml").write_text("[split]\nfolds = 2\n[train]\nepochs = 3\n")
    steps = stages.steps(stages.dataset(str(tiny_folder)), config.load("mine.toml"))
    reasons = staleness(steps)
    assert [name for name, reason in reasons.items() if reason is None] == [
        *("download", "preprocess", "split")
    ]
    assert reasons["train fold 0"] == "parameter train.epochs was 2 and is 3"
    assert "oof.npy is to be made again" in str(reasons["ensemble"])


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("csvs.py", None),
        ("split.py", "split"),
        ("augment.py", "train fold 0"),
        ("ensemble.py", "ensemble"),
        ("write.py", "write"),
        ("pictures.py", "report"),
        ("config.py", None),
        ("cli.py", None),
    ],
)
def test_changed_code_concerns_its_stage_and_those_after_it(
    project: Path, tiny_folder: Path, module: str, first: str | None
) -> None:
    steps = build(str(tiny_folder))
    path = project / "pipeline" / module
    path.write_text(path.read_text() + "\n# A comment.\n")
    assert set(staleness(steps).values()) == {None}
    path.write_text(path.read_text() + "\nNEW = 1\n")
    reasons = staleness(steps)
    stale = [name for name, reason in reasons.items() if reason is not None]
    after = [] if first is None else list(reasons)[list(reasons).index(first) :]
    # The page does not show the CSV.
    assert stale == (["write"] if first == "write" else after)


def test_a_new_entry_in_the_ledger_concerns_the_report_only(
    project: Path, tiny_folder: Path
) -> None:
    build(str(tiny_folder))
    (project / "submissions" / "ledger.csv").write_text("submitted_at\n")
    steps = stages.steps(stages.dataset(str(tiny_folder)), config.load("sprint"))
    assert [name for name, reason in staleness(steps).items() if reason] == ["report"]


def test_every_byte_of_the_page_counts(project: Path, tiny_folder: Path) -> None:
    steps = build(str(tiny_folder))
    template = project / "pipeline" / "report.html"
    template.write_text(template.read_text() + "<!-- -->\n")
    reasons = staleness(steps)
    assert reasons.pop("report") == "the code of report.html has changed"
    assert set(reasons.values()) == {None}


def test_a_dataset_is_the_same_however_its_path_is_written(project: Path, tmp_path: Path) -> None:
    write_digits(project / "mine")
    steps = build("mine")
    again = stages.steps(stages.dataset(str(project / "mine")), config.load("sprint"))
    assert set(staleness(again).values()) == {None}
    assert [step.name for step in again] == [step.name for step in steps]


# --- no module is forgotten ----------------------------------------------------------------------


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a module imports anywhere, as "csvs" or "sources/local"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from pipeline.sources import local" may name a module, or a name within one.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if module_path(name) is not None]
            names = modules if len(modules) == len(inner) else [node.module, *modules]
        for name in names:
            if name.startswith("pipeline.") and module_path(name) is not None:
                found.add(name.removeprefix("pipeline.").replace(".", "/"))
    return found


def module_path(name: str) -> Path | None:
    """The file of a module of the package, "pipeline.sources.local"."""
    place = PACKAGE.joinpath(*name.split(".")[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def test_the_modules_that_a_stage_imports_are_found() -> None:
    assert "csvs" in imported_modules(PACKAGE / "preprocess.py")
    assert {"augment", "networks", "schedule"} <= imported_modules(PACKAGE / "train.py")
    assert "sources/mnist" in imported_modules(PACKAGE / "sources" / "fashion.py")
    assert "sources" in imported_modules(PACKAGE / "download.py")


def test_every_module_that_a_stage_uses_is_among_its_code(tmp_path: Path) -> None:
    forgotten = set()
    for steps in all_graphs(tmp_path):
        for step in steps:
            files = {entry.partition(":")[0] for entry in step.code}
            for file in files:
                if not file.endswith(".py"):
                    continue
                for module in imported_modules(PACKAGE / file) - INFRASTRUCTURE.keys():
                    if f"{module}.py" not in files:
                        forgotten.add(f"{step.stage}: {file} imports {module}.py")
    assert forgotten == set()


def test_every_stage_has_its_own_module_among_its_code(tmp_path: Path) -> None:
    for steps in all_graphs(tmp_path):
        for step in steps:
            assert f"{step.stage}.py" in step.code
            for entry in step.code:
                assert len(code_fingerprint(entry, PACKAGE)) == 64


def test_every_source_has_its_own_module_among_its_code() -> None:
    for name, source in SOURCES.items():
        assert f"sources/{name}.py" in source.CODE


def test_the_list_of_infrastructure_names_modules_that_exist() -> None:
    for module in INFRASTRUCTURE:
        assert module_path(f"pipeline.{module}") is not None
