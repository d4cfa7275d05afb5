"""Vocabulary: names, colours, phrases and errors."""

import re

import pytest

from mmseg_escnet import ESCNetError, Vocabulary
from mmseg_escnet.datasets import ADE20K847Dataset
from mmseg_escnet.vocabulary import display_names, palette_of, split_synonyms
from mmseg_escnet.words import normalise


@pytest.mark.parametrize(
    ('name', 'synonyms'),
    [
        ('taxi', ('taxi',)),
        ('  wet road ', ('wet road',)),
        ('building, edifice', ('building', 'edifice')),
        ('sofa | couch', ('sofa', 'couch')),
        ('a red, wet road | street', ('a red, wet road', 'street')),
        ('cat,', ('cat',)),
        ('| cat ||dog|', ('cat', 'dog')),
        (' , ', ()),
        ('', ()),
    ],
)
def test_split_synonyms(name, synonyms):
    assert split_synonyms(name) == synonyms


def test_names_as_they_are_shown():
    """Whole if they are short, otherwise cut such that they stay different."""
    short = ['sky | trees', 'sky', 'door, open', 'door, closed', 'twenty-eight characters long']
    assert display_names(short) == short
    long = ['person, individual, someone, somebody', 'a photograph of the colour red']
    assert display_names(long) == ['person, individual, someone…', 'a photograph of the colour…']
    long += ['a photograph of the colour blue', 'a photograph of the colour…']
    assert display_names(long)[1:3] == [
        'a photograph o…he colour red',
        'a photograph o…e colour blue',
    ]
    middle = [f'a photograph of the left hand {side} wall of a house' for side in ('in', 'out')]
    assert display_names([*short, *middle])[5:] == [
        'a photograph of the lef… [5]',
        'a photograph of the lef… [6]',
    ]


def test_published_names_are_shown_differently():
    names = ADE20K847Dataset.METAINFO['classes']
    shown = display_names(names)
    assert len(set(shown)) == 847
    assert all(name.startswith(own.rstrip('…')) for own, name in zip(shown, names, strict=True))


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ([], 'empty'),
        ((), 'empty'),
        ('taxi', "not 'taxi'"),
        (None, 'not None'),
        ({'taxi', 'road'}, 'must be a list'),
        (iter(['taxi']), 'must be a list'),
        (['taxi', 3], 'Class name 1 of the vocabulary must be a string, not 3 of type int'),
        (['taxi', None], 'type NoneType'),
        ([b'taxi'], 'type bytes'),
        (['taxi', ''], "Class name 1 of the vocabulary, '', contains no word"),
        ([' \t'], 'contains no word'),
        ([','], 'contains no word'),
        (['taxi', 'road', 'taxi'], r"'taxi' .* twice \(classes 0 and 2\)"),
        (['taxi', ' Taxi '], 'twice'),
        (['wet road', 'wet  Road'], 'twice'),
        (['sofa | couch', 'Sofa,couch'], 'twice'),
        (['caf\u00e9', 'cafe\u0301'], 'twice'),
        (['taxi', '\uff54\uff41\uff58\uff49'], 'twice'),
        (['salt & pepper', 'salt &amp; pepper'], 'twice'),
    ],
)
def test_refused(names, message):
    with pytest.raises(ESCNetError, match=message):
        Vocabulary.create(names)


# Zero width space, variation selectors, Hangul fillers, braille blank, soft hyphen, BOM, marks of
# direction, word joiner, Mongolian, Khmer, grapheme joiner, separator, tag, unassigned.
UNSEEN = (
    '\u200b \ufe0f \U000e0101 \u3164 \uffa0 \u115f \u2800 \xad \ufeff \u200f \u2066 \u061c \u2060 '
)
UNSEEN += '\u180b \u180e \u17b4 \u034f \u2063 \U000e0064 \ufff3'


@pytest.mark.parametrize('unseen', UNSEEN.split(), ids=ascii)
def test_characters_that_nobody_sees(unseen):
    """Alone they are no word, within one no other word, and messages spell them out."""
    escaped = re.escape(ascii(unseen)[1:-1])
    for name in (unseen, f' {unseen} {unseen}', f'{unseen}|{unseen}', f'{unseen}\u0301'):
        with pytest.raises(ESCNetError, match=f'{escaped}.*contains no word'):
            Vocabulary.create(['taxi', name])
    with pytest.raises(ESCNetError, match='contains no word'):
        Vocabulary.create(['taxi'], phrases=[['cab', unseen]])
    assert split_synonyms(f'{unseen} | sofa, couch |{unseen}') == ('sofa, couch',)
    for name in (f'wet {unseen}road', f'{unseen}Wet road', f'sky {unseen}| wet road{unseen}'):
        with pytest.raises(ESCNetError, match=f'{escaped}.*is listed twice'):
            Vocabulary.create(['wet road', 'sky | wet road', name])
        assert Vocabulary.create([name]).names == (name,)  # as it is for CLIP
        assert Vocabulary.create(['dog', name]).find('wet road') == 1
        assert Vocabulary.create(['dog', 'wet road']).find(f'wet road{unseen}') == 1
    assert normalise(f'pot{unseen}-ted plant{unseen}') == normalise('Potted plant')


def test_words_that_are_made_with_joiners():
    """Emoji, Persian, Devanagari, accents: CLIP gets them as they are, and they are alike."""
    pairs = {
        '\u2764\ufe0f': '\u2764',
        '\U0001f468\u200d\U0001f469\u200d\U0001f467': '\U0001f468\U0001f469\U0001f467',
        '\u0645\u06cc\u200c\u0634\u0648\u062f': '\u0645\u06cc\u0634\u0648\u062f',
        '\u0915\u094d\u200d\u0937': '\u0915\u094d\u0937',
        'cafe\u034f\u0301': 'caf\u00e9',
    }
    vocabulary = Vocabulary.create(list(pairs))
    assert vocabulary.synonyms == tuple((name,) for name in pairs)
    for index, (name, alike) in enumerate(pairs.items()):
        assert vocabulary.find(alike) == index
        with pytest.raises(ESCNetError, match='listed twice'):
            Vocabulary.create([name, alike])


def test_names_are_kept_in_order():
    names = [' zebra', 'Ant', 'building, edifice ', 'bird', 'Zebra crossing']
    vocabulary = Vocabulary.create(names)
    assert vocabulary.names == ('zebra', 'Ant', 'building, edifice', 'bird', 'Zebra crossing')
    assert len(vocabulary) == 5
    assert vocabulary.synonyms == (
        ('zebra',),
        ('Ant',),
        ('building', 'edifice'),
        ('bird',),
        ('Zebra crossing',),
    )


def test_find():
    phrases = [None, ['grass', 'sand'], None, None, None]
    names = ['sofa | couch', 'Ground', 'bus, coach', 'Coach, trainer', 'sky']
    vocabulary = Vocabulary.create(names, phrases=phrases)
    wanted = ('sofa | couch', ' COUCH', 'Ground', 'ground', 'sand', 'Bus', 'sky')
    assert [vocabulary.find(name) for name in wanted] == [0, 0, 1, 1, 1, 2, 4]
    for name, message in (
        ('grund', r"no class 'grund': did you mean 'Ground'\?"),
        ('', "no class '': choose one of 'sofa | couch', 'Ground', "),
        ('coach', r"Several .* 'coach': did you mean 'bus, coach' or 'Coach, trainer'\?"),
    ):
        with pytest.raises(ESCNetError, match=message.replace('|', '.')):
            vocabulary.find(name)


def test_a_shared_synonym_is_no_duplicate():
    assert len(Vocabulary.create(['bus, coach', 'coach', 'coach, bus'])) == 3


def test_colours():
    """A colour that changes between releases would make old pictures unreadable: one is pinned."""
    vocabulary = Vocabulary.create(['cat', 'dog', 'sky'])
    assert list(map(list, vocabulary.palette)) == palette_of(['cat', 'dog', 'sky'])
    assert vocabulary.palette[0] == (0, 136, 255)
    assert all(type(value) is int for color in vocabulary.palette for value in color)


def test_given_palette():
    vocabulary = Vocabulary.create(['cat', 'dog'], [[1, 2, 3], (4.0, 5, 6)])
    assert vocabulary.palette == ((1, 2, 3), (4, 5, 6))
    palette = [[1, 2, 3], [4, 5, 6]]
    assert vocabulary.dataset_meta == dict(classes=('cat', 'dog'), palette=palette)
    with pytest.raises(ESCNetError, match='1 colours for 2 class names'):
        Vocabulary.create(['cat', 'dog'], [[1, 2, 3]])


def test_phrases_replace_names():
    names, phrases = (
        ['taxi', 'sofa | couch', 'wet road'],
        [['a yellow cab, empty'], None, ['x', 'y ']],
    )
    vocabulary = Vocabulary.create(names, phrases=phrases)
    assert vocabulary.names == tuple(names)
    assert vocabulary.synonyms == (('a yellow cab, empty',), ('sofa', 'couch'), ('x', 'y'))
    assert vocabulary.palette == Vocabulary.create(names).palette
    assert vocabulary != Vocabulary.create(names)


@pytest.mark.parametrize(
    ('names', 'phrases', 'message'),
    [
        (['a', 'b'], [['x']], 'phrases for 1 classes, but 2 class names'),
        (['a'], [[]], "A phrase of class 'a' contains no word"),
        (['a'], [['x', ' ']], "A phrase of class 'a' contains no word"),
        (['a'], ['x'], "The phrases of class 'a' must be a list of strings"),
        (['a'], [[3]], 'must be a list of strings'),
        (['a'], [3], 'must be a list of strings'),
        (['a', 'b'], [['x'], ['X']], "'b' is listed twice"),
        (['a', 'A'], [['x'], ['y']], "'A' is listed twice"),
        (['a', 'b'], [['b'], None], "'b' is listed twice"),
        (['a'], [['x' * 1001]], 'a phrase of 1001 characters'),
    ],
)
def test_invalid_phrases(names, phrases, message):
    with pytest.raises(ESCNetError, match=message):
        Vocabulary.create(names, phrases=phrases)


@pytest.mark.parametrize('name', ['a\x00b', 'wet\nroad', 'a\x1b[31mb', 'a\x85b', 'a\ud800b'])
def test_control_characters_are_refused(name):
    for kwargs in (dict(names=[name]), dict(names=['a'], phrases=[[name]])):
        with pytest.raises(ESCNetError, match='contains a control character'):
            Vocabulary.create(**kwargs)


def test_any_script_is_allowed():
    names = ['café', '出租车', 'ταξί', '<b>', 'a "b"', 'क्षि', '🚕']
    assert Vocabulary.create(names).names == tuple(names)


def test_long_names_are_cut_in_messages():
    with pytest.raises(ESCNetError) as caught:
        Vocabulary.create(['x' * 100_000])
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize('palette', [[(1, 2)], [(999, -2, 3)]])
def test_invalid_colours(palette):
    with pytest.raises(ESCNetError, match=r"colour .* of class 'cat' must be"):
        Vocabulary.create(['cat'], palette=palette)
