"""Match the classes of a data set with another vocabulary, such as that of training."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..vocabulary import split_synonyms
from ..words import normalise

_WIDTH = 100


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
