"""Distinguishable colours in one picture."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmseg_escnet.datasets import ADE20K847Dataset
from mmseg_escnet.visualization.distinct_colors import LEAST_DISTANCE, tell_apart
from mmseg_escnet.visualization.legend import MOST_ENTRIES

PALETTE = ADE20K847Dataset.METAINFO['palette']


def lab(colors) -> np.ndarray:
    """CIELAB by LittleCMS, in 8 bits, which is within 1 of the true values."""
    profiles = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
    transform = ImageCms.buildTransform(*profiles, 'RGB', 'LAB')
    image = Image.fromarray(np.array(colors, np.uint8)[None])
    values = np.array(ImageCms.applyTransform(image, transform))[0].astype(float)
    return np.column_stack(
        [values[:, 0] / 2.55, (values[:, 1:] + 128) % 256 - 128]  # a and b are signed
    )


def least_distance(colors) -> float:
    places = lab(colors)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    return distances[~np.eye(len(places), dtype=bool)].min()


@pytest.mark.parametrize('count', [3, 10, 20, MOST_ENTRIES])
def test_random_classes_of_847(count):
    """As they come many are alike; afterwards none, and the first ones keep their colours."""
    random = np.random.default_rng(0)
    before, changes = [], 0
    for _ in range(20):
        ids = random.choice(len(PALETTE), count, replace=False).tolist()
        changed = tell_apart(PALETTE, ids)
        before.append(least_distance([PALETTE[i] for i in ids]))
        assert least_distance([changed.get(i, PALETTE[i]) for i in ids]) > LEAST_DISTANCE - 2.5
        assert ids[0] not in changed
        assert set(changed) <= set(ids)
        changes += len(changed)
        for color in changed.values():
            saturation = colorsys.rgb_to_hsv(*(value / 255 for value in color))[1]
            assert saturation > 0.2, 'grey is for ignored pixels'
    assert min(before) < LEAST_DISTANCE - 2.5, 'there was nothing to do'
    assert 0 < changes < 0.6 * 20 * count


def test_colours_that_differ_are_kept():
    palette = [(255, 0, 0), (250, 5, 0), (0, 0, 255)]
    assert tell_apart(palette, [0, 2]) == {}
    assert list(tell_apart(palette, [0, 1, 2])) == [1]
    assert list(tell_apart(palette, [1, 0, 2])) == [0], 'the first one keeps its colour'
    assert tell_apart(palette, []) == {}


def test_more_classes_than_colours():
    changed = tell_apart([(9, 9, 200)] * 847, range(847))
    assert len(set(changed.values())) == len(changed) > MOST_ENTRIES
