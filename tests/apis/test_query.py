"""Notes of a query on what has no effect, against label maps of random scores."""

import numpy as np
import pytest
import torch

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import Query
from mmseg_escnet.cli import parse_background
from mmseg_escnet.vocabulary import display_names


def labels_of(query: Query, phrases: int) -> np.ndarray:
    """Of random probabilities of M words, with the equal ones that score lowest of all."""
    scores = torch.rand(phrases, 40, 50, generator=torch.Generator().manual_seed(0)).softmax(0)
    scores[:, 0] = 1 / phrases
    best, ids = scores.max(0)
    return query.assign_classes(ids, best)[0]


@pytest.mark.parametrize('count', [1, 2, 3, 7, 30])
@pytest.mark.parametrize('argument', ['background', 'threshold'])
def test_a_value_is_noted_exactly_if_it_cannot_act(count, argument):
    names = [f'word {number}' for number in range(count)]
    plain = labels_of(Query.create(names), count)
    for value in (0.4 / count, 1 / count, 1 / count + 0.001, 0.7):
        if value > 1:
            continue
        query = Query.create(names, **{argument: value})
        noted = any(f'{argument}={value:g} has no effect' in note for note in query.notes())
        assert noted == (labels_of(query, count) == plain).all()


def test_phrases_that_compete_count_each():
    query = Query.create({'seat': ['sofa', 'couch', 'bench'], 'floor': None}, threshold=0.4)
    assert 'the best of 2 words scores at least 1/2' in query.notes('mean')[0]
    assert query.notes('first') == query.notes('mean')
    assert query.notes('max') == [], 'the best of 4 phrases may score 0.25'


def test_a_background_of_words_counts():
    assert Query.create(['taxi', 'bus'], threshold=0.4).notes()
    assert not Query.create(['taxi', 'bus'], background=['sky'], threshold=0.4).notes()


def test_a_threshold_that_hides_the_background():
    (note,) = Query.create(['a', 'b', 'c'], background=0.5, threshold=0.6).notes()
    assert 'background=0.5 has no effect' in note
    assert not Query.create(['a', 'b', 'c'], background=0.6, threshold=0.5).notes()


@pytest.mark.parametrize(
    ('text', 'names', 'words'),
    [
        ('wood, water', ('wood', 'water'), (('wood',), ('water',))),
        (
            'wet road\nsofa | bed',
            ('wet road', 'sofa | bed'),
            (('wet road',), ('sofa', 'bed')),
        ),
        ('above: sky | trees,taxi,', ('above', 'taxi'), (('sky', 'trees'), ('taxi',))),
        (
            ['at 10:30', 'sea: a lake, a pond'],
            ('at 10:30', 'sea'),
            (('at 10:30',), ('a lake, a pond',)),
        ),
        ('sky:', ('sky',), (('sky',),)),
    ],
)
def test_classes_as_they_are_typed(text, names, words):
    """As one string, and in a list: the same names everywhere."""
    query = Query.create(text)
    assert (query.names, query.words) == (names, words)
    assert query.record()['names'] == names


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (' , ', 'There are no classes'),
        ('words.yaml', "'words.yaml' is the name of a file, not of a class: give Path"),
        ('wood, Wood', 'is listed twice'),
        ('sky: a, sky: b', "'sky' is listed twice"),
    ],
)
def test_typed_classes_that_cannot_be_used(text, message):
    with pytest.raises(ESCNetError, match=message):
        Query.create(text)


@pytest.mark.parametrize('typed', ['g: wood, water', 'g: wood | water', 'g:  wood,water'])
def test_a_typed_background_with_a_name(typed):
    query = Query.create('above: sky | trees', background=parse_background(typed))
    assert query.names == ('above', 'g')
    assert query.words == (('sky', 'trees'), ('wood', 'water'))
    assert parse_background('wood, water') == ['wood', 'water']
    assert parse_background('0.5') == 0.5


@pytest.mark.parametrize('suffix', ['.txt', '.json', '.yaml'])
def test_a_class_has_one_name_wherever_it_is_given(suffix, tmp_path):
    """In a file of classes, a list, a mapping or a string; in files of names and in pictures."""
    path = tmp_path / f'classes{suffix}'
    path.write_text(
        {
            '.txt': 'above: sky | trees\ntaxi\n',
            '.json': '["above: sky | trees", "taxi"]',
            '.yaml': 'above: sky | trees\ntaxi:\n',
        }[suffix]
    )
    given = [path, ['above: sky | trees', 'taxi'], {'above': 'sky | trees', 'taxi': None}]
    for classes in (*given, 'above: sky | trees, taxi'):
        query = Query.create(classes)
        assert query.names == query.record()['names'] == ('above', 'taxi')
        assert query.words == (('sky', 'trees'), ('taxi',))
        assert query.palette == Query.create(path).palette
        assert display_names(query.names) == ['above', 'taxi']
