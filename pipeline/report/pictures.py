"""The pictures of the report, drawn with Matplotlib, each for light and for dark screens.

The colours are Okabe and Ito's, which readers with any kind of colour vision can tell apart
(https://jfly.uni-koeln.de/color/).
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_INK = {"light": "#222222", "dark": "#dddddd"}
# Ink on paper in one theme, chalk on a board in the other.
_DIGITS = {"light": "gray_r", "dark": "gray"}


@dataclass(frozen=True)
class Picture:
    """A picture as data URIs for both themes, with its text alternative."""

    light: str
    dark: str
    alt: str


def grid(rows: Sequence[NDArray[Any]], names: Sequence[str], alt: str) -> Picture:
    """Images in named rows, each (n, 28, 28, 1), combined into one with gaps of one pixel."""
    shape = 29 * len(rows), 29 * max(map(len, rows))
    mosaic = np.ma.masked_array(np.zeros(shape), mask=True)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            mosaic[29 * i : 29 * i + 28, 29 * j : 29 * j + 28] = image[..., 0]

    def draw(figure: Figure, theme: str) -> None:
        axes = figure.add_subplot()
        axes.imshow(mosaic, cmap=_DIGITS[theme], vmin=0, vmax=255, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks(29 * np.arange(len(rows)) + 14, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return _both(draw, (7, 0.65 * len(rows)), alt)


def distributions(sets: Mapping[str, NDArray[np.integer[Any]]], names: Sequence[str]) -> Picture:
    """The share of each class in several sets of labels, each (n,), as grouped bars."""
    shares = {
        title: np.bincount(labels, minlength=len(names)) / len(labels)
        for title, labels in sets.items()
    }

    def draw(figure: Figure, theme: str) -> None:
        axes = figure.add_subplot()
        width = 0.8 / len(shares)
        for i, (label, values) in enumerate(shares.items()):
            places = np.arange(len(names)) + (i - (len(shares) - 1) / 2) * width
            axes.bar(places, values * 100, width, color=COLOURS[i], label=label)
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 3 else 40)
        axes.set_ylabel("percent")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(shares), frameon=False)

    said = "; ".join(
        f"{label}: " + ", ".join(f"{n} {v:.1%}" for n, v in zip(names, values, strict=True))
        for label, values in shares.items()
    )
    return _both(draw, (7, 3), f"Share of each class. {said}.")


def learning(histories: Mapping[str, Sequence[NDArray[np.void]]]) -> Picture:
    """Loss, error rate and learning rate against the epoch; every fold of every network.

    Args:
        histories: for each preset and fold history.csv, as a structured array of float64.
    """

    def draw(figure: Figure, theme: str) -> None:
        loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.2])
        for colour, (name, folds) in zip(COLOURS, histories.items(), strict=False):
            for fold, columns in enumerate(folds):
                label = name if fold == 0 else None
                epochs, style = columns["epoch"], {"color": colour, "lw": 1.2, "alpha": 0.9}
                loss.plot(epochs, columns["loss"], "--", **style)
                loss.plot(epochs, columns["val_loss"], "-", label=label, **style)
                error.plot(epochs, 1 - columns["accuracy"], "--", **style)
                # A logarithmic scale cannot show an error rate of 0.
                error.plot(epochs, np.maximum(1 - columns["val_accuracy"], 1e-5), "-", **style)
                rate.plot(epochs, columns["learning_rate"], "-", **style)
        loss.set(ylabel="loss, nats", yscale="log")
        error.set(ylabel="error rate", yscale="log")
        rate.set(ylabel="rate", xlabel="epoch (solid: held out; dashed: training, augmented)")
        rate.xaxis.get_major_locator().set_params(integer=True)
        if len(histories) > 1:
            loss.legend()
        for axes in (loss, error, rate):
            axes.grid(alpha=0.25)

    ends = [
        f"{name}, fold {fold}: held-out accuracy {columns['val_accuracy'][-1]:.4f} after "
        f"{len(columns['epoch'])} epochs"
        for name, folds in histories.items()
        for fold, columns in enumerate(folds)
    ]
    return _both(draw, (7, 6), f"Loss, error rate and learning rate by epoch. {'; '.join(ends)}.")


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.float64], rows: NDArray[np.int64]
) -> Picture:
    """Accuracy against confidence; on the diagonal, predictions are as good as they claim.

    Args:
        confidence: the mean probability of the predicted class in each bin.
        right: the accuracy in each bin.
        rows: the number of predictions in each bin.
    """

    def draw(figure: Figure, theme: str) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        axes.plot([0, 1], [0, 1], ":", color=_INK[theme])
        axes.plot(confidence, right, "o-", color=COLOURS[0])
        axes.set(ylabel="accuracy", ylim=(0, 1.03))
        below.bar(confidence, rows, 0.03, color=COLOURS[0])
        below.set(xlabel="probability of the predicted class", ylabel="rows", yscale="log")
        axes.grid(alpha=0.25)

    said = ", ".join(f"{c:.2f}: {r:.2f}" for c, r in zip(confidence, right, strict=True))
    return _both(draw, (6, 4.6), f"Reliability curve; confidence and share right: {said}.")


def sheet(images: NDArray[np.uint8]) -> str:
    """All images, uint8 (n, 28, 28, 1), in one PNG with 40 per row, as a data URI."""
    from PIL import Image

    rows = -(-len(images) // 40) or 1
    tiles = np.zeros((rows * 40, 28, 28), np.uint8)
    tiles[: len(images)] = images[..., 0]
    pixels = tiles.reshape(rows, 40, 28, 28).swapaxes(1, 2).reshape(rows * 28, 40 * 28)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", optimize=True)
    return _uri("image/png", content.getvalue())


def _both(draw: Callable[[Figure, str], None], size: tuple[float, float], alt: str) -> Picture:
    """Draw the picture for both themes; equal data give equal bytes."""
    drawn = {}
    for theme, ink in _INK.items():
        inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        settings: dict[str, Any] = dict.fromkeys(inked, ink)
        settings |= {"legend.framealpha": 0.0, "svg.hashsalt": "digits", "font.size": 10}
        with mpl.rc_context(settings):
            figure = Figure(figsize=size, layout="constrained")
            figure.patch.set_alpha(0)
            draw(figure, theme)
            for axes in figure.axes:
                axes.patch.set_alpha(0)
            content = io.BytesIO()
            figure.savefig(content, format="svg", metadata={"Date": None})
        drawn[theme] = _uri("image/svg+xml", content.getvalue())
    return Picture(drawn["light"], drawn["dark"], alt)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
