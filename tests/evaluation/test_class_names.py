"""Which class is seen: names are compared by their words, and synonyms count."""

import pytest

from mmseg_escnet.datasets import vocabulary_names
from mmseg_escnet.evaluation.class_names import describe_split, match_classes
from mmseg_escnet.vocabulary import split_synonyms
from mmseg_escnet.words import normalise


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        ('potted plant', 'pottedplant'),
        ('Potted-Plant ', 'potted_plant'),
        ('building-other', 'building'),
        ('door-stuff', 'door'),
        ('airplane', 'aeroplane'),
        ('tv', 'television receiver'),
        ('tv', 'tvmonitor'),
    ],
)
def test_same(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ('one', 'other'),
    [('wall', 'wallet'), ('floor-wood', 'floor-other'), ('other', 'stuff'), ('bus', 'bus stop')],
)
def test_different(one, other):
    assert normalise(one) != normalise(other)


def test_match_classes():
    classes = ['sofa, couch, lounge', 'cell, jail cell', 'red wine | grape', 'vase', 'screen, crt']
    names = ['crt | tube', 'couch', 'cell phone', 'Grape, fruit', 'monitor | crt', 'wine | sofa']
    assert match_classes(classes, names) == ['couch', None, 'Grape, fruit', None, 'crt | tube']


def test_every_class_is_seen_by_its_own_vocabulary():
    for name in ('coco_stuff171', 'ade847', 'pc459', 'toyworld_large'):
        names = vocabulary_names(name)
        matches = match_classes(names, names)
        for own, match in zip(names, matches, strict=True):
            shared = set(map(normalise, split_synonyms(own)))
            assert shared & set(map(normalise, split_synonyms(match))), own
    # names of COCO-Stuff do not run into each other
    names = vocabulary_names('coco_stuff171')
    assert match_classes(names, names) == list(names)


@pytest.mark.parametrize(
    ('benchmark', 'seen', 'is_seen', 'is_unseen'),
    [
        ('voc20', 20, ['tvmonitor', 'diningtable'], []),
        ('pc59', 53, ['building', 'sofa', 'shelves'], ['bag', 'computer', 'plate', 'track']),
        ('ade150', 62, ['windowpane', 'television receiver'], ['armchair', 'sconce', 'plate']),
        ('pc459', 94, ['wineglass', 'firehydrant'], ['accordion', 'glass', 'bedclothes']),
    ],
)
def test_benchmarks_against_coco_stuff(benchmark, seen, is_seen, is_unseen):
    names = vocabulary_names(benchmark)
    found = dict(zip(names, match_classes(names, vocabulary_names('coco_stuff171')), strict=True))
    assert sum(match is not None for match in found.values()) == seen
    assert all(found[name] is not None for name in is_seen)
    assert all(found[name] is None for name in is_unseen)


def test_describe_split():
    classes = ['disc, red disc', 'wood', 'sea, ocean', 'a very long name ' * 6]
    text = describe_split(classes, ['red disc', 'Wood', None, None])
    assert text.splitlines()[:3] == [
        'seen in training: 2 of 4 classes',
        '    disc (red disc), wood',
        'unseen: 2 of 4 classes',
    ]
    assert len(text.splitlines()) == 5
    assert max(map(len, text.splitlines())) <= 100
    assert describe_split(['a'], ['a']).splitlines()[-1] == 'unseen: 0 of 1 classes'
