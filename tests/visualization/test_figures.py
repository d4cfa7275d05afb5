"""Figures: what is drawn is what was given."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mmseg_escnet import Vocabulary
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.visualization import (
    class_bars_figure,
    curve_figure,
    ranges_figure,
    scenes_figure,
)

NAN = float('nan')


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    yield
    assert Gcf.get_all_fig_managers() == []


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.create(['cat', 'dog', 'owl'], [(200, 0, 0), (0, 0, 200), (0, 200, 0)])


def draw(figure: Figure) -> Figure:
    """Draw for real, without a warning: some mistakes come to light only there."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        FigureCanvasAgg(figure).draw()
    return figure


def legend_of(axes) -> dict:
    """Label -> colour, in order."""
    legend = axes.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    return dict(zip(labels, [p.get_facecolor()[:3] for p in legend.get_patches()], strict=True))


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title() or axes.get_title(loc='left') for axes in figure.axes]


# curve_figure


def test_each_curve_has_its_panel():
    curves = {name: [(0, 4.0), (10, 2.0), (30, value)] for value, name in enumerate('abcd')}
    figure = draw(curve_figure(curves))
    assert titles_of(figure) == list('abcd')
    assert [axes.get_title(loc='right') for axes in figure.axes] == list('0123')
    for value, axes in enumerate(figure.axes):
        (line,) = axes.lines
        np.testing.assert_array_equal(line.get_xydata(), [(0, 4), (10, 2), (30, value)])
    # four panels in two rows of three: the step is written where no panel lies below
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, True, True, True]


def test_a_single_point_can_be_seen_and_a_curve_without_one_is_said_to_be():
    figure = draw(curve_figure({'one': [(5, 0.5)], 'none': []}))
    one, none = figure.axes
    assert one.lines[0].get_marker() == '.'
    assert len(none.lines) == 0
    assert [text.get_text() for text in none.texts] == ['no values']


# class_bars_figure


def bars_of(axes, methods: int) -> np.ndarray:
    """Widths of the bars, (methods, classes), each row from the top of the panel."""
    bars = sorted(axes.patches, key=lambda bar: bar.get_facecolor())
    by_color: dict[tuple, list] = {}
    for bar in bars:
        by_color.setdefault(bar.get_facecolor(), []).append(bar)
    assert len(by_color) == methods
    rows = [sorted(row, key=lambda bar: bar.get_y()) for row in by_color.values()]
    rows.sort(key=lambda row: row[0].get_y())
    assert axes.yaxis_inverted()  # so that the least y is on top
    return np.array([[bar.get_width() for bar in row] for row in rows])


def test_bars_are_sorted_by_the_first_method_and_absent_classes_come_last():
    names = ['a', 'b', 'c', 'd', 'e']
    first, second = np.array([10, NAN, 30, 20, 99]), np.array([5, 7, NAN, 60, 0])
    figure = draw(
        class_bars_figure(
            names=names,
            groups={'seen': ['a', 'b', 'c', 'd'], 'unseen': ['e']},
            scores={'ours': first, 'theirs': second},
        )
    )
    seen, unseen = figure.axes
    assert [label.get_text() for label in seen.get_yticklabels()] == ['c', 'd', 'a', 'b']
    assert [label.get_text() for label in unseen.get_yticklabels()] == ['e']
    np.testing.assert_array_equal(bars_of(seen, 2), [[30, 20, 10, NAN], [NAN, 60, 5, 7]])
    np.testing.assert_array_equal(bars_of(unseen, 2), [[99], [0]])
    assert titles_of(figure) == ['seen (4)', 'unseen (1)']
    # the mean of the classes that occur: (30 + 20 + 10) / 3 and (60 + 5 + 7) / 3
    assert list(legend_of(seen)) == ['ours: mean 20.0', 'theirs: mean 24.0']
    written = {(text.get_text(), text.xy[0]) for text in seen.texts}
    values = {(f'{value:.1f}', value) for value in (30, 20, 10, 60, 5, 7)}
    assert written == values | {('absent', 0)}
    assert [text.get_text() for text in unseen.texts] == ['99.0', '0.0']
    assert seen.get_xlim() == unseen.get_xlim()
    assert seen.get_xlim()[1] >= 99


def test_bars_lie_beside_the_name_of_their_class():
    scores = {name: np.array([50.0, 40.0]) for name in 'xyz'}
    (axes,) = class_bars_figure(names=['a', 'b'], groups={'all': ['a', 'b']}, scores=scores).axes
    for tick, label, value in zip(axes.get_yticks(), axes.get_yticklabels(), (50, 40), strict=True):
        assert label.get_text() == {50: 'a', 40: 'b'}[value]
        bars = sorted(
            (bar.get_y(), bar.get_height()) for bar in axes.patches if bar.get_width() == value
        )
        assert len(bars) == 3
        edges = [bars[0][0]] + [y + height for y, height in bars]
        np.testing.assert_allclose(edges, np.linspace(tick - 0.4, tick + 0.4, 4))


def test_forty_classes_do_not_overlap():
    names = [f'class {i}' for i in range(40)]
    scores = {'a': np.linspace(0, 90, 40), 'b': np.full(40, NAN)}
    figure = draw(class_bars_figure(names=names, groups={'all': names}, scores=scores))
    (axes,) = figure.axes
    for texts, number in ((axes.get_yticklabels(), 40), (axes.texts, 80)):
        assert len(texts) == number
        boxes = sorted((t.get_window_extent().y0, t.get_window_extent().y1) for t in texts)
        assert all(low[1] <= high[0] for low, high in pairwise(boxes))
    assert list(legend_of(axes)) == ['a: mean 45.0', 'b: no class occurs']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(groups={'seen': ['a', 'z']}), r"'seen' holds \['z'\]"),
        (dict(groups={'seen': []}), "no class in group 'seen'"),
        (dict(groups={}), 'no group'),
        (dict(scores={}), 'no method'),
        (dict(scores={'ours': np.zeros(3)}), r"'ours' have the shape \(3,\) for 2"),
    ],
)
def test_bars_that_cannot_be_drawn(change, message):
    arguments = dict(names=['a', 'b'], groups={'all': ['a']}, scores={'ours': np.zeros(2)})
    with pytest.raises(ESCNetError, match=message):
        class_bars_figure(**(arguments | change))


# scenes_figure


def test_scenes_show_each_map_in_the_colours_of_the_vocabulary(vocabulary):
    images = [np.full((4, 6, 3), 100, np.uint8), np.full((8, 2, 3), 20, np.uint8)]
    truths = [np.zeros((4, 6), int), np.full((8, 2), 1)]
    truths[0][0, 0] = 255
    ours = [np.full((4, 6), 2), np.full((8, 2), 1)]
    theirs = [np.full((4, 6), 1), np.full((8, 2), 0)]
    theirs[1][:, 1] = 1
    figure = draw(
        scenes_figure(
            images=images,
            truths=truths,
            predictions={'ours': ours, 'theirs': theirs},
            vocabulary=vocabulary,
            titles=['first', 'second'],
        )
    )
    assert titles_of(figure) == ['image', 'ground truth', 'ours', 'theirs', ''] + [''] * 5
    grid = np.array(figure.axes).reshape(2, 5)
    assert [row[0].get_ylabel() for row in grid] == ['first', 'second']
    palette = np.array([*vocabulary.palette, (0, 0, 0)])
    for scene, row in enumerate(grid):
        np.testing.assert_array_equal(row[0].images[0].get_array(), images[scene])
        for axes, maps in zip(row[1:4], (truths, ours, theirs), strict=True):
            labels = np.minimum(maps[scene], 3)
            # three quarters of the class's colour over one quarter of the image
            mixed = 0.75 * palette[labels] + 0.25 * images[scene]
            np.testing.assert_array_equal(axes.images[0].get_array(), mixed.round())
    # by area: 24 pixels of class 2 and of class 1, 23 of class 0; then 40 of class 1, 8 of 0
    first, second = legend_of(grid[0, 4]), legend_of(grid[1, 4])
    assert list(first) == ['dog', 'owl', 'cat', '(not labelled)']
    assert list(second) == ['dog', 'cat']
    for entries in (first, second):
        for name, color in entries.items():
            number = 3 if name == '(not labelled)' else vocabulary.names.index(name)
            np.testing.assert_allclose(np.array(color) * 255, palette[number])


def test_a_legend_stops_after_twelve_classes():
    vocabulary = Vocabulary.create([f'class {i}' for i in range(20)])
    truth = np.repeat(np.arange(15), np.arange(1, 16))[None]  # class i covers i + 1 pixels
    image = np.zeros((*truth.shape, 3), np.uint8)
    figure = scenes_figure(
        images=[image], truths=[truth], predictions={'ours': [truth]}, vocabulary=vocabulary
    )
    shown = list(legend_of(figure.axes[-1]))
    assert shown == [f'class {i}' for i in range(14, 2, -1)] + ['... 3 more']


def test_scenes_that_do_not_fit(vocabulary):
    image, labels = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), int)
    for change, message in (
        (dict(images=[], truths=[], predictions={}), 'no scene'),
        (dict(predictions={'ours': []}), "'ours' has 0 items for 1"),
        (dict(predictions={'ours': [labels.T]}), r"Scene 0: 'ours' has the size \(6, 4\)"),
        (dict(predictions={'ground truth': [labels]}), 'another name'),
        (dict(titles=['a', 'b']), "'titles' has 2 items"),
    ):
        arguments = dict(images=[image], truths=[labels], predictions={'ours': [labels]}) | change
        with pytest.raises(ESCNetError, match=message):
            scenes_figure(vocabulary=vocabulary, **arguments)


# ranges_figure


def test_a_study_shows_every_seed_the_mean_and_the_spread():
    rows = [('base', [1.0, 2.0, 6.0]), ('one', [4.0]), ('none', [NAN]), ('two', [5.0, NAN, 7.0])]
    figure = draw(ranges_figure(rows=rows, baseline='base', metric='mIoU (%)'))
    (axes,) = figure.axes
    assert axes.get_xlabel() == 'mIoU (%)'
    assert [label.get_text() for label in axes.get_yticklabels()] == ['base', 'one', 'none', 'two']
    assert axes.yaxis_inverted()
    points = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == 'o']
    assert points == [[[1, 0], [2, 0], [6, 0]], [[4, 1]], [[5, 3], [7, 3]]]
    means = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == '|']
    assert means == [[[3, 0]], [[4, 1]], [[6, 3]]]
    spreads = [spread.get_segments()[0].tolist() for spread in axes.collections]
    np.testing.assert_allclose(
        spreads,  # with n - 1: sqrt((4 + 1 + 9) / 2) and sqrt((1 + 1) / 1)
        [[[3 - 7**0.5, 0], [3 + 7**0.5, 0]], [[6 - 2**0.5, 3], [6 + 2**0.5, 3]]],
    )
    (baseline,) = (line for line in axes.lines if line.get_linestyle() == '--')
    assert list(baseline.get_xdata()) == [3, 3]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ['3.00 ± 2.65', '4.00', 'not measured', '6.00 ± 1.41']
    colors = {line.get_color() for line in axes.lines if line.get_marker() == 'o'}
    assert len({to_rgb(color) for color in colors}) == 2  # the baseline is set off


def test_a_study_whose_baseline_is_missing():
    (axes,) = draw(
        ranges_figure(rows=[('base', []), ('one', [4.0])], baseline='base', metric='m')
    ).axes
    assert [line.get_linestyle() for line in axes.lines if line.get_linestyle() == '--'] == []
    assert [text.get_text() for text in axes.texts] == ['not measured', '4.00']


@pytest.mark.parametrize(
    'make', [lambda: curve_figure({}), lambda: ranges_figure(rows=[], baseline='', metric='m')]
)
def test_nothing_to_draw(make):
    with pytest.raises(ESCNetError, match='give at least one'):
        make()


# names are drawn as they are


@pytest.mark.parametrize('name', ['$\\frac{$', '_hidden', 'x' * 200])
def test_names_are_no_formulas(name):
    """Matplotlib reads text between dollar signs as a formula and skips labels like _hidden."""
    vocabulary = Vocabulary.create([name])
    image, labels = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), int)
    scenes = scenes_figure(
        images=[image],
        truths=[labels],
        predictions={name: [labels]},
        vocabulary=vocabulary,
        titles=[name],
    )
    bars = class_bars_figure(names=[name], groups={name: [name]}, scores={name: np.array([1.0])})
    shown = name if len(name) < 20 else name[:27] + '…'
    assert list(legend_of(draw(scenes).axes[-1])) == [shown]
    assert [label.get_text() for label in draw(bars).axes[0].get_yticklabels()] == [shown]
    assert list(legend_of(bars.axes[0])) == [f'{shown}: mean 1.0']
    draw(curve_figure({name: [(0, 1.0)]}))
    draw(ranges_figure(rows=[(name, [1.0])], baseline='', metric=name))
