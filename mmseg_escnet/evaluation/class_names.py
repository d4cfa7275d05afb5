"""Match the classes of a data set with another vocabulary, such as that of training."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from ..vocabulary import split_synonyms

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
_WIDTH = 100


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


def match_classes(classes: Sequence[str], names: Sequence[str]) -> list[str | None]:
    """Find the classes that have a synonym in common with one of ``names``.

    Args:
        classes: N class names, possibly with synonyms (see ``split_synonyms``).
        names: Class names to match, likewise.

    Returns:
        For each of the N classes the first matching name, or None.
    """
    known: dict[str, str] = {}
    for name in names:
        for synonym in split_synonyms(name):
            known.setdefault(normalise(synonym), name)
    keys = (map(normalise, split_synonyms(name)) for name in classes)
    return [next((known[key] for key in own if key in known), None) for own in keys]


def describe_split(classes: Sequence[str], matches: Sequence[str | None]) -> str:
    """Lists the classes that are seen, with their other names, and those that are unseen.

    Args:
        classes: N class names.
        matches: As returned by :func:`match_classes`.
    """
    seen, unseen = [], []
    for name, match in zip(classes, matches, strict=True):
        first = split_synonyms(name)[0]
        if match is None:
            unseen.append(first)
        else:
            seen.append(first if normalise(match) == normalise(first) else f'{first} ({match})')
    lines = []
    for title, names in (('seen in training', seen), ('unseen', unseen)):
        lines.append(f'{title}: {len(names)} of {len(classes)} classes')
        text = textwrap.fill(', '.join(names), _WIDTH - 4, break_on_hyphens=False)
        lines += textwrap.indent(text, '    ').splitlines()
    return '\n'.join(lines)
