"""The measurements as Markdown tables and pictures."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def presets(
    runs: Runs,
    notebook: Mapping[str, Any],
    limits: Mapping[str, Any],
    best: Mapping[str, Any] | None,
) -> str:
    """The table of presets: accuracy, time, and both relative to the notebook.

    Args:
        runs: for each preset the results of `measure.preset`, one per run.
        notebook: the result of `measure.notebook`.
        limits: the results of `measure.limit`, by precision.
        best: the ensemble's metrics and the seconds of all its folds, if it was trained.
    """
    lines = [
        "| preset | accuracy on held-out digits | training, s | against the notebook | "
        "images/s | of the matrix limit | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, its in runs.items():
        accuracy = [run["final_accuracy"] for run in its]
        seconds = [run["seconds"][-1] for run in its]
        rate = statistics.median(run["images_per_second"] for run in its)
        precision = "bfloat16" if "bfloat16" in its[0]["precision"] else "float32"
        share = rate * its[0]["flops_per_image"] / limits[precision]["flops"]
        kind = "folds" if name == "default" else "seeds"
        total = sum(seconds) if kind == "folds" else statistics.median(seconds)
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        lines.append(
            f"| `{name}` | {_mean(accuracy)} ({len(its)} {kind}) "
            f"| {total:.1f} ({spread}{' each' if kind == 'folds' else ''}) "
            f"| {_ratio(notebook, statistics.mean(accuracy), total)} "
            f"| {rate:,.0f} | {share:.0%} | {_peak(its)} |"
        )
    if best:
        lines.append(
            f"| `best` | {best['oof_accuracy']:.5f} ± {best['oof_standard_error']:.5f} "
            f"(ensemble, out of fold) | {best['seconds']:.0f} "
            f"| {_ratio(notebook, best['oof_accuracy'], best['seconds'])} | | | |"
        )
    accuracy = notebook["accuracy"]
    lines.append(
        f"| the notebook | {accuracy[-1]:.5f} at its end, {max(accuracy):.5f} at best "
        f"| {notebook['seconds'][-1]:.1f} ({len(accuracy)} epochs) | | "
        f"{notebook['images_per_second']:,.0f} | | {_peak([notebook])} |"
    )
    return "\n".join(lines)


def rest(found: Mapping[str, Any]) -> str:
    """Start-up, reading CSVs, and the machine's limits."""
    start, parsing = found["start-up"], found["parsing"]
    rows = [
        ("large matrix product, float32", f"{found['float32']['flops'] / 1e9:,.0f} Gflop/s"),
        ("large matrix product, bfloat16", f"{found['bfloat16']['flops'] / 1e9:,.0f} Gflop/s"),
        ("`digits status` (where nothing was made yet)", _seconds(start["status"])),
        ("`digits --help`", _seconds(start["help"])),
        ("import of TensorFlow and Keras", _seconds(start["tensorflow"])),
        (f"train.csv, {parsing['bytes'] / 1e6:.0f} MB, every check", _seconds(parsing["ours"])),
        ("the same by `pandas.read_csv`, no check", _seconds(parsing["pandas"])),
        ("the same by `numpy.loadtxt`, no check", _seconds(parsing["numpy"])),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def reached(notebook: Mapping[str, Any], accuracy: float) -> float | None:
    """Seconds until the notebook first reaches a validation accuracy; None if it never does."""
    pairs = zip(notebook["seconds"], notebook["accuracy"], strict=True)
    return next((seconds for seconds, its in pairs if its >= accuracy), None)


def draw(
    folder: Path, runs: Runs, notebook: Mapping[str, Any], best: Mapping[str, Any] | None
) -> None:
    """Draw accuracy-against-time.svg and seeds.svg into `folder`."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    # Equal data give equal bytes; the colours suit colour-blind readers.
    plt.rcParams.update({"svg.hashsalt": "digits", "font.size": 11})
    colours = dict(zip([*runs, "best"], ["#E69F00", "#56B4E9", "#009E73", "#CC79A7"], strict=False))

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    axes.plot(
        notebook["seconds"], notebook["accuracy"], "o-", color="#666666", label="the notebook"
    )
    for name, its in runs.items():
        label = name
        for run in its:
            axes.plot(run["seconds"], run["accuracy"], "-", color=colours[name], alpha=0.6)
            axes.plot(
                run["seconds"][-1], run["final_accuracy"], "D", color=colours[name], label=label
            )
            label = "_" + name
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
    axes.axvline(max(notebook["accuracy"]), color="#666666", ls=":", label="the notebook's best")
    axes.set(
        yticks=range(len(runs)),
        yticklabels=[f"{name}, {len(its)}" for name, its in runs.items()],
        ylim=(-0.6, len(runs) - 0.4),
        xlabel="accuracy of each run; the bar is the mean",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(folder / "seeds.svg", metadata={"Date": None})


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.5f}, sd {statistics.stdev(values):.5f}"


def _ratio(notebook: Mapping[str, Any], accuracy: float, seconds: float) -> str:
    first = reached(notebook, accuracy)
    ratio = (first or notebook["seconds"][-1]) / seconds
    speed = f"{ratio:.1f}× faster" if ratio >= 1 else f"{1 / ratio:.1f}× slower"
    return f"{speed}; the notebook never reaches this accuracy" if first is None else speed


def _seconds(values: Sequence[float]) -> str:
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f} s{spread}"


def _peak(its: Sequence[Mapping[str, Any]]) -> str:
    return f"{max(run['peak_bytes'] for run in its) / 2**30:.1f} GiB"
