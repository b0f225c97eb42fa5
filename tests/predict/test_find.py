"""find.py: a digit is found on any paper, in any light, and nothing where there is nothing."""

import numpy as np
import pytest
from handwriting import Array, from_strokes, on_page
from scipy import ndimage

from pipeline.errors import UserError
from pipeline.predict import find

HEIGHT, WIDTH = 300, 400


def found(grey: Array) -> list[find.Found]:
    """What is found in a grey picture."""
    colours = np.repeat(grey[..., np.newaxis], 3, axis=-1).astype(np.float32)
    return find.digits(*find.ink(colours))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture
def page(random: np.random.Generator) -> Array:
    """A seven on a page, 1 is ink; its box is 150 pixels high."""
    return on_page(from_strokes(7, 0.08, random, 150), HEIGHT, WIDTH, random)


def box(mask: Array) -> tuple[int, int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def same(one: find.Found, page: Array) -> None:
    """Assert that the shape that was found is the one on the page."""
    height, width = box(page > 0.5)
    seen = one.ink > one.threshold
    assert np.abs(np.subtract(box(seen), (height, width))).max() <= 6
    assert abs(seen.sum() / (page > 0.5).sum() - 1) < 0.25


def papers() -> dict[str, Array]:
    """Pictures of paper, float (HEIGHT, WIDTH)."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    ruled = np.full((HEIGHT, WIDTH), 230.0)
    ruled[::30] = ruled[1::30] = 180
    return {
        "white": np.full((HEIGHT, WIDTH), 255.0),
        "uneven": 220 - 120 * x * y,
        "ruled": ruled,
        "shadow": 200 * (1 - 0.35 / (1 + np.exp(-(x + 0.4 * y - 0.7) / 0.05))),
    }


@pytest.mark.parametrize("paper", papers())
def test_dark_ink_is_found_on_any_paper(
    paper: str, page: Array, random: np.random.Generator
) -> None:
    below = papers()[paper]
    grey = below * (1 - 0.75 * page) + random.normal(0, 3, page.shape)
    [one] = found(grey.clip(0, 255))
    same(one, page)


def test_light_ink_is_found(page: Array) -> None:
    [one] = found(30 + 200 * page)
    same(one, page)


def test_colours_of_equal_brightness_are_told_apart(page: Array) -> None:
    paper, ink = np.array([200.0, 60, 60]), np.array([30.0, 145, 60])
    assert abs((paper - ink) @ [0.299, 0.587, 0.114]) < 2
    colours = paper + (ink - paper) * page[..., np.newaxis]
    [one] = find.digits(*find.ink(colours.astype(np.float32)))
    same(one, page)


def test_a_sheet_on_a_desk_is_found_first(page: Array, random: np.random.Generator) -> None:
    desk = random.normal(80, 6, (450, 600))
    desk[60:360, 100:500] = 230 - 190 * page
    [one] = found(desk)
    same(one, page)


@pytest.mark.parametrize("label", [0, 1, 7, 8])
def test_a_thick_digit_in_light_ink_is_no_sheet(label: int) -> None:
    shape = from_strokes(label, 0.3, np.random.default_rng(label), 200)
    page = np.pad(shape, 60)
    [one] = found(20 + 220 * page)
    same(one, page)


def test_a_tilted_sheet_is_found_too(page: Array, random: np.random.Generator) -> None:
    desk = ndimage.rotate(np.pad(230 - 190 * page, 120), 5, reshape=False)
    [one] = found(np.where(desk < 10, 80, desk) + random.normal(0, 4, desk.shape))
    same(one, page)


def test_dust_is_no_digit(page: Array, random: np.random.Generator) -> None:
    grey = 250 - 220 * page
    for y, x in random.integers(5, 290, (12, 2)):
        grey[y : y + 3, x : x + 3] = 60
    [one] = found(grey)
    same(one, page)
    assert one.remark == ""


def test_a_bar_apart_belongs_to_its_digit(page: Array) -> None:
    rows, _ = np.nonzero(page > 0.5)
    grey = 250 - 220 * page
    gap = rows.min() + 40
    grey[gap : gap + 5] = 250  # a gap in the stroke
    [one] = found(grey)
    assert ndimage.label(one.ink > one.threshold)[1] == 2
    assert abs(one.ink.shape[0] - 4 - (rows.max() - rows.min() + 1)) <= 4


def test_digits_in_a_row_come_from_left_to_right(random: np.random.Generator) -> None:
    shapes = [from_strokes(label, 0.08, random, height) for label, height in [(1, 90), (0, 130)]]
    page = np.zeros((220, 500), np.float32)
    for shape, left, top in zip(shapes, (300, 60), (60, 30), strict=True):
        page[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    zero, one = found(250 - 200 * page)
    assert np.allclose(zero.ink.shape, shapes[1].shape, atol=5)
    assert np.allclose(one.ink.shape, shapes[0].shape, atol=5)


@pytest.mark.parametrize("angle", [0, 6, -6])
def test_lines_come_from_top_to_bottom(angle: float, random: np.random.Generator) -> None:
    page, heights = np.zeros((500, 600), np.float32), []
    for row, column in np.ndindex(2, 5):
        shape = from_strokes(row * 5 + column, 0.1, random, 100 - 20 * row - 4 * column)
        heights.append(shape.shape[0] - 4)
        top, left = 120 + 150 * row, 60 + 105 * column
        page[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    digits = found(250 - 200 * ndimage.rotate(page, angle, order=1).clip(0, 1))
    assert [digit.line for digit in digits] == [0] * 5 + [1] * 5
    if angle == 0:
        assert np.allclose([one.ink.shape[0] - 4 for one in digits], heights, atol=5)


def test_marks_beside_a_digit_are_remarked(page: Array) -> None:
    rows, columns = np.nonzero(page > 0.5)
    for mark in (np.ones((11, 45)), np.ones((14, 14))):  # a minus, a point
        marked, left = np.pad(page, ((0, 0), (0, 150))), columns.max() + 30
        marked[rows.max() - 20 :, left:][: mark.shape[0], : mark.shape[1]] = mark
        [one] = found(250 - 220 * marked)
        assert one.remark == find.MARKS
        same(one, page)


def test_a_digit_that_is_cut_off_is_remarked(page: Array) -> None:
    rows, columns = np.nonzero(page > 0.5)
    cut = np.pad(page, ((0, 0), (100, 300)))[:, 100 : columns.max() + 160]
    cut[rows.min() : rows.max(), -30:-22] = cut[rows.min() + 60 : rows.min() + 70, -30:] = 1
    [one] = found(250 - 220 * cut)
    assert one.remark == find.MARKS


def test_a_minus_is_perhaps_no_digit() -> None:
    page = np.zeros((200, 300))
    page[95:107, 100:200] = 1
    [one] = found(250 - 200 * page)
    assert one.remark == find.NO_DIGIT


def test_rules_and_margins_are_no_ink(page: Array) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rules = ((y - 0.03 * x) % 40 < 2) | (abs(x + 0.03 * y - 30) < 1.5)
    grey = np.minimum(240 - 200 * page, np.where(rules, 120, 255))
    [one] = found(grey)
    same(one, page)
    with pytest.raises(UserError, match="nothing in it"):
        found(np.where(rules, 120.0, 240.0))


def test_rules_drawn_over_a_digit_do_not_cut_it(page: Array) -> None:
    y, _ = np.mgrid[:HEIGHT, :WIDTH]
    [one] = found(np.where(y % 40 < 2, 150, 240 - 200 * page))
    same(one, page)


def test_a_long_thin_one_is_no_rule() -> None:
    page = np.zeros((HEIGHT, WIDTH))
    page[20:280, 200:205] = 1
    [one] = found(250 - 200 * page)
    same(one, page)


def test_a_dark_panel_in_a_white_page_is_the_picture(page: Array) -> None:
    whole = np.full((450, 550), 255.0)
    whole[60:360, 80:480] = 20 + 200 * page
    [one] = found(whole)
    same(one, page)


def test_pieces_of_one_digit_are_joined(page: Array) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    dotted = page * (y % 16 < 10) * (x % 16 < 10)
    [one] = found(250 - 220 * ndimage.gaussian_filter(dotted, 1))
    assert np.abs(np.subtract(box(one.ink > one.threshold), box(page > 0.5))).max() <= 20

    zero = np.pad(from_strokes(0, 0.1, np.random.default_rng(2), 150), 60)
    middle = zero.shape[1] // 2
    zero[:, middle : middle + 8] = 0
    contrast, threshold = find.ink(np.repeat(250 - 220 * zero[..., None], 3, axis=-1))
    assert len(find.digits(contrast, threshold)) == 2
    [one] = find.digits(contrast, threshold, one=True)
    assert one.remark == find.JOINED
    assert np.abs(np.subtract(box(one.ink > one.threshold), box(zero > 0.5))).max() <= 6


@pytest.mark.parametrize(
    "grey",
    [
        *(np.full((60, 80), level) for level in (0, 128, 255)),
        np.zeros((1, 1)),
        np.zeros((2, 500)),
        np.random.default_rng(0).normal(200, 8, (300, 400)),
        np.linspace(200, 100, 400) + np.random.default_rng(0).normal(0, 4, (300, 400)),
    ],
    ids=["black", "grey", "white", "1 pixel", "a line of pixels", "noise", "uneven light"],
)  # fmt: skip
def test_nothing_is_found_where_there_is_nothing(grey: Array) -> None:
    with pytest.raises(UserError, match="nothing in it"):
        found(grey)


def test_the_whole_of_a_drawing_is_one_digit() -> None:
    ink = np.zeros((50, 60), np.float32)
    ink[10:20, 5:9] = ink[30:40, 50:55] = 1
    whole = find.whole(ink, 0.5)
    assert whole.ink.shape == (34, 54)
    assert whole.ink.sum() == ink.sum()
    with pytest.raises(UserError, match="nothing in it"):
        find.whole(np.zeros((5, 5), np.float32), 0.5)
