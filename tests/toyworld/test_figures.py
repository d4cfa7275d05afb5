"""Figures: what is drawn is what was given."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mmseg_escnet.toyworld.figures import classes_figure, curves_figure, study_figure
from mmseg_escnet.visualization import save_figure

NAN = float('nan')


def test_each_point_of_a_curve_is_the_mean_of_ten():
    figure = curves_figure({'loss': np.arange(25.0), 'accuracy': [4.0, 6.0]})
    loss, accuracy = figure.axes
    assert [axes.get_title(loc='left') for axes in figure.axes] == ['loss', 'accuracy']
    assert loss.lines[0].get_xydata().tolist() == [[10, 4.5], [20, 14.5]]
    assert accuracy.lines[0].get_xydata().tolist() == [[2, 5]]


def test_bars_are_sorted_by_the_first_method_and_absent_classes_are_left_out():
    figure = classes_figure(
        names=['a', 'b', 'c', 'd', 'e'],
        groups={'seen': ['a', 'b', 'c', 'd'], 'unseen': ['e']},
        scores={
            'ours': np.array([10, NAN, 30, 20, 99]),
            'theirs': np.array([5, NAN, 60, 0, 7]),
        },
    )
    FigureCanvasAgg(figure).draw()
    seen, unseen = figure.axes
    assert [label.get_text() for label in seen.get_yticklabels()] == ['c', 'd', 'a']
    assert [label.get_text() for label in unseen.get_yticklabels()] == ['e']
    assert seen.yaxis_inverted()
    assert [bar.get_width() for bar in seen.patches] == [30, 20, 10, 60, 0, 5]
    places = [bar.get_y() + bar.get_height() / 2 for bar in seen.patches]
    np.testing.assert_allclose(places, [-0.2, 0.8, 1.8, 0.2, 1.2, 2.2])
    texts = [text.get_text() for text in seen.get_legend().get_texts()]
    assert texts == ['ours: mean 20.0', 'theirs: mean 21.7']


def test_a_study_shows_every_seed_the_mean_and_the_spread():
    rows = {'base': [1.0, 2.0, 6.0], 'one': [4.0]}
    (axes,) = study_figure(rows, baseline='base', metric='mIoU (%)').axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ['base', 'one']
    points = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == 'o']
    assert points == [[[1, 0], [2, 0], [6, 0]], [[4, 1]]]
    means = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == '|']
    assert means == [[[3, 0]], [[4, 1]]]
    (spread,) = axes.collections
    ends = [[3 - 7**0.5, 0], [3 + 7**0.5, 0]]  # with n - 1: sqrt((4 + 1 + 9) / 2)
    np.testing.assert_allclose(spread.get_segments()[0], ends)
    (baseline,) = (line for line in axes.lines if line.get_linestyle() == '--')
    assert list(baseline.get_xdata()) == [3, 3]
    assert [text.get_text() for text in axes.texts] == ['3.00 ± 2.65', '4.00']
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(texts) == ['baseline', 'mean', 'one seed', '± standard deviation']


def test_a_saved_figure(tmp_path):
    figure = curves_figure({'loss': [1.0]})
    save_figure(figure, tmp_path / 'new' / 'figure.png', dpi=50)
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['figure.png']
    assert Image.open(tmp_path / 'new/figure.png').size == (175, 120)
