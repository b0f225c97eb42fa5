"""Formats the measurements as a Markdown table, and draws them."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = (
    "preset",
    "accuracy on held-out digits",
    "training, s",
    "against the notebook",
    "images/s",
    "of the matrix limit",
    "peak memory",
)
Run = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]


def markdown(table: pd.DataFrame) -> str:
    """Format a table of texts in Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def presets(
    runs: Runs, notebook: Run, limits: Mapping[str, float], best: Run | None
) -> pd.DataFrame:
    """Tabulate the presets: accuracy, time, and both relative to the notebook.

    Args:
        runs: for each preset the results of `measure.preset`, one per run.
        notebook: the result of `measure.notebook`.
        limits: operations per second, by precision.
        best: the ensemble's metrics and the seconds of all its folds, if it was trained.
    """
    lines = []
    for name, its in runs.items():
        each, kind = pd.DataFrame(its), "folds" if name == "default" else "seeds"
        accuracy, seconds = each["final_accuracy"], pd.Series([run["seconds"][-1] for run in its])
        total = seconds.sum() if kind == "folds" else seconds.median()
        spread = f"{seconds.min():.1f} to {seconds.max():.1f}"
        rate = each["images_per_second"].median()
        limit = limits["bfloat16" if "bfloat16" in its[0]["precision"] else "float32"]
        lines.append(
            [
                f"`{name}`",
                f"{accuracy.mean():.5f}, sd {accuracy.std():.5f} ({len(its)} {kind})",
                f"{total:.1f} ({spread}{' each' if kind == 'folds' else ''})",
                _ratio(notebook, accuracy.mean(), total),
                f"{rate:,.0f}",
                f"{rate * its[0]['flops_per_image'] / limit:.0%}",
                _gibibytes(each["peak_bytes"].max()),
            ]
        )
    if best:
        accuracy, error, total = (
            best[key] for key in ("oof_accuracy", "oof_standard_error", "seconds")
        )
        told = f"{accuracy:.5f} ± {error:.5f} (ensemble, out of fold)"
        ratio = _ratio(notebook, accuracy, total)
        lines.append(["`best`", told, f"{total:.0f}", ratio, "", "", ""])
    accuracy, epochs = notebook["accuracy"], len(notebook["accuracy"])
    lines.append(
        [
            "the notebook",
            f"{accuracy[-1]:.5f} at its end, {max(accuracy):.5f} at best",
            f"{notebook['seconds'][-1]:.1f} ({epochs} epochs)",
            "",
            f"{notebook['images_per_second']:,.0f}",
            "",
            _gibibytes(notebook["peak_bytes"]),
        ]
    )
    return pd.DataFrame(lines, columns=COLUMNS)


def reached(notebook: Run, accuracy: float) -> float | None:
    """Return the seconds until the notebook first reaches an accuracy; None if it never does."""
    pairs = zip(notebook["seconds"], notebook["accuracy"], strict=True)
    return next((seconds for seconds, its in pairs if its >= accuracy), None)


def draw(folder: Path, runs: Runs, notebook: Run, best: Run | None) -> None:
    """Draw accuracy-against-time.svg and seeds.svg into `folder`."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    # Equal data give equal bytes; the colours suit colour-blind readers.
    plt.rcParams.update({"svg.hashsalt": "digits", "font.size": 11})
    colours = dict(zip([*runs, "best"], ["#E69F00", "#56B4E9", "#009E73", "#CC79A7"], strict=False))

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    grey = "#666666"
    axes.plot(notebook["seconds"], notebook["accuracy"], "o-", color=grey, label="the notebook")
    for name, its in runs.items():
        for run in its:
            axes.plot(run["seconds"], run["accuracy"], color=colours[name], alpha=0.6)
        ends = [(run["seconds"][-1], run["final_accuracy"]) for run in its]
        axes.plot(*zip(*ends, strict=True), "D", color=colours[name], label=name)
    if best:
        axes.plot(best["seconds"], best["oof_accuracy"], "*", ms=14, color=colours["best"])
        axes.text(best["seconds"] / 1.15, best["oof_accuracy"], "best", ha="right", va="center")
    axes.set(
        xscale="log",
        ylim=(0.975, 1.0),
        xlabel="seconds of training (one network; best: all of its networks)",
        ylabel="accuracy on held-out digits",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(folder / "accuracy-against-time.svg", metadata={"Date": None})

    figure, axes = plt.subplots(figsize=(7.5, 3), layout="constrained")
    for row, (name, its) in enumerate(runs.items()):
        accuracy = [run["final_accuracy"] for run in its]
        axes.plot(accuracy, [row] * len(its), "o", color=colours[name], alpha=0.8)
        axes.plot(statistics.mean(accuracy), row, "|", color="black", ms=24)
    axes.axvline(max(notebook["accuracy"]), color=grey, ls=":", label="the notebook's best")
    axes.set(
        yticks=range(len(runs)),
        yticklabels=[f"{name}, {len(its)}" for name, its in runs.items()],
        ylim=(-0.6, len(runs) - 0.4),
        xlabel="accuracy of each run; the bar is the mean",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(folder / "seeds.svg", metadata={"Date": None})


def _ratio(notebook: Run, accuracy: float, seconds: float) -> str:
    first = reached(notebook, accuracy)
    ratio = (first or notebook["seconds"][-1]) / seconds
    speed = f"{ratio:.1f}× faster" if ratio >= 1 else f"{1 / ratio:.1f}× slower"
    return f"{speed}; the notebook never reaches this accuracy" if first is None else speed


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
