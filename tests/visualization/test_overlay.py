"""The picture of a label map: colours where they belong, legends and names that fit."""

import numpy as np
import pytest

from mmseg_escnet.visualization.overlay import draw_comparison, draw_overlay, paint
from mmseg_escnet.vocabulary import palette_of

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


def test_colours_are_mixed_and_outlines_are_light_and_dark():
    labels = halves(480, 600)
    labels[:100] = 255
    drawn = picture(labels, legend=False, tags=False, opacity=0.6)
    np.testing.assert_array_equal(drawn[50, 50], (100, 100, 100))
    np.testing.assert_array_equal(drawn[300, 100], (193, 40, 40))
    np.testing.assert_array_equal(drawn[300, 500], (40, 193, 40))
    assert drawn[300, 298:302].max(axis=-1).tolist() == [193, 38, 255, 193]
    assert drawn[50, 300].tolist() == [100, 100, 100], 'none between pixels without a class'


@pytest.mark.parametrize(('count', 'no_class'), [(3, 3), (3, 255), (255, 255), (300, 65535)])
def test_pixels_without_a_class_stay_as_they_are(count, no_class):
    """Also if their id is the next one after the last class."""
    image = np.full((20, 20, 3), 99, np.uint8)
    labels = np.full((20, 20), no_class, np.uint16)
    np.testing.assert_array_equal(paint(image, labels, [(255, 0, 0)] * count, opacity=1), image)


@pytest.mark.parametrize('ground', [0, 128, 255])
@pytest.mark.parametrize('color', [(0, 0, 0), (255, 255, 255), (10, 60, 250)])
def test_neighbours_of_one_colour_part(ground, color):
    """On every row a light and a dark pixel between them, also at three times the size."""
    for size in ((480, 600), (1200, 1600)):
        image = np.full((*size, 3), ground, np.uint8)
        drawn = picture(halves(*size), image, palette=[color] * 3, legend=False, tags=False)
        middle = drawn[:, size[1] // 2 - 3 : size[1] // 2 + 3].astype(int)
        contrast = middle.max(axis=1) - middle.min(axis=1)
        assert contrast.min() > 200


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


def test_many_classes():
    """847 words, all of them present: the legend has columns, and ends."""
    labels = np.arange(847, dtype=np.uint16).repeat(8).reshape(77, 88)
    names = [f'a word with a rather long name, number {i}' for i in range(847)]
    palette = [(i % 256, 40, 200) for i in range(847)]
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


def compare(image, maps, **kwargs) -> np.ndarray:
    kwargs = dict(names=NAMES, palette=PALETTE, opacity=1.0, tags=False) | kwargs
    return np.array(draw_comparison(image, maps, **kwargs))


def test_side_by_side():
    """The image, then each map, under a title; ignored pixels striped; one legend below."""
    image = np.random.default_rng(0).integers(0, 100, (200, 300, 3), np.uint8)
    truth, prediction = halves(200, 300), halves(200, 300)[:, ::-1].copy()
    truth[:50] = 255
    drawn = compare(image, {'ground truth': truth, 'prediction': prediction})
    size, gap, top = 20, 10, 40  # letters of 3 x 600 / 90
    panels = [drawn[top : top + 400, i * (600 + gap) :][:, :600] for i in range(3)]
    np.testing.assert_array_equal(panels[0][::2, ::2], image)
    assert (panels[1][110:, :290] == PALETTE[0]).all()
    assert (panels[1][110:, 310:] == PALETTE[1]).all()
    assert (panels[2][:, :290] == PALETTE[1]).all()
    striped = panels[1][:90]
    assert len(np.unique(striped.reshape(-1, 3), axis=0)) == 2
    assert np.ptp(striped, axis=-1).max() == 0, 'grey'
    legend = drawn[top + 400 :]
    assert drawn.shape[1] == 3 * 600 + 2 * gap
    for color in PALETTE[:2]:
        assert (legend == color).all(axis=-1).sum() == (size - 1) ** 2
    assert not (legend == PALETTE[2]).all(axis=-1).any(), 'is not there'


def test_of_a_high_image_the_legend_is_beside():
    image = np.zeros((400, 100, 3), np.uint8)
    drawn = compare(image, dict(prediction=halves(400, 100)))
    assert drawn.shape[0] == 400 + 2 * 14
    assert (drawn[:, 2 * 100 + 7 :] == PALETTE[1]).all(axis=-1).any()


def test_an_image_alone():
    drawn = compare(np.zeros((400, 500, 3), np.uint8), {})
    assert drawn.shape == (428, 500, 3)


@pytest.mark.parametrize('size', [(1, 1), (1, 5000), (5000, 1)])
def test_odd_sizes_side_by_side(size):
    labels = halves(*size)
    drawn = compare(np.zeros((*size, 3), np.uint8), {'ground truth': labels, 'prediction': labels})
    assert max(drawn.shape) < 3500


def test_colours_of_847_classes_side_by_side():
    """Two of them have the same: one gets another colour, in the map as in the legend."""
    names = [f'word {i}' for i in range(847)]
    palette = palette_of(names)
    palette[845] = palette[846]
    labels = np.full((400, 600), 846, np.uint16)
    labels[:, :250], labels[:, :100] = 845, 65535
    drawn = compare(
        np.zeros((400, 600, 3), np.uint8), dict(truth=labels), names=names, palette=palette
    )
    panel, legend = drawn[28:428, 607:1207], drawn[428:]
    assert (panel[10:-10, 260:-10] == palette[846]).all()
    other = panel[200, 200]
    assert (panel[10:-10, 110:240] == other).all()
    assert np.abs(other.astype(int) - palette[845]).max() > 30
    for color in (palette[846], other):
        assert (legend == color).all(axis=-1).sum() > 150
    everything = np.arange(252_000, dtype=np.uint32).reshape(420, 600) // 297
    compare(np.zeros((420, 600, 3), np.uint8), dict(truth=everything), names=names, palette=palette)
