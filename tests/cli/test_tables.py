"""`digits runs`, `digits config`, and the sample submission that `digits check` takes."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, Digits, build, works

from pipeline import artifacts, config, files, stages
from pipeline.artifacts import add_metadata
from pipeline.kaggle import ledger


def runs(digits: Digits, folder: Path) -> list[str]:
    """The lines of the presets, and what follows them."""
    first, _, *lines = digits("runs", "--dataset", str(folder)).lines
    assert first == "dataset tiny"
    return [line.rstrip() for line in lines]


def test_runs_lists_the_best_of_a_split_first(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    assert digits("runs", "--dataset", str(tiny_folder)).lines == [
        "nothing has been trained on tiny yet"
    ]
    sprint = build(str(tiny_folder), "sprint")
    build(str(tiny_folder), "fast")
    build(str(tiny_folder), "demo")
    ensemble = sprint.task("ensemble")
    add_metadata(ensemble, "oof_accuracy", 0.5)
    entry = ledger.Entry(*"abc", "tiny", "sprint", *"defgh", public_score="0.49")
    sent = files.fingerprint(sprint.task("write").writes["submission"])
    ledger.write(stages.LEDGER, [entry, replace(entry, sha256=sent, public_score="0.48")])
    other, best, second, note = runs(digits, tiny_folder)
    assert other.split()[:3] == ["demo", "3-folds-seed-0", "80"]
    assert best.split()[:5] == ["fast", "holdout-0.15-seed-0", "12", "0", "1.00000"]
    assert second.split()[0] == "sprint"
    assert {"0.50000", "0.48"} < set(second.split()), "the score of this exact file"
    assert "compare within a split" in note
    # A damaged manifest is no measurement.
    ensemble.manifest.write_text(ensemble.manifest.read_text().replace("0.5", "0.9"))
    assert not [line for line in runs(digits, tiny_folder) if "0.9" in line]
    shutil.rmtree(ensemble.folder)
    assert "1 fold trained, not averaged yet" in runs(digits, tiny_folder)[2]


def test_runs_shows_no_time_of_folds_that_the_accuracy_is_not_of(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    graph = build(str(tiny_folder))
    [fold] = graph.all("train")
    add_metadata(fold, "epoch_seconds", [1234.0])
    assert "1234 s" in runs(digits, tiny_folder)[0]
    _, again = works(str(tiny_folder))[3]

    def other(writes: Mapping[str, Path]) -> Mapping[str, Any]:
        metadata = again(writes)
        np.save(writes["oof"], np.load(writes["oof"])[:, ::-1])
        return {**metadata, "epoch_seconds": [5678.0]}

    artifacts.run(fold, graph.tasks, force=True, work=other)
    text = " ".join(" ".join(runs(digits, tiny_folder)).split())
    assert "1.00000" in text
    assert "5678" not in text
    assert "stale: ensemble is stale: its input data/tiny/sprint/fold-0/oof.npy has" in text


def test_an_estimate_on_rows_that_chose_the_epoch_is_called_optimistic(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    preset = project / "mine.toml"
    for settings, said in (("patience = 2", True), ('patience = 2\nmonitor = "loss"', False)):
        preset.write_text(f'base = "sprint"\n[train]\n{settings}\n')
        build(str(tiny_folder), "mine.toml")
        words = ["result", "--dataset", str(tiny_folder), "--config", "mine.toml"]
        text = " ".join(digits(*words).lines)
        assert ("the epoch of mine was chosen by the loss" in text) is said
        assert ("optimistic" in " ".join(runs(digits, tiny_folder))) is said


def test_runs_marks_what_is_stale_and_names_seeds(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    mine = project / "mine.toml"
    mine.write_text('base = "fast"\n[train]\nseed = 7\n')
    build(str(tiny_folder), "mine.toml")
    [line] = runs(digits, tiny_folder)
    assert line.split()[3] == "7"
    assert "stale" not in line
    mine.write_text('base = "fast"\n[train]\nseed = 8\n')
    reason = "train fold 0 is stale: parameter train.seed was 7 and is now 8"
    assert f"stale: {reason}" in runs(digits, tiny_folder)[0]
    mine.write_text("[train]\nsede = 8\n")
    assert "unknown key" in " ".join(runs(digits, tiny_folder))
    mine.unlink()
    assert "there is no mine.toml" in " ".join(runs(digits, tiny_folder))


# --- parameters and presets ----------------------------------------------------------------------


def test_config_shows_ranges_choices_and_where_a_value_is_from(digits: Digits) -> None:
    lines = digits("config", "--config", "best-fine").lines
    shown = {line[2:].split(" = ")[0]: line for line in lines}
    assert "(between 1 and 10000; from best-halved)" in shown["epochs"]
    assert shown["dropout"].startswith("* dropout = 0.3 ")
    assert shown["dropout"].endswith("(between 0 and 0.95)")
    assert shown["width"].startswith("  width = 32 ")
    assert "(one of rmsprop, adam)" in shown["optimizer"]
    assert "one of cnn_5x5, cnn_batchnorm, " in shown["network"]
    last = digits("config", "--config", "best").lines[-1]
    assert last.endswith("[train]: best-strided best-halved best-fine")


def test_config_lists_the_presets_the_quickest_first(digits: Digits) -> None:
    lines = [line.split() for line in digits("config").lines]
    presets = lines[lines.index(["preset", "accuracy", "training", "use", "it", "for"]) + 1 : -1]
    assert {name for name, *_ in presets} == set(config.preset_names())
    assert presets[0][:4] == ["sprint", "0.99032", "4.2", "s"]


def test_the_readme_has_the_figures_of_the_presets() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+).*? \| ([\d.,]+) s \|", readme, re.MULTILINE)
    assert len(rows) == 5
    for name, accuracy, seconds in rows:
        about = config.load(name).about
        found = float(accuracy), float(seconds.replace(",", ""))
        assert found == (about.accuracy, about.seconds), name


# --- check ---------------------------------------------------------------------------------------


def test_check_judges_by_the_dataset_that_is_named(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    build(str(tiny_folder))
    ours = str(project / "submissions/tiny-sprint.csv")
    ended = digits("check", ours)
    assert ended.code == 0
    assert "20 rows, valid for data/tiny/raw/sample_submission.csv" in ended.lines[0]
    raw = project / "data" / "sample" / "raw"
    raw.mkdir(parents=True)
    ids = "".join(f"{i},0\n" for i in range(1, 31))
    (raw / "sample_submission.csv").write_text(f"ImageId,Label\n{ids}")
    ended = digits("check", ours, "--dataset", "sample")
    assert ended.code == 2
    assert "data/sample/raw/sample_submission.csv" in ended.error
    sample = str(tiny_folder / "sample_submission.csv")
    assert digits("check", sample, "--sample", sample).lines[0].startswith(f"{sample}: 20 rows")


@pytest.mark.parametrize("beside", ["[]", '{"params": {"dataset": 5}}', "{"])
def test_check_ignores_a_foreign_json_beside_the_csv(
    project: Path, tiny_folder: Path, digits: Digits, beside: str
) -> None:
    (tiny_folder / "s.csv").write_text("ImageId,Label\n1,1\n")
    (tiny_folder / "s.json").write_text(beside)
    ended = digits("check", str(tiny_folder / "s.csv"))
    assert ended.code == 2
    assert "data/kaggle/raw/sample_submission.csv is missing" in ended.error
