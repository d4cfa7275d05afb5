"""The picture of a label map: colours where they belong, legends and names that fit."""

import numpy as np
import pytest

from mmseg_escnet.visualization.overlay import _entries, draw_overlay

NAMES = ['taxi', 'wet road, street', 'never seen']
PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def picture(labels, image=None, names=NAMES, palette=PALETTE, **kwargs):
    if image is None:
        image = np.full((*labels.shape, 3), 100, np.uint8)
    return np.array(draw_overlay(image, labels, names=names, palette=palette, **kwargs))


def halves(height, width):
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return labels


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((480, 600), (480, 600)),
        ((3000, 2000), (1600, 1067)),
        ((96, 60), (480, 300)),
        ((1, 1), (480, 480)),
        ((1, 5000), (1, 1600)),
    ],
)
def test_sizes(size, expected):
    drawn = picture(halves(*size), legend=False)
    assert drawn.shape == (*expected, 3)
    with_legend = picture(halves(*size))
    assert with_legend.shape[0] >= expected[0]
    assert with_legend.shape[1] > expected[1]


def test_colours_are_mixed_and_outlines_opaque():
    labels = halves(480, 600)
    labels[:100] = 255
    drawn = picture(labels, legend=False, tags=False, opacity=0.6)
    np.testing.assert_array_equal(drawn[50, 50], (100, 100, 100))
    np.testing.assert_array_equal(drawn[300, 100], (193, 40, 40))
    np.testing.assert_array_equal(drawn[300, 500], (40, 193, 40))
    np.testing.assert_array_equal(drawn[300, 299], PALETTE[0])
    np.testing.assert_array_equal(drawn[300, 300], PALETTE[1])


def test_names_are_written_where_the_class_is():
    labels = halves(480, 600)
    labels[200:203, 10:13] = 2  # no room
    plain, tagged = (picture(labels, legend=False, tags=tags) for tags in (False, True))
    y, x = np.nonzero((plain != tagged).any(axis=-1))
    for left in (0, 300):
        inside = (x >= left) & (x < left + 300)
        assert 100 < inside.sum() < 5000
        assert np.ptp(y[inside]) < 30
    bright = (tagged[y, x] > 240).all(axis=-1)
    dark = (tagged[y, x] < 15).all(axis=-1)
    assert bright.any()
    assert dark.any()


def test_legend():
    labels = np.zeros((10, 10), np.uint8)
    labels[:6] = 1
    labels[9] = 255
    assert _entries(labels, NAMES, PALETTE) == [
        ('wet road', '60.0 %', PALETTE[1]),
        ('taxi', '30.0 %', PALETTE[0]),
        ('(no class)', '10.0 %', None),
    ]
    drawn = picture(np.zeros((480, 600), np.uint8))
    legend = drawn[:, 600:]
    reds = (legend == PALETTE[0]).all(axis=-1)
    assert 100 < reds.sum() < 400
    assert (legend[:, -3:] == 255).all(), 'text reaches the border'
    assert (legend < 100).all(axis=-1).any(), 'nothing is written'


def test_many_classes():
    """847 words, all of them present: the legend has columns, and ends."""
    labels = np.arange(847, dtype=np.uint16).repeat(8).reshape(77, 88)
    names = [f'a word with a rather long name, number {i}' for i in range(847)]
    palette = [(i % 256, 40, 200) for i in range(847)]
    entries = _entries(labels, names, palette)
    assert len(entries) == 41
    assert entries[-1] == ('... 807 more', '95.3 %', None)
    assert all(len(text) <= 28 for text, _, _ in entries)
    drawn = picture(labels, names=names, palette=palette)
    assert drawn.shape[0] == 6 * 77
    columns = (drawn[:, 6 * 88 :] == palette[0]).all(axis=-1).any(axis=0)
    assert columns[:60].sum() == 13, 'the colour of the first class'
    others = [(drawn[:, 6 * 88 :] == palette[i]).all(axis=-1) for i in (20, 39)]
    starts = [int(np.flatnonzero(other.any(axis=0))[0]) for other in others]
    assert 200 < starts[0] < starts[1] - 200, 'three columns'
    low = picture(labels[:6], names=names, palette=palette)
    assert low.shape[0] > 200, 'higher than the image, if need be'


def test_markup_and_strange_letters_are_just_drawn():
    names = ['<b>$x$</b>', 'ταξί', '出租车']
    picture(halves(40, 60), names=names)
