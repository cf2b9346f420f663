"""Colours, measured: WCAG contrast, and distances as eyes with and without colour blindness see them."""

import itertools

import numpy as np
import pytest

from ssmlens.plot.theme import DARK, LIGHT, ORDER, SIGNED, UNIT

# What an eye without one kind of cone sees of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
BLIND = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]
    ),
    "deutan": np.array(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]]
    ),
    "tritan": np.array(
        [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]
    ),
}
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def linear(colour):
    """Linear RGB of "#rrggbb" or of red, green, blue in 0-255."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    share = np.asarray(colour, float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2's contrast ratio, 1 to 21."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def apart(one, other, blindness):
    """Distance in Oklab, times 100; below about 2 two colours look alike."""
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    seen = [np.clip(BLIND[blindness] @ linear(c), 0, 1) for c in (one, other)]
    first, second = (np.array(lab) @ np.cbrt(np.array(cones) @ rgb) for rgb in seen)
    return 100 * float(np.linalg.norm(first - second))


def over(stop, below):
    """What a stop of a scale looks like on a surface."""
    *colour, opacity = stop[1]
    ground = np.array([int(below[i : i + 2], 16) for i in (1, 3, 5)])
    return opacity * np.array(colour) + (1 - opacity) * ground


@THEMES
def test_text_is_read_and_lines_are_seen(theme):
    for ground in (theme.page, theme.surface):
        assert contrast(theme.ink, ground) > 12
        for text in (theme.muted, theme.accent, theme.ok, theme.failed):
            assert contrast(text, ground) > 4.5
    for line in theme.lines:
        assert contrast(line, theme.surface) > 3


@THEMES
@pytest.mark.parametrize("blindness", BLIND)
def test_no_eye_takes_one_line_for_another(theme, blindness):
    least = min(apart(a, b, blindness) for a, b in itertools.combinations(theme.lines, 2))
    assert least > (6 if blindness == "tritan" else 11)


@THEMES
def test_both_ends_of_the_maps_stand_out_alike(theme):
    minus, plus = (
        contrast(over(end, theme.surface), theme.surface) for end in (SIGNED[0], SIGNED[-1])
    )
    assert min(minus, plus) > 3.9
    assert max(minus, plus) / min(minus, plus) < 1.1
    assert contrast(over(UNIT[-1], theme.surface), theme.surface) > 3.9
    assert all(apart(SIGNED[0][1][:3], SIGNED[-1][1][:3], eye) > 25 for eye in BLIND)


@THEMES
def test_numbers_on_the_scores_are_read_and_the_least_is_not_nothing(theme):
    least, most = (over(stop, theme.surface) for stop in ORDER)
    assert min(contrast(theme.ink, least), contrast(theme.ink, most)) > 4.5
    assert apart(least, theme.surface, "none") > 2
    assert contrast(most, theme.surface) > 2


def test_the_page_has_the_ends_of_the_scales():
    assert "--plus: rgb(221, 76, 12);" in DARK.css_variables()
    assert "lines" not in DARK.css_variables()
