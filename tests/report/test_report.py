"""report.py: its figures agree with slow and obvious ones; the page works in a real browser."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page, browser
from conftest import digit_images

from pipeline.config import Train
from pipeline.report import Sources, calibration, report

ROWS, TEST_ROWS, FOLDS = 300, 60, 3
NAMES = ("<i>zero</i>", *"123456789")  # markup in a name has to come out as text


def probabilities(labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities that are wrong for about a tenth of the labels."""
    random = np.random.default_rng(seed)
    scores = random.random((len(labels), 10))
    said = np.where(random.random(len(labels)) < 0.1, (labels + 1) % 10, labels)
    scores[np.arange(len(labels)), said] += 4 * random.random(len(labels)) + 1
    return (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sources, dict[str, Any]]:
    """A report of a made-up run of two members; its sources and its facts."""
    from pipeline.networks import NETWORKS
    from pipeline.train import _save_network

    home = tmp_path_factory.mktemp("report")
    images, labels = digit_images(ROWS)
    test_images, test_labels = digit_images(TEST_ROWS, seed=1)
    test_images[3] = images[5]
    np.save(home / "train_images.npy", images)
    np.save(home / "train_labels.npy", labels)
    np.save(home / "test_images.npy", test_images)
    fold_ids = (np.arange(ROWS) % FOLDS).astype(np.int8)
    np.save(home / "fold_ids.npy", fold_ids)
    oof = probabilities(labels, 0)
    np.save(home / "oof.npy", oof)
    np.save(home / "test.npy", probabilities(test_labels, 1))
    metrics = {
        "oof_accuracy": float((oof.argmax(axis=1) == labels).mean()),
        "oof_standard_error": 0.01,
        "oof_rows": ROWS,
        "fold_accuracies": [0.9] * FOLDS,
        "member_accuracies": {"one": 0.9, "two": 0.91},
    }
    (home / "metrics.json").write_text(json.dumps(metrics))
    lines = ["ImageId,Label", *(f"{i + 1},{label}" for i, label in enumerate(test_labels))]
    (home / "solution.csv").write_text("\n".join(lines) + "\n")
    folders: dict[str, list[Path]] = {}
    for name in ("one", "two"):
        for fold in range(FOLDS):
            folder = home / name / f"fold-{fold}"
            folder.mkdir(parents=True)
            _save_network(NETWORKS["strided"](2, 0.0), folder / "weights.keras")
            (folder / "history.csv").write_text(
                "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n"
                "1,0.5,0.8,0.4,0.85,0.002\n2,0.3,0.9,0.2,1.0,0.001\n"
            )
            folders.setdefault(name, []).append(folder)
    fact = {
        "device": "CPU",
        "device_reason": "no GPU",
        "precision": "float32",
        "precision_reason": "asked for",
        "versions": {"keras": "3"},
        "epoch_seconds": [1.5, 2.0],
    }
    plain = Train(rotation=0, zoom=0, shift=0, shear=0)
    sources = Sources(
        tensors=home,
        fold_ids=home / "fold_ids.npy",
        ensemble=home,
        folders=folders,
        params={"one": Train(), "two": plain},
        facts=[fact] * 6,
        solution=home / "solution.csv",
        class_names=NAMES,
        title="blobs, both",
        command="make submission CONFIG=both",
        score="0.99123",
    )
    path = home / "page.html"
    return path, sources, report(path, sources)


def galleries(page: str) -> dict[str, Any]:
    found = re.search(r"^const GALLERIES = (.*);$", page, re.MULTILINE)
    assert found
    return json.loads(found[1])


def test_the_gallery_holds_every_error_and_the_least_certain(made: Any) -> None:
    path, sources, facts = made
    _, labels = digit_images(ROWS)
    oof = np.load(sources.ensemble / "oof.npy")
    wrong = {i + 1 for i in range(ROWS) if oof[i].argmax() != labels[i]}
    found = galleries(path.read_text())
    assert {digit["row"] for digit in found["errors"]["digits"]} == wrong
    assert facts["oof_errors"] == len(wrong) > 10
    for digit in found["errors"]["digits"]:
        assert digit["truth"] == labels[digit["row"] - 1]
        assert digit["fold"] == (digit["row"] - 1) % FOLDS
        assert digit["probabilities"] == pytest.approx(oof[digit["row"] - 1], abs=1e-4)
    assert len(found["unsure"]["digits"]) == TEST_ROWS
    assert all(digit["truth"] is None for digit in found["unsure"]["digits"])


def test_the_sheet_holds_the_images_in_their_order(made: Any) -> None:
    import io

    from PIL import Image

    images, _ = digit_images(ROWS)
    found = galleries(made[0].read_text())["errors"]
    kind, content = found["sheet"].split(",")
    assert kind == "data:image/png;base64"
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    for place, digit in enumerate(found["digits"]):
        y, x = place // 40 * 28, place % 40 * 28
        np.testing.assert_array_equal(
            sheet[y : y + 28, x : x + 28], images[digit["row"] - 1, :, :, 0]
        )


def test_more_errors_than_a_page_can_show_are_cut_to_the_surest(
    made: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.report.SHOWN", 4)
    everything = galleries(made[0].read_text())["errors"]["digits"]
    report(tmp_path / "cut.html", made[1])
    cut = galleries((tmp_path / "cut.html").read_text())["errors"]
    assert cut["digits"] == everything[:4]
    assert cut["found"] == len(everything)
    sureness = [max(digit["probabilities"]) for digit in everything]
    assert sureness == sorted(sureness, reverse=True)


def test_calibration_against_a_loop() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(500)
    confidence[0] = 1.0
    right = random.random(500) < confidence**2
    bins: dict[int, list[int]] = {}
    for i, value in enumerate(confidence):
        bins.setdefault(min(int(value * 15), 14), []).append(i)
    expected = sum(
        len(rows) / 500 * abs(np.mean(confidence[rows]) - np.mean(right[rows]))
        for rows in bins.values()
    )
    sure, correct, rows, error = calibration(confidence, right)
    assert error == pytest.approx(expected)
    assert rows.sum() == 500
    assert len(sure) == len(correct) == len(bins)
    assert calibration(np.ones(5), np.ones(5, bool))[3] == 0


def test_what_the_page_says(made: Any) -> None:
    path, sources, facts = made
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text()))
    oof, labels = np.load(sources.ensemble / "oof.npy"), digit_images(ROWS)[1]
    test, test_labels = np.load(sources.ensemble / "test.npy"), digit_images(TEST_ROWS, seed=1)[1]
    right, test_right = oof.argmax(axis=1) == labels, test.argmax(axis=1) == test_labels
    assert f"Out-of-fold accuracy {right.mean():.5f} ± 0.01000" in text
    assert f"on the test set {test_right.mean():.5f} of 60" in text
    assert "public score 0.99123" in text
    assert "6 trainings, 21 seconds in all, on CPU (no GPU), in float32 (asked for)" in text
    assert "make submission CONFIG=both" in text
    assert "also in the training set: 1." in text
    assert f"{(~right).sum()} of 300 out-of-fold predictions are wrong" in text
    assert f"Expected calibration error {facts['calibration_error']:.4f}" in text
    assert "Images were seen as they are." in text
    assert "&lt;i&gt;zero&lt;/i&gt;" in text
    # Precision and recall of class 3, counted.
    hits = ((oof.argmax(axis=1) == 3) & (labels == 3)).sum()
    precision, recall = hits / (oof.argmax(axis=1) == 3).sum(), hits / (labels == 3).sum()
    assert f"3{precision:.4f} {recall:.4f}" in text.replace(" 3 ", "3").replace("> ", "")


def test_every_picture_says_what_it_shows_and_the_page_carries_all(made: Any) -> None:
    page = made[0].read_text()
    pictures = re.findall(r'<img src="([^"]{30})[^"]*" alt="([^"]*)"', page)
    assert len(pictures) == 10
    assert all(source.startswith("data:image/svg+xml;base64,") for source, _ in pictures)
    assert all(len(alt) > 20 for _, alt in pictures)
    assert not re.search(r'(?:src|href|srcset)="(?!data:|#)', page)


def test_the_same_run_gives_the_same_page(made: Any, tmp_path: Path) -> None:
    report(tmp_path / "again.html", made[1])
    assert (tmp_path / "again.html").read_bytes() == made[0].read_bytes()


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium to open the report in")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


SHOWN = "document.querySelectorAll('#cards li').length"


def choose(page: Page, select: str, value: str) -> None:
    page.run(
        f"(() => {{ const it = document.getElementById('{select}'); it.value = '{value}'; "
        "it.dispatchEvent(new Event('change')); })()"
    )


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, False), (1000, True)])
def test_the_page_opens_without_complaint(made: Any, page: Page, width: int, dark: bool) -> None:
    page.open(made[0], width, dark)
    assert page.complaints() == []
    assert page.requests() == []
    assert page.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def test_filters_and_order_change_what_is_shown(made: Any, page: Page) -> None:
    page.open(made[0])
    digits = galleries(made[0].read_text())["errors"]["digits"]
    assert page.run(SHOWN) == len(digits)
    some = digits[0]
    choose(page, "true", str(some["truth"]))
    same = [digit for digit in digits if digit["truth"] == some["truth"]]
    assert page.run(SHOWN) == len(same) < len(digits)
    choose(page, "fold", str(some["fold"]))
    assert page.run(SHOWN) == len([d for d in same if d["fold"] == some["fold"]])
    for select in ("true", "fold"):
        choose(page, select, "")
    predicted = int(np.argmax(some["probabilities"]))
    choose(page, "predicted", str(predicted))
    assert page.run(SHOWN) == len([d for d in digits if np.argmax(d["probabilities"]) == predicted])
    choose(page, "predicted", "")
    choose(page, "order", "row")
    rows = page.run("shown.map((digit) => digit.row)")
    assert rows == sorted(digit["row"] for digit in digits)
    choose(page, "which", "unsure")
    assert page.run(SHOWN) == TEST_ROWS
    assert page.run("document.getElementById('true').parentElement.hidden")
    choose(page, "which", "test_errors")
    assert page.run("shown.every((digit) => digit.truth !== predicted(digit))")


def test_the_canvases_show_digits(made: Any, page: Page) -> None:
    page.open(made[0])
    ink = (
        "[...document.querySelectorAll('#cards canvas')].map((c) => new Set("
        "c.getContext('2d').getImageData(0, 0, 56, 56).data).size)"
    )
    assert min(page.run(ink)) > 3


def test_the_gallery_works_with_the_keyboard(made: Any, page: Page) -> None:
    page.open(made[0])
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
    # The event of closing comes a moment after; it puts the focus on the digit shown last.
    focus = "document.activeElement.getAttribute('aria-label')"
    page.wait_for(f"{focus}?.startsWith('row {rows[1]}:')")
    assert page.complaints() == []


# --- networks that were tampered with ------------------------------------------------------------


def test_code_within_a_saved_network_is_not_run(tmp_path: Path, fresh_keras: Any) -> None:
    """A Lambda layer is Python's bytecode, which Keras would have to unmarshal."""
    from pipeline.report import _layers

    layers = fresh_keras.layers
    network = fresh_keras.Sequential([layers.Input((2,)), layers.Lambda(lambda x: x + 1)])
    network.save(tmp_path / "weights.keras")
    with pytest.raises(ValueError, match="safe_mode"):
        _layers(tmp_path)
