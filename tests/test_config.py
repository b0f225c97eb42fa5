"""config.py: every preset loads; a message names what is wrong in one, and the nearest word."""

import dataclasses
from pathlib import Path

import pytest

from pipeline import config
from pipeline.config import Preset, Split, Train
from pipeline.errors import UserError


def load(folder: Path, text: str, name: str = "mine") -> Preset:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(str(path))


def fault(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert message.startswith(str(folder / "mine.toml"))
    return message


@pytest.mark.parametrize("name", config.preset_names())
def test_every_preset_loads_under_its_name(name: str) -> None:
    assert config.load(name).name == name


def test_every_parameter_has_a_meaning_and_a_default_within_its_range() -> None:
    for table, parameters in config.TABLES.items():
        values = dataclasses.asdict(parameters())
        assert all(field.metadata["meaning"] for field in dataclasses.fields(parameters))
        loaded = getattr(config.parse({table: values}, "all", "all.toml"), table)
        assert loaded == parameters()


def test_a_preset_is_a_difference_from_the_defaults(tmp_path: Path) -> None:
    preset = load(tmp_path, "[split]\nfolds = 3\n[train]\nlearning_rate = 1\n")
    assert preset == Preset(
        "mine",
        split=Split(folds=3),
        train=Train(learning_rate=1.0),
        path=tmp_path / "mine.toml",
    )
    assert type(preset.train.learning_rate) is float


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[trian]\nepochs = 1", "unknown table [trian], did you mean train?"),
        ("[train]\nepoch = 1", "unknown key train.epoch, did you mean epochs?"),
        ("[nothing]\nlr = 1", "unknown table [nothing]"),
        ("[train]\nnetwork = 'strode'", "'strode', did you mean strided?"),
        ("train = 3", "write [train] above its keys"),
        ("epochs = 3", "put epochs under [train]"),
        ("[train]\nepochs = 1.5", "train.epochs must be a whole number, not 1.5"),
        ("[train]\nepochs = true", "train.epochs must be a whole number, not True"),
        ("[train]\nnetwork = 3", "train.network must be a string, not 3"),
        ("[train]\nepochs = 0", "train.epochs must be between 1 and 10000, not 0"),
        ("[train]\ndropout = 1.0", "train.dropout must be between 0 and 0.95, not 1.0"),
        ("[train]\nlearning_rate = nan", "train.learning_rate must be between"),
        ("[train]\nlimit = -1", "train.limit must be at least 0, not -1"),
        ("[train]\ndecay = 'cosine'", "train.decay must be one of linear, none, not 'cosine'"),
        ("[train]\nrestore_best_weights = 1", "train.restore_best_weights must be true or false"),
        ("base = 3", "base must name a preset"),
        ("base = 'fest'", "base: there is no preset 'fest', did you mean fast?"),
        ("base = 'gone.toml'", "gone.toml: there is no such file"),
        ("base = 'mine.toml'", "a preset cannot inherit from itself"),
        ("base = 'best'\n[train]\nepochs = 1", "[train] has no effect"),
        ("base = 'fast'\n[grid]\nepochs = [1]", "this is a sweep, not a preset"),
        ("[train\n", "not valid TOML"),
        ("[train]\nepochs = 1\nepochs = 2", "not valid TOML"),
    ],
)
def test_the_message_names_a_fault(tmp_path: Path, text: str, part: str) -> None:
    assert part in fault(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_file_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes("[train]\nwidth = 3 # Größe\n".encode(encoding))
    if encoding == "utf-8-sig":
        assert config.load(str(path)).train.width == 3
        return
    with pytest.raises(UserError, match=r"mine\.toml: .*save it as UTF-8"):
        config.load(str(path))


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("network = “fine”", 11),
        ("network = 'fine\u2019", 16),
        ("epochs\u3000= 3", 7),
        ("epochs =\u00a03", 9),
        ("epochs \uff1d 3", 8),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_character_that_only_looks_right_is_located(
    tmp_path: Path, line: str, column: int, end: str
) -> None:
    message = fault(tmp_path, f"[train]\n# “Größe”\u3000\n{line}{end}")
    assert f"line 3, column {column}: {line[column - 1]!r}" in message


# --- inheritance ---------------------------------------------------------------------------------


def test_a_preset_inherits_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "theirs.toml").write_text(
        'base = "demo"\n[about]\nuse = "a"\n[train]\nwidth = 48\nseed = 3\n'
    )
    preset = load(tmp_path, 'base = "theirs.toml"\n[train]\nseed = 4\n[split]\nseed = 1\n')
    demo = config.load("demo")
    assert preset.train == dataclasses.replace(demo.train, width=48, seed=4)
    assert preset.split == dataclasses.replace(demo.split, seed=1)
    assert preset.about == config.About(), "what is known of one is not known of the other"
    found = config.origins(str(tmp_path / "mine.toml"))
    assert (found["train.seed"], found["train.width"], found["split.folds"]) == (
        *("mine", "theirs"),
        "demo",
    )
    assert "train.dropout" not in found


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs.toml").write_text('base = "mine.toml"\n')
    assert "a preset cannot inherit from itself" in fault(tmp_path, 'base = "theirs.toml"\n')


def test_a_fault_in_a_base_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "theirs.toml").write_text("[train]\nepochs = 0\n")
    message = fault(tmp_path, 'base = "theirs.toml"\n')
    assert f"base: {tmp_path}/theirs.toml: train.epochs must be between" in message


# --- ensembles of presets ------------------------------------------------------------------------


def test_an_ensemble_has_the_split_of_its_members(tmp_path: Path) -> None:
    for name, epochs in (("one", 1), ("two", 2)):
        text = f"[split]\nfolds = 2\n[train]\nepochs = {epochs}\n"
        (tmp_path / f"{name}.toml").write_text(text)
    both = tmp_path / "both.toml"
    both.write_text('[ensemble]\nmembers = ["one.toml", "two.toml"]\n')
    preset = config.load(str(both))
    assert preset.split.folds == 2
    assert [member.train.epochs for member in preset.others] == [1, 2]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[split]\n[ensemble]\nmembers = ["fast"]', "fast has another [split] than mine"),
        ('[ensemble]\nmembers = ["default", "fast"]', "fast has another [split] than default"),
        ('[ensemble]\nmembers = ["best"]', "best is itself an ensemble"),
        ('[ensemble]\nmembers = ["default", "default"]', "default is listed twice"),
        ('[ensemble]\nmembers = ["defualt"]', "did you mean default?"),
        ('[ensemble]\nmembers = ["nowhere.toml"]', "there is no such file"),
        ('[ensemble]\nmembers = "default"', "must be a list of strings"),
        ("[ensemble]\nmembers = [1]", "must be a list of strings"),
        ('[ensemble]\nmembers = ["default"]\n[train]\nepochs = 1', "[train] has no effect"),
    ],
)
def test_members_that_cannot_be_averaged(tmp_path: Path, text: str, part: str) -> None:
    assert part in fault(tmp_path, text)


def test_an_unknown_preset_gets_the_nearest_and_all_names() -> None:
    with pytest.raises(UserError) as caught:
        config.load("spirnt")
    assert "there is no preset 'spirnt', did you mean sprint?" in str(caught.value)
    for name in config.preset_names():
        assert name in str(caught.value)


def test_a_file_may_not_take_the_name_of_a_built_in_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fast\.toml: choose another name"):
        load(tmp_path, "", name="fast")


@pytest.mark.parametrize("name", config.RESERVED)
def test_names_that_data_uses_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"cannot be named {name}"):
        load(tmp_path, "", name=name)


@pytest.mark.parametrize("name", ["my preset", "a.b", "größe", "a,b", ""])
def test_names_that_make_bad_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="letters, digits, - and _"):
        load(tmp_path, "", name=name)


def test_a_trial_changes_epochs_and_rows_and_the_place() -> None:
    preset = config.load("fast")
    trial = config.trial(preset, epochs=1, limit=None)
    assert trial.name == "scratch/fast"
    assert trial.train == dataclasses.replace(preset.train, epochs=1)
    assert trial.split == preset.split
    assert config.trial(preset, limit=50).train == dataclasses.replace(preset.train, limit=50)
    members = config.trial(config.load("best"), epochs=1).members
    assert {(member.name[:13], member.train.epochs) for member in members} == {("scratch/best-", 1)}
