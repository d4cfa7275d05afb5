"""The toy world is the same everywhere, and hides the masks of unseen classes."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

import mmseg_escnet  # noqa: F401
from mmseg_escnet.datasets import ToyWorldDataset
from mmseg_escnet.datasets.toyworld_scenes import (
    ALL_NAMES,
    COLORS,
    SEEN_NAMES,
    SHAPES,
    TEXTURES,
    THING_NAMES,
    UNSEEN_NAMES,
    palette_of,
    scene,
    to_seen_ids,
    vocabulary_of,
)
from mmseg_escnet.errors import ESCNetError


def test_vocabularies():
    assert len(ALL_NAMES) == len(set(ALL_NAMES)) == 70
    assert len(SEEN_NAMES) == 54
    assert len(UNSEEN_NAMES) == 16
    assert set(SEEN_NAMES) | set(UNSEEN_NAMES) == set(ALL_NAMES)
    assert set(TEXTURES) <= set(SEEN_NAMES)
    with pytest.raises(ESCNetError, match='choose one of all, seen'):
        vocabulary_of('unseen')


def test_every_colour_and_shape_is_six_times_seen():
    seen_things = [name.split() for name in SEEN_NAMES if name not in TEXTURES]
    for color in COLORS:
        assert sum(name[0] == color for name in seen_things) == 6
    for shape in SHAPES:
        assert sum(name[1] == shape for name in seen_things) == 6


def test_palette_colours_differ():
    assert len({tuple(color) for color in palette_of(ALL_NAMES)}) == 70


def test_scenes_depend_on_seed_and_index_alone(root):
    image, label = scene(0, 7)
    scene(0, 3)
    for again, expected in zip(scene(0, 7), (image, label), strict=True):
        np.testing.assert_array_equal(again, expected)
    assert (scene(0, 8)[0] != image).any()
    assert (scene(1, 7)[0] != image).any()
    code = (
        'import hashlib; from mmseg_escnet.datasets.toyworld_scenes import scene;'
        'i, l = scene(0, 7);'
        'print(hashlib.sha256(i.tobytes() + l.tobytes()).hexdigest())'
    )
    elsewhere = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=root
    ).stdout.split()[-1]
    assert elsewhere == hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


@pytest.mark.parametrize('size', [48, 96, 160])
def test_scene_contents(size):
    seen_things, seen_textures = set(), set()
    for index in range(60):
        image, label = scene(5, index, size)
        assert image.shape == (size, size, 3)
        assert image.dtype == label.dtype == np.uint8
        ids = set(np.unique(label).tolist())
        assert max(ids) < 70
        textures = {i for i in ids if i >= len(THING_NAMES)}
        assert 1 <= len(textures) <= 2
        assert 1 <= len(ids - textures) <= 5
        seen_things |= ids - textures
        seen_textures |= textures
    assert len(seen_textures) == 6
    assert len(seen_things) > 50


def test_labels_agree_with_the_drawn_colours():
    checked = 0
    for index in range(40):
        image, label = scene(2, index)
        for class_id in np.unique(label):
            if class_id >= len(THING_NAMES):
                continue
            # Blended edges are left out; brightness varies, so colours are compared by direction.
            inside = cv2.erode((label == class_id).astype(np.uint8), np.ones((5, 5))) > 0
            if inside.sum() < 30:
                continue
            mean = image[inside].astype(float).mean(axis=0)
            direction = mean / np.linalg.norm(mean)
            likeness = {
                color: direction @ (np.array(rgb) / np.linalg.norm(rgb))
                for color, rgb in COLORS.items()
            }
            assert max(likeness, key=likeness.get) == ALL_NAMES[class_id].split()[0]
            checked += 1
    assert checked > 60


def test_shapes_are_drawn_as_named():
    """Area over the area of the circumscribed square tells the eight shapes roughly apart."""
    from mmseg_escnet.datasets.toyworld_scenes import _draw_shape

    area = {
        shape: _draw_shape(shape, np.array([48.0, 48.0]), 40.0, 0.0, 96).sum() / 40**2
        for shape in SHAPES
    }
    assert area['circle'] == pytest.approx(np.pi * 0.81, rel=0.02)
    assert area['square'] == pytest.approx(2.0, rel=0.02)
    assert area['triangle'] == pytest.approx(3**1.5 / 4, rel=0.03)
    assert area['cross'] == pytest.approx(4 * 0.6 - 0.36, rel=0.02)
    assert area['ring'] == pytest.approx(np.pi * (1 - 0.55**2), rel=0.02)
    assert len({round(value, 1) for value in area.values()}) >= 6


def test_training_ids_hide_unseen_classes():
    everything = np.arange(70, dtype=np.uint8)[None]
    seen = to_seen_ids(everything)[0]
    for class_id, name in enumerate(ALL_NAMES):
        if name in UNSEEN_NAMES:
            assert seen[class_id] == 255
        else:
            assert SEEN_NAMES[seen[class_id]] == name
    assert to_seen_ids(np.full((1, 1), 255, np.uint8)) == 255


def test_dataset_vocabularies(tmp_path):
    init_default_scope('mmseg')
    for name, names in (('seen', SEEN_NAMES), ('all', ALL_NAMES)):
        dataset = ToyWorldDataset(vocabulary=name, data_root=str(tmp_path), lazy_init=True)
        assert dataset.metainfo['classes'] == names
        assert dataset.label_map is None
        assert len(dataset.metainfo['palette']) == len(names)
    some = ToyWorldDataset(metainfo=dict(classes=('brick', 'red circle')), lazy_init=True)
    assert some.label_map[ALL_NAMES.index('brick')] == 0
    assert some.label_map[ALL_NAMES.index('red circle')] == 1
    assert some.metainfo['palette'] == palette_of(('brick', 'red circle'))
    with pytest.raises(ESCNetError, match='make_scenes'):
        ToyWorldDataset(data_root=str(tmp_path / 'nowhere'))
