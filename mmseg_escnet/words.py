"""Compare words: different spellings of one word are equal."""

from __future__ import annotations

import re
import unicodedata

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


def normalise(name: str) -> str:
    """A key that is equal for different spellings of a name.

    It ignores case, spaces, hyphens and underscores ('potted plant', 'pottedplant') and the
    suffixes '-other' and '-stuff' of COCO-Stuff ('building-other' is a building), and maps the
    different words of the benchmarks for one thing ('aeroplane', 'airplane') to one key.

    Args:
        name: One name without synonyms.
    """
    name = name.strip().lower()
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    key = re.sub(r'[\s_-]+', '', name)
    return _CANONICAL.get(key, key)


_CANONICAL: dict[str, str] = {}
_CANONICAL.update({normalise(other): normalise(same[0]) for same in _SAME for other in same})


def tokens(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, whatever separates them, as :func:`normalise` has them."""
    visible = ''.join(char for char in text if unicodedata.category(char) != 'Cf')
    folded = unicodedata.normalize('NFKC', visible).casefold()
    return tuple(map(normalise, re.findall(r'[^\W\d_]+', folded)))


def is_form_of(token: str, word: str) -> bool:
    """Whether a token is an English noun in the singular or its regular plural."""
    plurals = (f'{word}s', f'{word}es', f'{word[:-1]}ies' if word.endswith('y') else word)
    return token == word or token in plurals
