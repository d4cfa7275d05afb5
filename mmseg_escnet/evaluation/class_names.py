"""Which classes of a data set have a name in another vocabulary, such as that of training."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from ..vocabulary import split_synonyms

# COCO-Stuff marks names that a thing or a finer class has too: 'building-other', 'door-stuff'.
_SUFFIXES = ('-other', '-stuff')
# One thing, called one way by COCO-Stuff and another way by ADE20K, PASCAL VOC and its Context.
_SAME = (
    ('airplane', 'aeroplane'),
    ('motorcycle', 'motorbike'),
    ('couch', 'sofa'),
    ('tv', 'tvmonitor', 'television receiver'),
    ('pavement', 'sidewalk'),
    ('shelf', 'shelves'),
    ('window', 'windowpane'),
)
_WIDTH = 100


def normalise(name: str) -> str:
    """What two spellings of one name have in common.

    Case, spaces, hyphens and underscores do not count ('potted plant', 'pottedplant'), nor do the
    endings '-other' and '-stuff' of COCO-Stuff ('building-other' is a building). A short list of
    words that the benchmarks use for the same thing ('aeroplane', 'airplane') is brought together.

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


def match_classes(classes: Sequence[str], names: Sequence[str]) -> list[str | None]:
    """Find the classes that have a synonym in common with one of some names.

    Args:
        classes: N class names; each may hold synonyms (see ``split_synonyms``).
        names: Class names to look in, with synonyms likewise.

    Returns:
        For each of the N classes the first of ``names`` that it matches, None for none.
    """
    known: dict[str, str] = {}
    for name in names:
        for synonym in split_synonyms(name):
            known.setdefault(normalise(synonym), name)
    return [
        next(
            (known[key] for key in map(normalise, split_synonyms(name)) if key in known),
            None,
        )
        for name in classes
    ]


def describe_split(classes: Sequence[str], matches: Sequence[str | None]) -> str:
    """Lines that say which classes are seen, and under which other name, and which are not.

    Args:
        classes: N class names.
        matches: As :func:`match_classes` returns them.
    """
    seen = [
        first if normalise(match) == normalise(first) else f'{first} ({match})'
        for name, match in zip(classes, matches, strict=True)
        if match is not None
        for first in split_synonyms(name)[:1]
    ]
    unseen = [
        split_synonyms(name)[0]
        for name, match in zip(classes, matches, strict=True)
        if match is None
    ]
    lines = []
    for title, names in (('seen in training', seen), ('unseen', unseen)):
        lines.append(f'{title}: {len(names)} of {len(classes)} classes')
        lines += textwrap.wrap(
            ', '.join(names),
            _WIDTH,
            initial_indent='    ',
            subsequent_indent='    ',
            break_on_hyphens=False,
        )
    return '\n'.join(lines)
