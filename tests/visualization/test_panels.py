"""Pictures: the right colours in the right places."""

import numpy as np
import pytest

from mmseg_escnet import Vocabulary
from mmseg_escnet.visualization import overlay_labels, paint_labels


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.create(['cat', 'dog'], palette=[(255, 0, 0), (0, 0, 255)])


def test_paint_labels(vocabulary):
    painted = paint_labels(np.array([[0, 1, 255, 2]]), vocabulary)
    assert painted.dtype == np.uint8
    assert painted[0].tolist() == [[255, 0, 0], [0, 0, 255], [0, 0, 0], [0, 0, 0]]


def test_an_overlay_is_three_quarters_colour(vocabulary):
    grey = np.full((1, 2, 3), 128, np.uint8)
    overlay = overlay_labels(grey, np.array([[0, 1]]), vocabulary)
    assert overlay.dtype == np.uint8
    assert overlay[0].tolist() == [[223, 32, 32], [32, 32, 223]]
