"""The toy world is the same everywhere, and hides the masks of unseen classes."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.toyworld.dataset import ToyWorldDataset
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import (
    ALL_NAMES,
    COLORS,
    EVERYDAY_WORDS,
    HELD_OUT_SHAPES,
    HELD_OUT_TEXTURES,
    LARGE_NAMES,
    SEEN_NAMES,
    SEEN_STUFF_NAMES,
    SEEN_THING_NAMES,
    SHAPES,
    SYNONYMS,
    TEXTURES,
    THING_NAMES,
    UNSEEN_ATTRIBUTE_NAMES,
    UNSEEN_NAMES,
    VOCABULARY_KEYS,
    palette_of,
    to_seen_ids,
    vocabulary_of,
    with_synonyms,
)
from mmseg_escnet.vocabulary import Vocabulary


def words(names):
    return {word for name in names for word in name.split()}


# --- words --------------------------------------------------------------------------------------


def test_splits():
    assert len(ALL_NAMES) == len(set(ALL_NAMES)) == 72
    assert ALL_NAMES[64:] == tuple(TEXTURES)
    splits = (SEEN_NAMES, UNSEEN_NAMES, UNSEEN_ATTRIBUTE_NAMES)
    assert [len(names) for names in splits] == [42, 12, 18]
    assert set().union(*splits) == set(ALL_NAMES)  # and 42 + 12 + 18 = 72: they are disjoint
    assert len(SEEN_THING_NAMES) == 36
    assert SEEN_THING_NAMES + SEEN_STUFF_NAMES == SEEN_NAMES
    for names in splits:
        assert list(names) == sorted(names, key=ALL_NAMES.index)


def test_unseen_combinations_are_of_seen_words():
    for name in UNSEEN_NAMES:
        color, shape = name.split()
        assert any(other.split()[0] == color for other in SEEN_THING_NAMES)
        assert any(other.split()[1] == shape for other in SEEN_THING_NAMES)


def test_unseen_attributes_occur_in_no_seen_name():
    nouns = {name.split()[-1] for name in UNSEEN_ATTRIBUTE_NAMES}
    assert nouns == {*HELD_OUT_SHAPES, *HELD_OUT_TEXTURES} == {'ring', 'heart', 'wood', 'tiles'}
    assert not nouns & words(SEEN_NAMES + UNSEEN_NAMES)
    for shape in HELD_OUT_SHAPES:
        assert {f'{color} {shape}' for color in COLORS} <= set(UNSEEN_ATTRIBUTE_NAMES)


def test_every_masked_shape_has_six_colours():
    """And every colour occurs in masks, about equally often."""
    masked = [shape for shape in SHAPES if shape not in HELD_OUT_SHAPES]
    assert len(masked) == 6
    for shape in masked:
        assert sum(name.split()[1] == shape for name in SEEN_THING_NAMES) == 6
    for color in COLORS:
        assert 4 <= sum(name.split()[0] == color for name in SEEN_THING_NAMES) <= 5


def test_large_vocabulary():
    large = vocabulary_of('large')
    assert len(large) == len(LARGE_NAMES) == 174
    assert tuple(name.split(' | ')[0] for name in large[:72]) == ALL_NAMES
    vocabulary = Vocabulary.create(large, palette_of(large))
    present = {synonym for names in vocabulary.synonyms[:72] for synonym in names}
    absent = [synonym for names in vocabulary.synonyms[72:] for synonym in names]
    assert len(present) == 72 + 6 * 8 + 4  # six shapes and four textures have another word
    assert len(absent) == len(set(absent)) >= 102
    assert not present & set(absent)
    # a picture of a red star shows a star: no everyday word is a word of the world
    assert not set(EVERYDAY_WORDS) & words(present)


def test_large_vocabulary_is_coloured_as_all():
    palette = palette_of(vocabulary_of('large'))
    assert palette[:72] == palette_of(ALL_NAMES)
    assert {tuple(color) for color in palette[72:]} == {(90, 90, 90)}
    assert (90, 90, 90) not in map(tuple, palette[:72])


def test_palette_colours_differ():
    assert len({tuple(color) for color in palette_of(ALL_NAMES)}) == 72


def test_with_synonyms():
    assert with_synonyms('red circle') == 'red circle | red disc'
    assert with_synonyms('wood') == 'wood | timber'
    assert with_synonyms('red triangle') == 'red triangle'
    assert with_synonyms('brick') == 'brick'
    assert set(SYNONYMS) <= {*SHAPES, *TEXTURES}
    assert len(set(SYNONYMS.values()) - words(ALL_NAMES)) == len(SYNONYMS)


def test_vocabulary_of():
    assert vocabulary_of('all') == ALL_NAMES
    assert vocabulary_of('seen') == SEEN_NAMES
    for key in VOCABULARY_KEYS:
        if key != 'large':
            assert set(vocabulary_of(key)) <= set(ALL_NAMES)
    with pytest.raises(ESCNetError, match="no vocabulary 'tiny': choose one of all, seen, large"):
        vocabulary_of('tiny')


def test_training_ids_hide_all_names_without_masks():
    everything = np.arange(72, dtype=np.uint8)[None]
    seen = to_seen_ids(everything)
    assert seen.dtype == np.uint8
    for class_id, name in enumerate(ALL_NAMES):
        if name in UNSEEN_NAMES + UNSEEN_ATTRIBUTE_NAMES:
            assert seen[0, class_id] == 255
        else:
            assert SEEN_NAMES[seen[0, class_id]] == name
    assert (seen == 255).sum() == 30
    assert to_seen_ids(np.full((1, 1), 255, np.uint8)) == 255


# --- scenes -------------------------------------------------------------------------------------

# (scenes, SHA-256 of their labels, mean and deviation of their images by channel)
GOLDEN = [
    (
        1,
        'ed681e17ee809b98511bac0a5c62760b44d4caba88c842c356e854b9447cb919',
        (167.440, 160.159, 118.403),
        (40.308, 24.348, 37.406),
    ),
    (  # here all shapes and textures occur
        32,
        'f279c60f50225c6acdc74fe52d9f2bb6f08e7c598ad41b987d83e780cc6abab7',
        (123.429, 112.798, 93.291),
        (53.885, 45.889, 50.506),
    ),
]


@pytest.mark.parametrize(
    ('count', 'digest', 'mean', 'deviation'), GOLDEN, ids=['one scene', '32 scenes']
)
def test_the_world_is_the_one_that_published_weights_know(count, digest, mean, deviation):
    """If this fails on purpose, the toy weights have to be trained anew.

    Images may differ by rounding between releases of OpenCV; labels may not.
    """
    images, labels = map(np.stack, zip(*(scene(0, index) for index in range(count)), strict=True))
    assert hashlib.sha256(labels.tobytes()).hexdigest() == digest
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), mean, atol=0.02)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), deviation, atol=0.02)
    if count > 1:
        assert words(ALL_NAMES) == words(ALL_NAMES[i] for i in np.unique(labels))


def test_scenes_depend_on_seed_and_index_alone(root):
    image, label = scene(0, 7)
    scene(0, 3)
    for again, expected in zip(scene(0, 7), (image, label), strict=True):
        np.testing.assert_array_equal(again, expected)
    assert (scene(0, 8)[0] != image).any()
    assert (scene(1, 7)[0] != image).any()
    code = (
        'import hashlib; from mmseg_escnet.toyworld.scenes import scene;'
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
        assert max(ids) < 72
        textures = {i for i in ids if i >= len(THING_NAMES)}
        assert 1 <= len(textures) <= 2
        assert 1 <= len(ids - textures) <= 5
        seen_things |= ids - textures
        seen_textures |= textures
    assert len(seen_textures) == 8
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


def test_textures_are_drawn_as_named():
    """The median leaves out mortar and joints; brightness varies: colours by direction again."""
    checked = dict.fromkeys(TEXTURES, 0)
    for index in range(60):
        image, label = scene(3, index)
        for name in TEXTURES:
            ground = (label == ALL_NAMES.index(name)).astype(np.uint8)
            inside = cv2.erode(ground, np.ones((5, 5)), borderValue=0) > 0
            if inside.sum() < 300:
                continue
            median = np.median(image[inside].astype(float), axis=0)
            likeness = {
                other: median @ np.array(rgb) / np.linalg.norm(rgb)
                for other, rgb in TEXTURES.items()
            }
            assert max(likeness, key=likeness.get) == name
            checked[name] += 1
    assert min(checked.values()) >= 4


def test_textures_have_their_grain():
    """Correlation with the texture itself moved by two pixels, along x, y and both diagonals."""
    from mmseg_escnet.toyworld.scenes import _draw_texture

    def likeness(name):
        texture = _draw_texture(np.random.default_rng(0), name, 96).mean(axis=-1)
        pairs = dict(
            x=(texture[:, 2:], texture[:, :-2]),
            y=(texture[2:], texture[:-2]),
            down=(texture[2:, 2:], texture[:-2, :-2]),
            up=(texture[2:, :-2], texture[:-2, 2:]),
        )
        return {key: np.corrcoef(a.ravel(), b.ravel())[0, 1] for key, (a, b) in pairs.items()}

    grain = {name: likeness(name) for name in TEXTURES}
    for name, along in dict(brick='x', grass='y', water='x', wood='x', fabric='up').items():
        others = [value for key, value in grain[name].items() if key != along]
        assert grain[name][along] > max(others) + 0.3, name
    for name in ('sand', 'stone', 'tiles'):
        assert grain[name]['x'] == pytest.approx(grain[name]['y'], abs=0.1), name


def test_shapes_are_drawn_as_named():
    """Area over the area of the circumscribed square tells the eight shapes roughly apart."""
    from mmseg_escnet.toyworld.scenes import _draw_shape

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


# --- the data set --------------------------------------------------------------------------------


def test_dataset_vocabularies(tmp_path):
    init_default_scope('mmseg')
    for name in ('seen', 'all', 'large'):
        names = vocabulary_of(name)
        dataset = ToyWorldDataset(vocabulary=name, data_root=str(tmp_path), lazy_init=True)
        assert dataset.metainfo['classes'] == names
        assert dataset.label_map is None
        assert dataset.metainfo['palette'] == palette_of(names)
    some = ToyWorldDataset(metainfo=dict(classes=('brick', 'red circle')), lazy_init=True)
    assert some.label_map[ALL_NAMES.index('brick')] == 0
    assert some.label_map[ALL_NAMES.index('red circle')] == 1
    assert some.metainfo['palette'] == palette_of(('brick', 'red circle'))
    with pytest.raises(ESCNetError, match='make_scenes'):
        ToyWorldDataset(data_root=str(tmp_path / 'nowhere'))
