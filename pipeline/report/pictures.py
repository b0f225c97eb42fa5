"""The pictures of the report: charts by Matplotlib for light and for dark screens, and digits.

The colours are Okabe and Ito's, which readers with any kind of colour vision can tell apart
(https://jfly.uni-koeln.de/color/). Those too pale for a white page are darker there.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

# Colours of text, and of lines, on a light page; and those that take their places on a dark one.
INK = ("#222222", "#dddddd")
COLOURS = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#d55e00"),
    ("#009e73", "#009e73"),
    ("#c26d9d", "#cc79a7"),
    ("#b87e00", "#f0e442"),
    ("#767676", "#999999"),
)
LINES = tuple(light for light, _ in COLOURS)
# With more folds than colours, these tell apart those of one colour.
MARKERS = ("", "o", "s", "^", "D")
# Inches: a picture this wide can be read on a telephone.
WIDTH = 5.0


@dataclass(frozen=True)
class Picture:
    """A picture as data URIs for both themes, with its text alternative."""

    light: str
    dark: str
    alt: str


def distributions(sets: Mapping[str, NDArray[np.integer[Any]]], names: Sequence[str]) -> Picture:
    """Plot the share of each class in several sets of labels, each (n,), as grouped bars."""
    shares = {
        title: np.bincount(labels, minlength=len(names)) / len(labels)
        for title, labels in sets.items()
    }

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        width = 0.8 / len(shares)
        for i, (label, values) in enumerate(shares.items()):
            places = np.arange(len(names)) + (i - (len(shares) - 1) / 2) * width
            axes.bar(places, values * 100, width, color=LINES[i], label=label)
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 3 else 40)
        axes.set_ylabel("percent")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)

    said = "; ".join(
        f"{label}: " + ", ".join(f"{n} {v:.1%}" for n, v in zip(names, values, strict=True))
        for label, values in shares.items()
    )
    return _both(draw, 3, f"Share of each class. {said}.")


def learning(folds: Sequence[NDArray[np.void]]) -> Picture:
    """Plot loss, error rate and learning rate of a network by epoch, for each of its folds.

    A fold is its history.csv, as a structured array. Where it has one epoch, its lines are points.
    Epochs without an error are on a marked line.
    """
    rates = ("accuracy", "val_accuracy")
    errors = np.concatenate([1 - its[name] for its in folds for name in rates])
    lowest = errors[errors > 0].min(initial=1) / 2  # a logarithmic scale has no place for 0

    def draw(figure: Figure) -> None:
        loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.2])
        for fold, columns in enumerate(folds):
            epochs = columns["epoch"]
            held_out, fitted = (_style(fold, len(epochs), training) for training in (False, True))
            loss.plot(epochs, columns["loss"], **fitted)
            loss.plot(epochs, columns["val_loss"], **held_out)
            for name, style in zip(rates, (fitted, held_out), strict=True):
                error.plot(epochs, np.maximum(1 - columns[name], lowest), **style)
            rate.plot(epochs, columns["learning_rate"], **held_out)
        if (errors == 0).any():
            error.axhline(lowest, ls=":", lw=1, color=INK[0])
            place = error.get_yaxis_transform()
            error.text(0.99, lowest, "no errors", transform=place, va="bottom", ha="right")
        loss.set(ylabel="loss, nats", yscale="log")
        error.set(ylabel="error rate", yscale="log")
        rate.set(ylabel="rate", xlabel="epoch", ylim=(0, None))
        rate.xaxis.get_major_locator().set_params(integer=True)
        longest = max(len(its) for its in folds)
        if longest == 1:
            rate.set_xticks([1])
        for axes in (loss, error, rate):
            axes.grid(alpha=0.25)
        styles = {
            "held out": _style(0, longest, False) | {"color": INK[0]},
            "training": _style(0, longest, True) | {"color": INK[0]},
        }
        if len(folds) > 1:
            styles |= {f"fold {i}": _style(i, longest, False) for i in range(len(folds))}
        handles = [Line2D([], [], **style, label=label) for label, style in styles.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)

    ends = [
        f"fold {fold}: held-out accuracy {columns['val_accuracy'][-1]:.4f} after "
        f"{len(columns)} epoch{'s' if len(columns) > 1 else ''}"
        for fold, columns in enumerate(folds)
    ]
    return _both(draw, 5.6, f"Loss, error rate and learning rate by epoch. {'; '.join(ends)}.")


def _style(fold: int, epochs: int, training: bool) -> dict[str, Any]:
    """Style the lines of a fold: its colour and marker; dashed or hollow in training."""
    colour, marker = LINES[fold % len(LINES)], MARKERS[fold // len(LINES) % len(MARKERS)]
    return {
        "color": colour,
        "marker": marker or ("o" if epochs == 1 else ""),
        "markersize": 7 if epochs == 1 else 4,
        "markerfacecolor": "none" if training else colour,
        "linestyle": "--" if training else "-",
        "linewidth": 1.4,
    }


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.float64], rows: NDArray[np.int64]
) -> Picture:
    """Plot the accuracy of each bin against its confidence; on the diagonal, they are equal."""

    def draw(figure: Figure) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        axes.plot([0, 1], [0, 1], ":", color=INK[0])
        axes.plot(confidence, right, "o-", color=LINES[0])
        axes.set(ylabel="accuracy", ylim=(0, 1.03))
        below.bar(confidence, rows, 0.03, color=LINES[0])
        below.set(xlabel="probability of the predicted class", ylabel="rows", yscale="log")
        axes.grid(alpha=0.25)

    said = ", ".join(f"{c:.2f}: {r:.2f}" for c, r in zip(confidence, right, strict=True))
    return _both(draw, 4.2, f"Reliability curve; confidence and share right: {said}.")


def strip(images: NDArray[np.uint8]) -> str:
    """Put images, uint8 (n, 28, 28, 1), side by side, a pixel apart: a PNG, ink on nothing."""
    tiles = np.pad(images[..., 0], ((0, 0), (0, 0), (0, 1)))
    ink = tiles.swapaxes(0, 1).reshape(28, -1)[:, :-1]
    return _png(np.dstack([np.zeros_like(ink), ink]))


def sheet(images: NDArray[np.uint8]) -> str:
    """Put images, uint8 (n, 28, 28, 1), into one PNG with 40 per row, as a data URI."""
    rows = -(-len(images) // 40) or 1
    tiles = np.zeros((rows * 40, 28, 28), np.uint8)
    tiles[: len(images)] = images[..., 0]
    pixels = tiles.reshape(rows, 40, 28, 28).swapaxes(1, 2).reshape(rows * 28, 40 * 28)
    return _png(pixels)


def _both(draw: Callable[[Figure], None], height: float, alt: str) -> Picture:
    """Draw a picture, and exchange its colours for the dark theme; equal data give equal bytes."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[str, Any] = dict.fromkeys(inked, INK[0])
    settings |= {"legend.framealpha": 0.0, "svg.hashsalt": "digits", "font.size": 10}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    light = dark = content.getvalue().decode()
    for before, after in (INK, *COLOURS):
        dark = dark.replace(before, after)
    light, dark = (_uri("image/svg+xml", text.encode()) for text in (light, dark))
    return Picture(light, dark, alt)


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", optimize=True)
    return _uri("image/png", content.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
