"""Pictures: the right colours in the right places."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mmseg_escnet import Vocabulary
from mmseg_escnet.models.necks import PseudoPromptGenerator
from mmseg_escnet.visualization import draw_pseudo_prompts, overlay_labels, paint_labels


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.create(['cat', 'dog'], palette=[(255, 0, 0), (0, 0, 255)])


@pytest.fixture
def prompts():
    """Two peaks of the first class, at the left and at the right end of a 4 x 8 grid."""
    correlation = torch.zeros(1, 2, 4, 8)
    correlation[0, 0, 1, 0], correlation[0, 0, 2, 7] = 1.0, 0.99
    generator = PseudoPromptGenerator(num_objects=3)
    return generator(correlation, torch.tensor(20.0))


def test_paint_labels(vocabulary):
    painted = paint_labels(np.array([[0, 1, 255, 2]]), vocabulary)
    assert painted.dtype == np.uint8
    assert painted[0].tolist() == [[255, 0, 0], [0, 0, 255], [0, 0, 0], [0, 0, 0]]


def test_prompts_are_drawn_where_they_are(prompts):
    """In pixels of an image of 40 x 80: the centres of the patches; only the valid objects."""
    axes = Figure().subplots()
    draw_pseudo_prompts(axes, np.zeros((40, 80, 3), np.uint8), prompts, 0, 0)
    drawn = sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines)
    assert drawn == [(5.0, 15.0), (75.0, 25.0)]


def test_an_overlay_is_three_quarters_colour(vocabulary):
    grey = np.full((1, 2, 3), 128, np.uint8)
    overlay = overlay_labels(grey, np.array([[0, 1]]), vocabulary)
    assert overlay.dtype == np.uint8
    assert overlay[0].tolist() == [[223, 32, 32], [32, 32, 223]]


def test_the_region_is_outlined_where_it_is(prompts):
    """The left peak lies in the second row of four: between 10 and 20 pixels of 40."""
    axes = Figure().subplots()
    draw_pseudo_prompts(axes, np.zeros((40, 80, 3), np.uint8), prompts, 0, 0)
    (contours,) = axes.collections
    outline = np.concatenate([path.vertices for path in contours.get_paths()])
    left, right = (outline[side] for side in (outline[:, 0] < 40, outline[:, 0] >= 40))
    for part, low, high in ((left, 10, 20), (right, 20, 30)):
        assert low - 1 <= part[:, 1].min() < low + 2
        assert high - 2 < part[:, 1].max() <= high + 1
