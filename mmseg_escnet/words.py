"""Compare words: different spellings of one word are equal."""

from __future__ import annotations

import re
import unicodedata

# Unicode's Default_Ignorable_Code_Point without the category Cf; and blanks as wide as a letter
_NO_WIDTH = re.compile(
    '[\u034f\u17b4\u17b5\u180b-\u180d\u180f\u2065\ufe00-\ufe0f\ufff0-\ufff8\U000e0000-\U000e0fff]'
)
_BLANK = re.compile('[\u115f\u1160\u2800\u3164\uffa0]')
# COCO-Stuff marks names shared with a thing or a finer class: 'building-other', 'door-stuff'.
_SUFFIXES = ('-other', '-stuff')
# Names of the same thing in COCO-Stuff and in ADE20K, PASCAL VOC and PASCAL-Context.
_SAME = (
    ('airplane', 'aeroplane'),
    ('motorcycle', 'motorbike'),
    ('couch', 'sofa'),
    ('tv', 'tvmonitor', 'television receiver'),
    ('pavement', 'sidewalk'),
    ('shelf', 'shelves'),
    ('window', 'windowpane'),
)


def visible(text: str) -> str:
    """A text without characters that no font draws, and with spaces for those that are blank.

    For comparisons: joiners make words of some scripts and emoji, so CLIP reads them.
    """
    text = _BLANK.sub(' ', _NO_WIDTH.sub('', text))
    return ''.join(char for char in text if unicodedata.category(char) != 'Cf')


def is_visible(text: str) -> bool:
    """Whether a text contains more than spaces, marks, and characters without a glyph."""
    return any(unicodedata.category(char)[0] not in 'CMZ' for char in visible(text))


def folded(text: str) -> str:
    """A key that is equal for texts that look alike but for case and the width of spaces."""
    return ' '.join(unicodedata.normalize('NFC', visible(text)).lower().split())


def normalise(name: str) -> str:
    """A key that is equal for different spellings of a name.

    It ignores case, spaces, hyphens, underscores ('potted plant', 'pottedplant') and what is
    invisible, the suffixes '-other' and '-stuff' of COCO-Stuff ('building-other' is a building),
    and maps the different words of the benchmarks for one thing ('aeroplane', 'airplane') to one
    key.

    Args:
        name: One name without synonyms.
    """
    name = folded(name)
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    key = re.sub(r'[\s_-]+', '', name)
    return _CANONICAL.get(key, key)


_CANONICAL: dict[str, str] = {}
_CANONICAL.update({normalise(other): normalise(same[0]) for same in _SAME for other in same})


def tokens(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, whatever separates them, as :func:`normalise` has them."""
    text = unicodedata.normalize('NFKC', visible(text)).casefold()
    return tuple(map(normalise, re.findall(r'[^\W\d_]+', text)))


def is_form_of(token: str, word: str) -> bool:
    """Whether a token is an English noun in the singular or its regular plural."""
    plurals = (f'{word}s', f'{word}es', f'{word[:-1]}ies' if word.endswith('y') else word)
    return token == word or token in plurals
