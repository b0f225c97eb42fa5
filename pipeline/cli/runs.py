"""`digits runs`: the presets that were trained on a dataset, by split."""

from pathlib import Path
from typing import Any

from pipeline import artifacts, config, datasets, endings, files, stages
from pipeline.cli.options import DatasetOption
from pipeline.cli.screen import print_table
from pipeline.datasets import Dataset
from pipeline.errors import UserError


def runs(dataset: DatasetOption = "kaggle") -> None:
    """List the presets trained on a dataset, by split."""
    from pipeline.estimate import standard_error
    from pipeline.kaggle import ledger

    data = datasets.dataset(dataset, stages.ROOT)
    scores = {entry.sha256: entry.public_score for entry in ledger.read(stages.LEDGER)}
    folders = (stages.ROOT / "data" / data.name).glob("*/")
    found = [run for run in (_run(data, folder) for folder in folders) if run]
    if not found:
        print(f"nothing has been trained on {data.name} yet")
        return
    print(f"dataset {data.name}")
    found.sort(key=lambda run: (-run["rows"], run["split"], -run["accuracy"], run["preset"]))
    rows = []
    for run in found:
        written = stages.ROOT / "submissions" / f"{data.name}-{run['preset']}.json"
        sent = (files.read_json(written) or {}).get("outputs", {})
        rows.append(
            [
                *(run["preset"], run["split"], f"{run['rows']:,}", run["seeds"]),
                f"{run['accuracy']:.5f}",
                f"{standard_error(run['accuracy'], run['rows']):.5f}",
                "" if run["seconds"] is None else f"{run['seconds']:.0f} s",
                next((scores[digest] for digest in sent.values() if digest in scores), ""),
                run["state"],
            ]
        )
    columns = ("preset", "split", "rows", "seeds", "out of fold", "±", "training", "public score")
    print_table((*columns, "state"), rows)
    if len({run["split"] for run in found}) > 1:
        print("estimates on different splits come from different rows: compare within a split")


def _run(data: Dataset, folder: Path) -> dict[str, Any] | None:
    """Return the estimate and training time of the preset in a folder; None without a fold."""
    averaged = _manifest(folder / "ensemble" / "manifest.json")
    manifests = sorted(folder.glob("fold-*/manifest.json"))
    if averaged:
        oof = [path for its in averaged["names"]["reads"]["fold_oof"].values() for path in its]
        manifests = [stages.ROOT / Path(path).with_name("manifest.json") for path in oof]
    folds = [fold for fold in map(_manifest, manifests) if fold]
    if not averaged and not folds:
        return None
    measured = [fold["metadata"] for fold in folds]
    rows = sum(its["held_out_rows"] for its in measured)
    right = sum(its["held_out_accuracy"] * its["held_out_rows"] for its in measured)
    run = {
        "preset": folder.name,
        "split": Path((averaged or folds[0])["names"]["reads"]["fold_ids"]).parent.name,
        "seeds": ", ".join(map(str, sorted({fold["params"]["train.seed"] for fold in folds}))),
        "seconds": sum(sum(its.get("epoch_seconds", [])) for its in measured),
    }
    if not averaged:
        state = f"{len(folds)} fold{'s' if len(folds) > 1 else ''} trained, not averaged yet"
        return run | {"rows": rows, "accuracy": right / rows, "state": state}
    metrics, state = averaged["metadata"], _stale(data, folder)
    if averaged["params"].get("chosen"):
        state = f"optimistic: epoch chosen on these rows{'; ' if state else ''}{state}"
    now = {path: digest for fold in folds for path, digest in fold["outputs"].items()}
    if any(now.get(path) != averaged["inputs"][path] for path in oof):
        run["seconds"] = None  # of other networks than the accuracy
    accuracy = metrics["oof_accuracy"]
    return run | {"rows": metrics["oof_rows"], "accuracy": accuracy, "state": state}


def _manifest(path: Path) -> dict[str, Any] | None:
    """Read a manifest; None without an intact one of this version."""
    found = files.read_json(path)
    return found if found and "names" in found else None


def _stale(data: Dataset, folder: Path) -> str:
    """Say why training and averaging a preset anew would not leave the same; empty if it would.

    It is looked for among those that come with the pipeline, and where the user is.
    """
    word = folder.name
    if word not in config.preset_names():
        word = str(endings.here() / f"{word}.toml")
        if not Path(word).exists():
            return f"unknown: there is no {folder.name}.toml in this folder"
    try:
        preset = config.load(word)
    except UserError as error:
        return f"unknown: {error}"
    line = artifacts.first_due(stages.graph(data, preset).up_to("ensemble"))
    return f"stale: {line}" if line else ""
