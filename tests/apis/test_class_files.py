"""Classes from files and in every accepted form, and queries of them."""

import json
import time

import numpy as np
import pytest

from mmseg_escnet import ESCNetError, Vocabulary
from mmseg_escnet.apis import COMMON_BACKGROUND, Query, read_classes
from mmseg_escnet.cli import parse_background
from mmseg_escnet.vocabulary import palette_of

EXPECTED = {'taxi': ('a yellow cab', 'a car, for hire'), 'wet road': None, 'sofa | couch': None}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        (
            'a.txt',
            '# a comment\ntaxi: a yellow cab | a car, for hire\n\n  wet road\nsofa | couch:\n',
        ),
        ('a.TXT', '\ufefftaxi: a yellow cab | a car, for hire\r\nwet road\r\nsofa | couch'),
        ('a.json', json.dumps({k: v and list(v) for k, v in EXPECTED.items()})),
        ('b.json', json.dumps({k: v and ' | '.join(v) for k, v in EXPECTED.items()})),
        (
            'a.yaml',
            'taxi:\n  - a yellow cab\n  - a car, for hire\nwet road:\nsofa | couch: []\n',
        ),
        ('a.yml', 'taxi: a yellow cab | a car, for hire\nwet road: ""\nsofa | couch:\n'),
    ],
)
def test_one_content_in_every_form(write, name, content):
    found = read_classes(write(name, content))
    assert found == EXPECTED
    assert list(found) == list(EXPECTED)


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.txt', 'taxi\nwet road\n'),
        ('a.json', '["taxi", "wet road"]'),
        ('a.yaml', '[taxi, wet road]'),
    ],
)
def test_plain_names(write, name, content):
    assert read_classes(write(name, content)) == {'taxi': None, 'wet road': None}


@pytest.mark.parametrize(
    ('line', 'name', 'phrases'),
    [
        ('"#1 pencil"', '#1 pencil', ('#1 pencil',)),
        ('  "sign: stop":  ', 'sign: stop', ('sign: stop',)),
        ('"sign: stop": a red octagon | STOP', 'sign: stop', ('a red octagon', 'STOP')),
        ('"door, open"', 'door, open', ('door, open',)),
        (r'"a \"big\" dog"', 'a "big" dog', ('a "big" dog',)),
        ('"big" dog', '"big" dog', None),
        ('"big dog', '"big dog', None),
        ('""big"": a dog', '""big""', ('a dog',)),
        ("'#1'", "'#1'", None),
        ('a "big: dog"', 'a "big', ('dog"',)),
    ],
)
def test_quotes(write, line, name, phrases):
    assert read_classes(write('a.txt', f'{line}\ncat\n')) == {name: phrases, 'cat': None}


NESTED = '[x,x]\n' + ''.join(
    f'b{i}: &b{i} [{",".join([f"*b{i - 1}"] * 9)}]\n' for i in range(1, 30)
)
REFUSED = {
    'a.txt': ('taxi\nroad\ntaxi\n', "'taxi' is listed twice"),
    'empty.txt': ('# nothing\n\n', 'There are no classes'),
    'latin.txt': (b'caf\xe9\n', 'is not valid TXT in UTF-8'),
    'many.txt': ('\n'.join(map(str, range(100_000))), 'There are 100000 words .* at most 10000'),
    'large.txt': ('a\n' * 600_000, 'it has 1200000 bytes'),
    'a.csv': ('taxi', 'must end in .txt, .json, .yaml'),
    'a.json': ('["taxi", ]', 'is not valid JSON'),
    'twice.json': ('{"taxi": null, "taxi": null}', "'taxi' is listed twice"),
    'deep.json': ('[' * 100_000, 'is not valid JSON'),
    'text.json': ('"taxi"', 'must be a list of names'),
    'number.json': ('{"taxi": 3}', "phrases of class 'taxi' must be .* not 3"),
    'twice.yaml': ('taxi: a\ntaxi: b\n', "'taxi' is listed twice"),
    'empty.yaml': ('', 'must be a list of names'),
    'no.yaml': ('taxi:\nno: Norway\n', 'Class name False must be a string, not bool: put it in'),
    'date.yaml': ('taxi: 2020-01-01\n', 'not a date'),
    'code.yaml': ('!!python/object/apply:os.system ["true"]\n', 'is not valid YAML'),
    'endless.yaml': ('taxi: &a [*a]\n', 'is not valid YAML'),
    'laughs.yaml': ('b0: &b0 ' + NESTED, "phrases of class 'b1' must be .* not a list"),
    'merges.yaml': ('a: &a {x: b}\nc:\n  <<: *a\n', 'is not valid YAML'),
    'copies.yaml': (
        'a: &a [' + ','.join('x' * 9000) + ']\n' + ''.join(f'k{i}: *a\n' for i in range(5000)),
        'at most 10000',
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_files_that_are_refused(write, name):
    content, message = REFUSED[name]
    path = write(name, content)
    start = time.process_time()
    with pytest.raises(ESCNetError, match=message) as caught:
        read_classes(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700
    assert time.process_time() - start < 20


def test_missing_file(tmp_path):
    with pytest.raises(ESCNetError, match=r'none\.yaml cannot be read \(No such file'):
        read_classes(tmp_path / 'none.yaml')


# -- queries -----------------------------------------------------------------------------


def test_classes_in_every_form(write):
    path = write('a.json', json.dumps({k: v and list(v) for k, v in EXPECTED.items()}))
    for classes in (path, EXPECTED):
        query = Query.create(classes)
        assert query.names == tuple(EXPECTED)
        assert query.words == (EXPECTED['taxi'], ('wet road',), ('sofa', 'couch'))
        assert query.palette == tuple(map(tuple, palette_of(EXPECTED)))
        assert query.vocabulary.synonyms == query.words
    assert Query.create(list(EXPECTED)).names == query.names
    vocabulary = Vocabulary.create(['taxi'], [[1, 2, 3]])
    assert Query.create(vocabulary).palette == ((1, 2, 3),)


def test_no_background():
    query = Query.create(['taxi', 'road'])
    assert (query.background, query.num_asked, query.no_class) == (None, 2, 255)
    assert query.dtype == np.uint8


def test_background_of_words():
    query = Query.create(['taxi', 'road'], background=['sky', 'wall | fence'])
    assert query.names == ('taxi', 'road', 'other')
    assert query.vocabulary.names == ('taxi', 'road', 'sky', 'wall | fence')
    assert query.words[-1] == ('sky', 'wall', 'fence')
    assert query.palette[-1] == (128, 128, 128)
    assert query.palette[:2] == Query.create(['taxi', 'road']).palette
    assert Query.create(['taxi'], background={'rest': ['sky']}).names == ('taxi', 'rest')


def test_common_background_leaves_room_for_the_classes():
    query = Query.create(['wet road', 'taxi', 'sofa | blue sky'], background='other')
    common = query.vocabulary.names[3:]
    assert set(COMMON_BACKGROUND) - set(common) == {'road', 'sky'}
    assert query.names[-1] == 'other'


def test_background_of_a_score():
    query = Query.create(['taxi'], background=0.4)
    assert (query.names, query.words) == (('taxi', 'other'), (('taxi',), ()))
    assert (query.background_below, len(query.vocabulary)) == (0.4, 1)


@pytest.mark.parametrize(('count', 'dtype', 'no_class'), [(255, 'u1', 255), (256, 'u2', 65535)])
def test_ids_have_room_for_no_class(count, dtype, no_class):
    query = Query.create([f'word {number}' for number in range(count)])
    assert query.dtype == np.dtype(dtype)
    assert query.no_class == no_class
    assert query.no_class >= len(query.names)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(background='sky, wall'), 'must be a name'),
        (dict(background='sky'), "must be a name, such as 'other'"),
        (dict(background=''), 'contains no word'),
        (dict(background='Taxi'), "'Taxi' is a class and the name of the background"),
        (dict(background=['sky', 'road']), "'road' is listed twice"),
        (dict(background=[]), 'There are no classes'),
        (dict(background={'a': ['x'], 'b': ['y']}), 'must be one name with its words'),
        (dict(background=7), 'background=7 is not a score'),
        (dict(background=True), 'background=True is not a score'),
        (dict(threshold=0), 'threshold=0 is not a score'),
        (dict(threshold='high'), "threshold='high' is not a score"),
        (dict(threshold=float('nan')), 'is not a score'),
        (dict(background=['x'], max_words=2), 'at most 0'),
        (dict(max_words=1), 'There are 2 words'),
    ],
    ids=str,
)
def test_questions_that_are_refused(kwargs, message):
    with pytest.raises(ESCNetError, match=message):
        Query.create(['taxi', 'road'], **kwargs)


def test_two_classes_of_the_same_phrases():
    with pytest.raises(ESCNetError, match="'b' is listed twice"):
        Query.create({'a': ['cab'], 'b': ['Cab']})


def test_more_classes_than_ids():
    with pytest.raises(ESCNetError, match='label maps have ids for fewer than 65535'):
        Query.create([f'word {number}' for number in range(65_535)], max_words=100_000)


@pytest.mark.parametrize(
    ('asked', 'left_out'),
    [
        ('water_sea', ['water']),
        ('Water-Sea', ['water']),
        ('sea/water', ['water']),
        ('"water"', ['water']),
        ('(salt) water.', ['water']),
        ('waters', ['water']),
        ('river + water2', ['water']),
        ('wa\u200bter', ['water']),
        ('wa\u034fter\u3164', ['water']),
        ('sea\u2800water', ['water']),
        ('\uff37\uff21\uff34\uff25\uff32', ['water']),  # full width
        ('trees', ['tree']),
        ("the trees' roads", ['tree', 'road']),
        ('skies | wet GRASSES', ['sky', 'grass']),
        ('bushes, building-other', ['bush', 'building']),
        ('windowpane', ['window']),
        ('wall-wood', ['wall']),
        ('watermelon', []),
        ('wallet | skier', []),
        ('cafe\u0301', []),
    ],
)
def test_common_words_do_not_compete_with_words_asked_for(asked, left_out):
    query = Query.create(['dog', asked], background='other')
    words = sum(query.vocabulary.synonyms[query.num_asked :], ())
    assert [word for word in COMMON_BACKGROUND if word not in words] == sorted(
        left_out, key=COMMON_BACKGROUND.index
    )
    described = Query.create({'it': [asked]}, background='other')  # phrases count, names do not
    assert set(described.vocabulary.names[1:]) == set(words)


@pytest.mark.parametrize('background', ['trees', 'Sky', 'sky/walls', '"road"', ' ROADS; grass '])
def test_common_words_are_no_name_of_a_background(background):
    with pytest.raises(ESCNetError, match='must be a name, such as'):
        Query.create(['dog'], background=background)


@pytest.mark.parametrize(
    'text', ['sky/wall', 'tree; Roads', 'sky & wall', '[sky, wall]', '("sky", grasses)', 'sky.']
)
def test_words_of_a_background_that_are_nearly_a_list(text):
    with pytest.raises(ESCNetError, match='of the background is not one word: separate words with'):
        Query.create(['dog'], background=parse_background(text))


@pytest.mark.parametrize('text', ['sky-wall', 'snow mountain', 'tv/monitor', 'rock (music)', '...'])
def test_a_word_of_a_background_in_several_parts(text):
    query = Query.create(['dog'], background=parse_background(text))
    assert query.vocabulary.names == ('dog', text)


@pytest.mark.parametrize('background', ['0.5', '0,5', '...', '\u2800', '\u115f\ufe01'])
def test_a_background_without_words(background):
    with pytest.raises(ESCNetError, match=r'(contains no word|must be a name)'):
        Query.create(['dog'], background=background)


@pytest.mark.parametrize('asked', ['other', 'misc | Other', 'OTHER, misc', 'o_t_h_e_r'])
def test_the_background_is_not_called_like_a_class(asked):
    with pytest.raises(ESCNetError, match="'other' is a class and the name of the background"):
        Query.create(['dog', asked], background='other')


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('other', 'other'),
        ('Other', 'other'),
        (' "OTHER" ', 'other'),
        ('0.5', 0.5),
        ('.25', 0.25),
        ('sky,Walls', ['sky', 'Walls']),
        ('8, 9', ['8', '9']),
        ('other, sky', ['other', 'sky']),
        ('\u200f0.5\u200b', 0.5),
        (None, None),
    ],
)
def test_background_of_the_commands(text, expected):
    assert parse_background(text) == expected


@pytest.mark.parametrize('text', ['0,5', ' ,5 ', '50%', '12.5 %', '8,9', '0,5\u200e'])
def test_numbers_with_a_comma_are_no_words(text):
    with pytest.raises(ESCNetError, match='write a score with a point'):
        parse_background(text)
