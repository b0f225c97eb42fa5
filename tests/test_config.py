"""config.py: every preset loads; whatever is wrong in one is named, with the nearest right word."""

import dataclasses
from pathlib import Path

import pytest

from pipeline import config
from pipeline.config import Config, Split, Train
from pipeline.errors import UserError


def load(folder: Path, text: str, name: str = "mine") -> Config:
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


def test_the_presets_that_are_promised_exist() -> None:
    assert {"sprint", "fast", "default", "best", "demo"} <= set(config.preset_names())


@pytest.mark.parametrize("name", config.preset_names())
def test_every_preset_names_a_network_that_exists(name: str) -> None:
    from pipeline.networks import NETWORKS

    assert config.load(name).train.network in NETWORKS


def test_every_parameter_has_a_meaning_and_a_default_within_its_range() -> None:
    for table, parameters in config.TABLES.items():
        values = dataclasses.asdict(parameters())
        assert all(field.metadata["meaning"] for field in dataclasses.fields(parameters))
        loaded = getattr(config.parse({table: values}, "all", "all.toml"), table)
        assert loaded == parameters()


def test_a_preset_is_a_difference_from_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, "[split]\nfolds = 3\n[train]\nlearning_rate = 1\n")
    assert settings == Config("mine", Split(folds=3), Train(learning_rate=1.0))
    assert type(settings.train.learning_rate) is float


def test_an_empty_preset_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n") == Config(name="mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trian]\nepochs = 1", "unknown table [trian], did you mean train?"),
        ("[train]\nepoch = 1", "unknown key train.epoch, did you mean epochs?"),
        ("[train]\nlr = 1", "unknown key train.lr"),
        ("[split]\nfold = 1", "unknown key split.fold, did you mean folds?"),
        ("train = 3", "write [train] above its keys"),
        ("epochs = 3", "put epochs under [train]"),
        ("[train]\nepochs = 1.5", "train.epochs has to be a whole number, not 1.5"),
        ("[train]\nepochs = '3'", "train.epochs has to be a whole number, not '3'"),
        ("[train]\nepochs = true", "train.epochs has to be a whole number, not True"),
        ("[train]\ndropout = 'a'", "train.dropout has to be a number, not 'a'"),
        ("[train]\ndropout = false", "train.dropout has to be a number, not False"),
        ("[train]\nnetwork = 3", "train.network has to be a text in quotes, not 3"),
        ("[train]\nepochs = [1]", "train.epochs has to be a whole number, not [1]"),
        ("[train]\nepochs = 0", "train.epochs has to lie between 1 and 10000, not 0"),
        ("[train]\ndropout = 1.0", "train.dropout has to lie between 0 and 0.95, not 1.0"),
        ("[train]\nlearning_rate = nan", "train.learning_rate has to lie between"),
        ("[train]\nlearning_rate = inf", "train.learning_rate has to lie between"),
        ("[train]\nlearning_rate = -1", "train.learning_rate has to lie between"),
        ("[train]\nseed = 2147483648", "train.seed has to lie between"),
        ("[train]\nlimit = -1", "train.limit has to lie between"),
        ("[split]\nfolds = 0", "split.folds has to lie between 1 and 100, not 0"),
        ("[split]\nholdout = 1", "split.holdout has to lie between"),
        ("[train]\ndecay = 'cosine'", "train.decay has to be one of linear, none, not 'cosine'"),
        ("[train]\nkeep = ''", "train.keep has to be one of last, best, not ''"),
        ("[train]\nprecision = 'float64'", "train.precision has to be one of auto, float32"),
        ("[train\n", "not valid TOML"),
        ("[train]\nepochs = 1\nepochs = 2", "not valid TOML"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in fault(tmp_path, text)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes("[train]\n# Größe\nwidth = 3".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        config.load(str(tmp_path / "mine.toml"))


# --- presets that put others together -------------------------------------------------------------


def test_members_are_presets_by_name_or_by_path(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text("[train]\nepochs = 3\n")
    both = load(tmp_path, '[ensemble]\nmembers = ["default", "ours.toml"]\n')
    assert [member.name for member in both.members] == ["default", "ours"]
    assert both.members[1].train.epochs == 3


def test_members_bring_their_split_with_them(tmp_path: Path) -> None:
    for name, epochs in (("one", 1), ("two", 2)):
        text = f"[split]\nfolds = 2\n[train]\nepochs = {epochs}\n"
        (tmp_path / f"{name}.toml").write_text(text)
    both = tmp_path / "both.toml"
    both.write_text('[ensemble]\nmembers = ["one.toml", "two.toml"]\n')
    settings = config.load(str(both))
    assert settings.split.folds == 2
    assert [member.train.epochs for member in settings.others] == [1, 2]


def test_a_preset_without_members_is_its_own() -> None:
    fast = config.load("fast")
    assert fast.members == (fast,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[split]\n[ensemble]\nmembers = ["fast"]', "fast has another [split] than mine.toml"),
        ('[ensemble]\nmembers = ["default", "fast"]', "fast has another [split] than default"),
        ('[ensemble]\nmembers = ["best"]', "best is itself put together from others"),
        ('[ensemble]\nmembers = ["default", "default"]', "names default twice"),
        ('[ensemble]\nmembers = ["defualt"]', "did you mean default?"),
        ('[ensemble]\nmembers = ["nowhere.toml"]', "there is no such file"),
        ('[ensemble]\nmembers = "default"', "has to be a list of texts in quotes"),
        ("[ensemble]\nmembers = [1]", "has to be a list of texts in quotes"),
        ('[ensemble]\nmembers = ["default"]\n[train]\nepochs = 1', "[train] has no effect"),
    ],
)
def test_members_that_cannot_be_put_together(tmp_path: Path, text: str, said: str) -> None:
    assert said in fault(tmp_path, text)


def test_a_trial_of_members_is_a_trial_of_each() -> None:
    trial = config.trial(config.load("best"), 1, 200)
    assert {member.train.epochs for member in trial.members} == {1}
    assert all(member.name.startswith("scratch/best-") for member in trial.members)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        config.load(str(tmp_path / "mine.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        config.load(str(tmp_path / "folder.toml"))


def test_an_unknown_preset_is_told_the_nearest_and_all() -> None:
    with pytest.raises(UserError) as caught:
        config.load("spirnt")
    assert "there is no preset 'spirnt', did you mean sprint?" in str(caught.value)
    for name in config.preset_names():
        assert name in str(caught.value)


def test_a_file_may_not_take_the_name_of_a_built_in_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fast is a preset that comes with the pipeline"):
        load(tmp_path, "", name="fast")


def test_the_file_of_a_built_in_preset_is_that_preset() -> None:
    assert config.load(str(config.PRESETS / "fast.toml")) == config.load("fast")


@pytest.mark.parametrize("name", ["raw", "tensors", "folds", "scratch"])
def test_names_that_data_uses_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"cannot be named {name}"):
        load(tmp_path, "", name=name)


@pytest.mark.parametrize("name", ["my preset", "a.b", "größe", "a,b", ""])
def test_names_that_make_no_good_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="may hold letters, digits, - and _ only"):
        load(tmp_path, "", name=name)


def test_a_trial_changes_epochs_and_rows_and_the_place() -> None:
    settings = config.load("fast")
    trial = config.trial(settings, 1, None)
    assert trial.name == "scratch/fast"
    assert trial.train == dataclasses.replace(settings.train, epochs=1)
    assert trial.split == settings.split
    assert config.trial(settings, None, 50).train == dataclasses.replace(settings.train, limit=50)
