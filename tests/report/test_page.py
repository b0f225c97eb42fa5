"""page.py: its figures agree with slow and obvious ones; the page works in a real browser."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page
from conftest import digit_images

from pipeline import files
from pipeline.config import Train
from pipeline.kaggle import ledger
from pipeline.nearest import Nearest
from pipeline.report import page as made_by
from pipeline.report.page import report

ROWS, TEST_ROWS, FOLDS = 300, 60, 3
NAMES = ("<i>zero</i>", *"123456789")  # markup in a name must come out as text


def probabilities(labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities that are wrong for about a tenth of the labels."""
    random = np.random.default_rng(seed)
    scores = random.random((len(labels), 10))
    predicted = np.where(random.random(len(labels)) < 0.1, (labels + 1) % 10, labels)
    scores[np.arange(len(labels)), predicted] += 4 * random.random(len(labels)) + 1
    return (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Made:
    """A report of a made-up run of two members: its page, its inputs, its metadata."""

    page: Path
    inputs: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def html(self) -> str:
        return self.page.read_text()

    def array(self, name: str) -> np.ndarray:
        return np.load(self.inputs[name])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("report")
    images, labels = digit_images(ROWS)
    test_images, test_labels = digit_images(TEST_ROWS, seed=1)
    oof = probabilities(labels, 0)
    arrays = {
        "train_images": images,
        "train_labels": labels,
        "test_images": test_images,
        "fold_ids": (np.arange(ROWS) % FOLDS).astype(np.int8),
        "oof": oof,
        "test": probabilities(test_labels, 1),
    }
    for name, array in arrays.items():
        np.save(home / f"{name}.npy", array)
    metrics = {
        "oof_accuracy": float((oof.argmax(axis=1) == labels).mean()),
        "oof_standard_error": 0.01,
        "oof_rows": ROWS,
        "fold_accuracies": [0.9] * FOLDS,
        "member_accuracies": {"one": 0.9, "two": 0.91},
        "temperature": 0.625,
        "calibration_error_before": 0.05,
        "calibration_error": 0.004,
        "remarks": ["the epoch of <two> was chosen"],
    }
    (home / "metrics.json").write_text(json.dumps(metrics))
    lines = ["ImageId,Label", *(f"{i + 1},{label}" for i, label in enumerate(test_labels))]
    (home / "solution.csv").write_text("\n".join(lines) + "\n")
    (home / "submission.csv").write_text("the submission\n")
    sent = files.fingerprint(home / "submission.csv")
    entry = ledger.Entry("now", "f", sent, *"abcdefg", public_score="0.99123")
    others = [replace(entry, public_score=""), replace(entry, sha256="other", public_score="0.5")]
    ledger.write(home / "ledger.csv", [entry, *others])
    members = {"one": Train(), "two": Train(rotation=0, zoom=0, shift=0, shear=0)}
    folders = {name: [home / name / f"fold-{fold}" for fold in range(FOLDS)] for name in members}
    for folder in (folder for its in folders.values() for folder in its):
        write_fold(folder)

    def of_folds(file: str) -> dict[str, list[Path]]:
        return {name: [folder / file for folder in its] for name, its in folders.items()}

    inputs = {
        **{name: home / f"{name}.npy" for name in arrays},
        "metrics": home / "metrics.json",
        "augmented": of_folds("augmented.npy"),
        "histories": of_folds("history.csv"),
        "manifests": of_folds("manifest.json"),
        "submission": home / "submission.csv",
        "solution": home / "solution.csv",
        "ledger": home / "ledger.csv",
        "template": Path(made_by.__file__).with_suffix(".html"),
        "class_names": NAMES,
        "members": {name: asdict(params) for name, params in members.items()},
        "title": "blobs, both",
        "command": "make submission CONFIG=both",
    }
    return Made(home / "page.html", inputs, report(page=home / "page.html", **inputs))


@pytest.fixture(scope="module")
def competition(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the same run without the labels of the test set, and with room for few errors."""
    page = tmp_path_factory.mktemp("competition") / "page.html"
    inputs = {k: v for k, v in made.inputs.items() if k not in ("solution", "ledger")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.report.page.SHOWN", 4)
        report(page=page, **inputs)
    return page.read_text()


def again(made: Made, folder: Path, **inputs: Any) -> Path:
    """Write the report once more with some inputs changed: paths, or arrays to save."""
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            inputs[name] = folder / f"{name}.npy"
            np.save(inputs[name], value)
    report(page=folder / "page.html", **{**made.inputs, **inputs})
    return folder / "page.html"


def write_fold(folder: Path) -> None:
    """Write the files of a trained fold that the report reads."""
    folder.mkdir(parents=True)
    np.save(folder / "augmented.npy", digit_images(40)[0].reshape(4, 10, 28, 28, 1))
    (folder / "history.csv").write_text(
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n"
        "1,0.5,0.8,0.4,0.85,0.002\n2,0.3,0.9,0.2,1.0,0.001\n"
    )
    metadata = {
        "device": "CPU",
        "device_reason": "no GPU",
        "precision": "float32",
        "precision_reason": "asked for",
        "versions": {"keras": "3"},
        "epoch_seconds": [1.5, 2.0],
        "layers": [
            {"kind": "InputLayer", "shape": [28, 28, 1], "parameters": 0},
            {"kind": "Dense", "shape": [10], "parameters": 90},
        ],
    }
    files.write_json(folder / "manifest.json", {"metadata": metadata})


def galleries(page: str) -> dict[str, Any]:
    found = re.search(r"^const GALLERIES = (.*);$", page, re.MULTILINE)
    assert found
    return json.loads(found[1])


def test_the_gallery_shows_every_error_and_the_least_certain(made: Made) -> None:
    _, labels = digit_images(ROWS)
    oof = made.array("oof")
    wrong = {i + 1 for i in range(ROWS) if oof[i].argmax() != labels[i]}
    found = galleries(made.html)
    assert {digit["row"] for digit in found["errors"]["digits"]} == wrong
    assert made.metadata["oof_errors"] == len(wrong) > 10
    for digit in found["errors"]["digits"]:
        assert digit["truth"] == labels[digit["row"] - 1]
        assert digit["fold"] == (digit["row"] - 1) % FOLDS
        assert digit["probabilities"] == pytest.approx(oof[digit["row"] - 1], abs=1e-4)
        assert digit["predicted"] == oof[digit["row"] - 1].argmax()
    assert len(found["unsure"]["digits"]) == TEST_ROWS
    assert all(digit["truth"] is None for digit in found["unsure"]["digits"])


def test_of_too_many_errors_the_most_confident_are_shown(made: Made, competition: str) -> None:
    everything = galleries(made.html)["errors"]["digits"]
    cut = galleries(competition)["errors"]
    without = [{**digit, "near": None} for digit in everything[:4]]
    assert [{**digit, "near": None} for digit in cut["digits"]] == without
    assert cut["found"] == len(everything)
    confidence = [max(digit["probabilities"]) for digit in everything]
    assert confidence == sorted(confidence, reverse=True)


def test_the_text_of_the_page(made: Made) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", made.html))
    oof, labels = made.array("oof"), digit_images(ROWS)[1]
    test, test_labels = made.array("test"), digit_images(TEST_ROWS, seed=1)[1]
    right, test_right = oof.argmax(axis=1) == labels, test.argmax(axis=1) == test_labels
    assert f"Out-of-fold accuracy {right.mean():.5f} ± 0.01000" in text
    assert f"on the test set {test_right.mean():.5f} (60 images)" in text
    assert "public score 0.99123" in text
    assert "6 networks trained in 21 s" in text
    assert (
        "seconds on CPU (no GPU), in float32 (asked for); keras 3. To rebuild it: make sub" in text
    )
    assert "300 training images with their labels and 60 test images, whose labels are" in text
    assert "Note: the epoch of &lt;two&gt; was chosen." in text
    assert f"{(~right).sum()} of 300 out-of-fold predictions are wrong" in text
    assert f"Expected calibration error {made.metadata['calibration_error']:.4f}" in text
    assert "a temperature, 0.625 for the test set" in text
    assert "lowers the expected calibration error from 0.0500 to 0.0040" in text
    assert "None: training saw the images as they are." in text
    assert "one: strided, 90 parameters InputLayer → 28 × 28 × 1 Dense → 10 (90 parameters)" in text
    assert "&lt;i&gt;zero&lt;/i&gt;" in text
    # Precision and recall of class 3, counted.
    hits = ((oof.argmax(axis=1) == 3) & (labels == 3)).sum()
    precision, recall = hits / (oof.argmax(axis=1) == 3).sum(), hits / (labels == 3).sum()
    assert f"3{precision:.4f} {recall:.4f}" in text.replace(" 3 ", "3").replace("> ", "")


def test_every_picture_has_a_text_and_the_page_contains_everything(made: Made) -> None:
    pictures = re.findall(r'<img src="data:image/([^;]*);base64,[^"]*" alt="([^"]*)"', made.html)
    # Distributions, two networks' curves, two reliabilities; ten classes and four augmentations.
    kinds = [kind for kind, _ in pictures]
    assert (kinds.count("svg+xml"), kinds.count("png"), len(kinds)) == (5, 14, 19)
    assert all(len(alt) > 20 for _, alt in pictures)
    assert not re.search(r'(?:src|href|srcset)="(?!data:|#)', made.html)
    figures = re.findall(r"<figure.*?</figure>", made.html, re.DOTALL)
    assert len(figures) == 7
    for figure in figures:
        [reading] = re.findall(r"<figcaption>(.*?)</figcaption>", figure, re.DOTALL)
        assert len(reading) > 80


def learning(page: Path) -> list[str]:
    """What is said about the losses of each network."""
    text = re.sub(r"\s+", " ", page.read_text())
    return re.findall(r"Training loss ends at .*?</p>", text)


def test_the_page_compares_training_loss_and_held_out_loss(made: Made, tmp_path: Path) -> None:
    one, two = learning(made.page)
    smoothing = Train().label_smoothing
    smoothed = np.full(10, smoothing / 10)
    smoothed[3] += 1 - smoothing
    floor = -(smoothed * np.log(smoothed)).sum()
    assert "at 0.300, held-out loss at 0.200. The first is higher" in one
    assert (
        f"smoothed by {smoothing} in training, which alone keeps its loss above {floor:.3f}" in one
    )
    assert "training images are augmented" in one
    assert "training images are augmented" not in two  # of which nothing is augmented
    short = tmp_path / "history.csv"
    short.write_text(
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n1,0.1,0.9,0.4,0.85,0.002\n"
    )
    page = again(made, tmp_path, histories={name: [short] * FOLDS for name in ("one", "two")})
    for said in learning(page):
        assert "at 0.100, held-out loss at 0.400. The first is lower" in said
    assert page.read_text().count("There was one epoch, so each curve is a point") == 2


def test_errors_come_with_their_nearest_training_digits(made: Made) -> None:
    found = re.search(r"^const NEAR = (.*);$", made.html, re.MULTILINE)
    assert found
    near = json.loads(found[1])
    images, labels = digit_images(ROWS)
    assert near["labels"] == labels[np.array(near["rows"]) - 1].tolist()
    doubtful = 0
    for digit in galleries(made.html)["errors"]["digits"]:
        rows = [near["rows"][place] for place in digit["near"]]
        row = np.array([digit["row"] - 1])
        wanted, _ = Nearest(images).search(images[row], 5, row)
        assert [row - 1 for row in rows] == wanted[0].tolist()
        classes = {near["labels"][place] for place in digit["near"]}
        doubtful += classes == {int(np.argmax(digit["probabilities"]))}
    assert made.metadata["doubtful_labels"] == doubtful
    for name in ("unsure", "test_errors"):
        assert all(len(digit["near"]) == 5 for digit in galleries(made.html)[name]["digits"])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.0115, 0.0142, "raises the expected calibration error from 0.0115 to 0.0142"),
        (0.01151, 0.01149, "leaves the expected calibration error at 0.0115"),
    ],
)
def test_the_temperature_does_not_always_help(
    made: Made, tmp_path: Path, before: float, after: float, said: str
) -> None:
    metrics = json.loads(made.inputs["metrics"].read_text())
    metrics |= {"calibration_error_before": before, "calibration_error": after}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    page = again(made, tmp_path, metrics=tmp_path / "metrics.json")
    assert said in re.sub(r"\s+", " ", page.read_text())


def test_of_two_probabilities_that_round_to_the_same_the_higher_is_predicted(
    made: Made, tmp_path: Path
) -> None:
    oof = made.array("oof")
    oof[7] = 0.01
    oof[7, [3, 5]] = 0.46001, 0.46002
    labels = made.array("train_labels")
    labels[7] = 3
    page = again(made, tmp_path, train_labels=labels, oof=oof)
    digits = galleries(page.read_text())["errors"]["digits"]
    [digit] = [digit for digit in digits if digit["row"] == 8]
    assert digit["probabilities"][3] == digit["probabilities"][5]
    assert (digit["truth"], digit["predicted"]) == (3, 5)


def test_a_wrong_label_is_counted_as_doubtful(made: Made, tmp_path: Path) -> None:
    labels = made.array("train_labels")
    oof = np.eye(10, dtype=np.float32)[labels] * 0.9 + 0.01
    labels[20] = (labels[20] + 3) % 10
    text = re.sub(r"\s+", " ", again(made, tmp_path, train_labels=labels, oof=oof).read_text())
    assert "For 1 of the out-of-fold errors, all 5 have the predicted label: start with" in text


def test_the_same_run_gives_the_same_page(made: Made, tmp_path: Path) -> None:
    assert again(made, tmp_path).read_text() == made.html


def test_the_page_of_the_competition_has_no_test_accuracy(competition: str) -> None:
    assert "on the test set" not in competition
    assert "60 test images without labels" in re.sub(r"\s+", " ", competition)
    assert "public score" not in competition
    assert set(galleries(competition)) == {"errors", "unsure"}


# --- in a browser ---------------------------------------------------------------------------------


SHOWN = "document.querySelectorAll('#cards li').length"


def choose(page: Page, select: str, value: str) -> None:
    page.run(
        f"(() => {{ const it = document.getElementById('{select}'); it.value = '{value}'; "
        "it.dispatchEvent(new Event('change')); })()"
    )


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, False), (1000, True)])
def test_the_page_opens_without_errors(made: Made, page: Page, width: int, dark: bool) -> None:
    page.open(made.page, width, dark)
    assert page.complaints() == []
    assert page.requests() == []
    assert page.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    # On a wide screen, what belongs together is side by side.
    tops = "[...document.querySelectorAll('.columns')[0].children].map((it) => it.offsetTop)"
    first, second = page.run(tops)
    assert (first == second) is (width >= 1000)
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def test_filters_and_order_change_what_is_shown(made: Made, page: Page) -> None:
    page.open(made.page)
    digits = galleries(made.html)["errors"]["digits"]
    assert page.run(SHOWN) == len(digits)
    some = digits[0]
    choose(page, "true", str(some["truth"]))
    same = [digit for digit in digits if digit["truth"] == some["truth"]]
    assert page.run(SHOWN) == len(same) < len(digits)
    choose(page, "fold", str(some["fold"]))
    assert page.run(SHOWN) == len([d for d in same if d["fold"] == some["fold"]])
    for select in ("true", "fold"):
        choose(page, select, "")
    choose(page, "predicted", str(some["predicted"]))
    assert page.run(SHOWN) == len([d for d in digits if d["predicted"] == some["predicted"]])
    choose(page, "predicted", "")
    choose(page, "order", "row")
    rows = page.run("shown.map((digit) => digit.row)")
    assert rows == sorted(digit["row"] for digit in digits)
    choose(page, "which", "unsure")
    assert page.run(SHOWN) == TEST_ROWS
    assert page.run("document.getElementById('true').parentElement.hidden")
    choose(page, "which", "test_errors")
    assert page.run("shown.every((digit) => digit.truth !== digit.predicted)")


def test_the_nearest_digits_are_shown_and_order_the_errors(made: Made, page: Page) -> None:
    page.open(made.page)
    assert page.run("document.querySelectorAll('#cards li:first-child .near canvas').length") == 5
    choose(page, "order", "near")
    doubts = page.run("shown.map(doubt)")
    assert doubts == sorted(doubts, reverse=True)
    page.run("document.querySelector('#cards button').click()")
    labels = page.run(
        "[...document.querySelectorAll('#large-near span')].map((s) => s.textContent)"
    )
    first = page.run("shown[0].near.map((place) => [NEAR.labels[place], NEAR.rows[place]])")
    assert labels == [f"{NAMES[label]}, row {row}" for label, row in first]
    for canvas in ("#cards canvas", "#large-near canvas"):
        ink = f"new Set(document.querySelector('{canvas}').getContext('2d')"
        assert page.run(f"{ink}.getImageData(0, 0, 56, 56).data).size") > 3


def test_the_gallery_works_with_the_keyboard(made: Made, page: Page) -> None:
    page.open(made.page)
    rows = page.run("shown.map((digit) => digit.row)")
    title = "document.getElementById('large-title').textContent"
    page.run("document.getElementById('order').focus()")
    page.press("Tab")
    page.press("Enter")
    assert page.run("document.getElementById('large').open")
    assert page.run(title).startswith(f"row {rows[0]},")
    assert page.run("document.querySelectorAll('#large-probabilities tr').length") == 10
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    assert page.run(title).startswith(f"row {rows[1]},")
    page.press("Escape")
    assert not page.run("document.getElementById('large').open")
    # Closing takes a moment; then the digit shown last has the focus.
    focus = "document.activeElement.getAttribute('aria-label')"
    page.wait_for(f"{focus}?.startsWith('row {rows[1]}:')")
    assert page.complaints() == []
