"""The toy world is the same everywhere, and hides the masks of unseen classes."""

import hashlib

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
    SEEN_NAMES,
    SHAPES,
    SYNONYMS,
    TEXTURES,
    THING_NAMES,
    UNSEEN_ATTRIBUTE_NAMES,
    UNSEEN_NAMES,
    to_seen_ids,
    vocabulary_of,
    with_synonyms,
)
from mmseg_escnet.vocabulary import Vocabulary, palette_of


def words(names):
    return {word for name in names for word in name.split()}


# --- words --------------------------------------------------------------------------------------


def test_names_are_split_by_their_masks():
    assert len(set(ALL_NAMES)) == 72
    assert set(THING_NAMES) == {f'{color} {shape}' for color in COLORS for shape in SHAPES}
    assert ALL_NAMES[64:] == tuple(TEXTURES)
    splits = (SEEN_NAMES, UNSEEN_NAMES, UNSEEN_ATTRIBUTE_NAMES)
    assert [len(names) for names in splits] == [42, 12, 18]
    assert set().union(*splits) == set(ALL_NAMES)  # and 42 + 12 + 18 = 72: they are disjoint
    assert vocabulary_of('seen_things') + vocabulary_of('seen_stuff') == SEEN_NAMES
    for names in splits:
        assert list(names) == sorted(names, key=ALL_NAMES.index)
    with pytest.raises(ESCNetError, match="no vocabulary 'toyworld_tiny': choose one of"):
        vocabulary_of('tiny')


def test_unseen_attributes_occur_in_no_other_name():
    nouns = {name.split()[-1] for name in UNSEEN_ATTRIBUTE_NAMES}
    assert nouns == {'ring', 'heart', 'wood', 'tiles'}
    assert not nouns & words(SEEN_NAMES + UNSEEN_NAMES)


def test_every_annotated_shape_has_six_colours():
    """Every colour occurs, about equally often: unseen combinations are of seen words."""
    things = [name.split() for name in vocabulary_of('seen_things')]
    shapes = [shape for _, shape in things]
    assert {shape: shapes.count(shape) for shape in shapes} == dict.fromkeys(SHAPES[:5], 6) | {
        'crescent': 6
    }
    for color in COLORS:
        assert 4 <= sum(own == color for own, _ in things) <= 5


def test_large_vocabulary():
    large = vocabulary_of('large')
    assert len(large) == 174
    assert large[:72] == tuple(map(with_synonyms, ALL_NAMES))
    vocabulary = Vocabulary.create(large)
    present = {synonym for names in vocabulary.synonyms[:72] for synonym in names}
    absent = [synonym for names in vocabulary.synonyms[72:] for synonym in names]
    assert len(present) == 72 + 6 * 8 + 4  # six shapes and four textures have another word
    assert len(absent) == len(set(absent)) >= 102
    assert not present & set(absent)
    # no everyday word describes anything in this world
    assert len(EVERYDAY_WORDS) == 70
    assert not set(EVERYDAY_WORDS) & words(present)


def test_with_synonyms():
    assert with_synonyms('red circle') == 'red circle | red disc'
    assert with_synonyms('wood') == 'wood | timber'
    assert with_synonyms('red triangle') == 'red triangle'
    assert set(SYNONYMS) <= {*SHAPES, *TEXTURES}
    assert len(set(SYNONYMS.values()) - words(ALL_NAMES)) == len(SYNONYMS)


def test_training_ids_hide_all_names_without_masks():
    seen = to_seen_ids(np.arange(72, dtype=np.uint8)[None])
    assert seen.dtype == np.uint8
    names = [None if i == 255 else SEEN_NAMES[i] for i in seen[0]]
    assert names == [name if name in SEEN_NAMES else None for name in ALL_NAMES]
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
def test_scenes_match_the_published_weights(count, digest, mean, deviation):
    """If this fails on purpose, the toy weights have to be trained anew.

    Images may differ by rounding between releases of OpenCV; labels may not.
    """
    images, labels = map(np.stack, zip(*(scene(0, index) for index in range(count)), strict=True))
    assert hashlib.sha256(labels.tobytes()).hexdigest() == digest
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), mean, atol=0.02)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), deviation, atol=0.02)
    if count > 1:
        assert words(ALL_NAMES) == words(ALL_NAMES[i] for i in np.unique(labels))


def test_scenes_depend_on_seed_and_index_alone():
    image, label = scene(0, 7)
    scene(0, 3)
    for again, expected in zip(scene(0, 7), (image, label), strict=True):
        np.testing.assert_array_equal(again, expected)
    assert (scene(0, 8)[0] != image).any()
    assert (scene(1, 7)[0] != image).any()


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
    own = dict(zip(ALL_NAMES, palette_of(ALL_NAMES), strict=True))
    assert some.metainfo['palette'] == [own['brick'], own['red circle']]
    with pytest.raises(ESCNetError, match='make_scenes'):
        ToyWorldDataset(data_root=str(tmp_path / 'nowhere'))
