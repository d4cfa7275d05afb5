"""The figure of what the ESC blocks do for a word: what is drawn is what was given."""

import warnings

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mmseg_escnet.visualization import blocks_figure

GRID = (4, 8)
PROMPTS = {'region', 'objects', 'points', 'masks', 'valid', 'presence'}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    yield
    assert Gcf.get_all_fig_managers() == []


@pytest.fixture
def inside() -> dict[str, np.ndarray]:
    """Three blocks of random maps; 80 x 40 pixels.

    Objects 0 and 2 are in two corners of the grid; 1 is not valid.
    """
    generator = np.random.default_rng(0)
    objects = np.full(GRID, -1)
    objects[0, :2], objects[3, 7] = 0, 2
    masks = np.zeros((3, *GRID), np.float32)
    masks[0, 0, :2], masks[2, 3, 7] = (1.0, 0.5), 0.75
    prompts = dict(
        region=objects >= 0,
        objects=objects,
        points=np.array([[0.0625, 0.125], [0, 0], [0.9375, 0.875]]),
        masks=masks,
        valid=np.array([True, False, True]),
        presence=np.array(0.25),
    )
    assert set(prompts) == PROMPTS
    return dict(
        word=np.array('owl'),
        image=generator.integers(0, 256, (40, 80, 3), np.uint8),
        point=np.array([1, 5]),
        correlation=generator.normal(size=(4, *GRID)),
        probability=generator.random((16, 32)),
        similarity_clip=generator.uniform(-0.5, 0.9, GRID),
        similarity=generator.uniform(-0.5, 0.9, (3, *GRID)),
        **{name: np.stack([values] * 3) for name, values in prompts.items()},
    )


def first_block(inside) -> dict[str, np.ndarray]:
    """What a model with one block would give."""
    lengths = dict.fromkeys((*PROMPTS, 'similarity'), 1) | dict(correlation=2)
    return {
        name: values[: lengths[name]] if name in lengths else values
        for name, values in inside.items()
    }


def without(inside, names) -> dict[str, np.ndarray]:
    return {name: values for name, values in inside.items() if name not in names}


def draw(figure: Figure) -> Figure:
    """Draw for real, without a warning: some mistakes come to light only there."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        FigureCanvasAgg(figure).draw()
    return figure


def drawn_values(axes) -> np.ndarray:
    """The values of the map that is drawn over the faded picture."""
    _, heat = axes.images
    return np.asarray(heat.get_array())


def rows_of(figure: Figure) -> list[list]:
    """The panels, row by row from the top, left to right."""
    panels = [axes for axes in figure.axes if axes.get_subplotspec() is None]
    tops = sorted({round(axes.get_position().y1, 6) for axes in panels}, reverse=True)
    return [[a for a in panels if round(a.get_position().y1, 6) == top] for top in tops]


def test_correlation_and_what_the_decoder_says(inside):
    figure = draw(blocks_figure(inside))
    picture, *maps, last = rows_of(figure)[0]
    word, symbols = (text.get_text() for text in figure.texts)
    assert word == '“owl”'
    assert all(f'{symbol}:' in symbols for symbol in ('C', 'Fᵥ', 'Fᵥ′'))
    np.testing.assert_array_equal(picture.images[0].get_array(), inside['image'])
    assert picture.get_title() == '+: highest C₂'
    titles = ['C₀, input of block 1', 'C₁, input of block 2', 'C₂, input of block 3']
    assert [axes.get_title() for axes in maps] == titles
    for axes, values in zip(maps, inside['correlation'][:-1], strict=True):
        np.testing.assert_array_equal(drawn_values(axes), values)
        faded, heat = axes.images
        np.testing.assert_allclose(faded.get_array(), inside['image'].mean(axis=-1))
        assert 0 < heat.get_alpha() < 1
        assert heat.get_extent() == faded.get_extent()
        ends = [float(label.get_text()) for label in heat.colorbar.ax.get_xticklabels()]
        np.testing.assert_allclose(ends, heat.get_clim(), rtol=0.05)
        np.testing.assert_allclose(heat.get_clim(), (values.min(), values.max()))
    np.testing.assert_array_equal(drawn_values(last), inside['probability'])
    assert last.images[-1].get_clim() == (0, inside['probability'].max())


def test_prompts(inside):
    figure = draw(blocks_figure(inside))
    explanation, *drawn, _ = rows_of(figure)[1]
    assert explanation.texts[0].get_text() == 'Pseudo prompts'
    for axes in drawn:
        assert axes.get_title() == '2 objects'
        points = {tuple(line.get_xydata()[0]) for line in axes.lines}
        assert points == {(0.0625, 0.125), (0.9375, 0.875)}
        assert [text.get_text() for text in axes.texts] == ['1', '3']
        colors = [to_rgb(line.get_color()) for line in axes.lines]
        layer = drawn_values(axes)
        np.testing.assert_allclose(layer[0, 0, :3], colors[0])
        np.testing.assert_allclose(layer[3, 7, :3], colors[1])
        assert colors[0] != colors[1]
        opacity = layer[..., 3]
        assert (opacity[~inside['region'][0]] == 0).all()
        np.testing.assert_allclose(opacity[0, :2] / opacity[3, 7], [1 / 0.75, 0.5 / 0.75])
        # the outline: two regions, in the corners, of which one has two patches
        (outline,) = axes.collections
        corners = sorted(
            (*polygon.min(axis=0), *polygon.max(axis=0))
            for polygon in outline.get_paths()[0].to_polygons(closed_only=False)
        )
        expected = [(0, 0, 0.25, 0.25), (0.875, 0.75, 1, 1)]
        np.testing.assert_allclose(corners, expected, atol=0.02)


def test_similarity_and_its_change(inside):
    _, _, after, change = rows_of(draw(blocks_figure(inside)))
    maps = [inside['similarity_clip'], *inside['similarity']]
    titles = ['Fᵥ, from CLIP', 'Fᵥ′, SAM block 1', 'Fᵥ′, SAM block 2', 'Fᵥ′, SAM block 3']
    assert [axes.get_title() for axes in after[:-1]] == titles
    for axes, values in zip(after[:-1], maps, strict=True):
        np.testing.assert_array_equal(drawn_values(axes), values)
        assert axes.images[-1].get_clim() == (np.min(maps), 1)
    largest = np.abs(np.array(maps[1:]) - maps[0]).max()
    for axes, values in zip(change[1:-1], maps[1:], strict=True):
        np.testing.assert_allclose(drawn_values(axes), values - maps[0])
        assert axes.images[-1].get_clim() == (-largest, largest)
    for axes in (*after[:-1], *change[1:-1]):  # the patch in the second row, sixth column
        assert {tuple(line.get_xydata()[0]) for line in axes.lines} == {(5.5 / 8, 1.5 / 4)}


def test_rows_line_up_and_nothing_overlaps(inside):
    figure = draw(blocks_figure(inside))
    rows = rows_of(figure)
    assert [len(row) for row in rows] == [5, 5, 5, 5]
    for column in zip(*rows, strict=True):
        assert len({round(axes.get_position().x0, 6) for axes in column}) == 1
    boxes = [axes.get_tightbbox() for row in rows for axes in row]
    width, height = figure.bbox.size
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize('shape', [(400, 80, 3), (30, 800, 3), (1, 1, 3)])
def test_pictures_of_any_shape(inside, shape):
    changed = first_block(inside) | dict(image=np.zeros(shape, np.uint8))
    figure = draw(blocks_figure(changed))
    assert max(figure.get_size_inches()) < 25


def test_models_without_some_parts(inside):
    """No SAM block: F_v is projected. No image guidance: the correlation alone."""
    rows = rows_of(draw(blocks_figure(without(inside, PROMPTS))))
    assert len(rows) == 3
    assert rows[1][1].get_title() == 'Fᵥ′, projection 1'
    assert rows[2][0].texts[0].get_text() == 'What the projection changed'
    rows = rows_of(draw(blocks_figure(without(inside, {*PROMPTS, 'similarity'}))))
    assert len(rows) == 1


def test_a_map_without_a_peak(inside):
    """A region without an end has no outline, a range of one number one label; no change at all."""
    ones = np.ones((3, *GRID))
    changed = dict(
        region=ones.astype(bool),
        objects=np.zeros_like(ones, int),
        correlation=np.full((4, *GRID), 0.25),
        similarity=ones,
        similarity_clip=ones[0],
    )
    rows = rows_of(draw(blocks_figure(inside | changed)))
    assert len(rows[1][1].collections) == 0
    bar = rows[0][1].images[-1].colorbar.ax
    assert [label.get_text() for label in bar.get_xticklabels()] == ['0.25']
    assert not drawn_values(rows[3][1]).any()


@pytest.mark.parametrize(
    ('word', 'shown'),
    [
        ('$\\frac{$', '“$\\frac{$”'),
        ('sea | water', '“sea | water”'),
        ('x' * 200, f'“{"x" * 27}…”'),
    ],
)
def test_words_are_drawn_as_they_are(inside, word, shown):
    small = without(first_block(inside), {*PROMPTS, 'similarity'})
    figure = draw(blocks_figure(small | dict(word=np.array(word))))
    assert figure.texts[0].get_text() == shown
