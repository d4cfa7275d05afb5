"""The words of the toy world: what it contains, and which classes are annotated for training.

Its vocabularies are in ``datasets/vocabularies/toyworld_*.json``. Two kinds of names have no masks
in training: *unseen combinations* of a colour and a shape that each occur in other masks (two of
every eight, so every annotated shape has six colours), and *unseen attributes*, names with a shape
(ring, heart) or texture (wood, tiles) that no mask shows. The large vocabulary adds words for
things that never occur.
"""

from __future__ import annotations

import numpy as np

from ..datasets.benchmark_vocabularies import vocabulary_names

IGNORE_INDEX = 255

COLORS: dict[str, tuple[int, int, int]] = {
    'red': (222, 40, 42),
    'green': (38, 190, 70),
    'blue': (48, 72, 226),
    'yellow': (246, 224, 44),
    'purple': (142, 46, 190),
    'orange': (250, 134, 22),
    'cyan': (50, 214, 224),
    'white': (244, 244, 246),
}
SHAPES = ('circle', 'square', 'triangle', 'star', 'cross', 'ring', 'heart', 'crescent')
TEXTURES: dict[str, tuple[int, int, int]] = {  # name -> mean colour
    'brick': (150, 74, 58),
    'grass': (70, 104, 44),
    'sand': (196, 172, 124),
    'water': (40, 92, 128),
    'wood': (122, 84, 50),
    'stone': (122, 122, 126),
    'tiles': (168, 184, 178),
    'fabric': (118, 76, 104),
}
SYNONYMS = {  # captions use either word
    'circle': 'disc',
    'square': 'box',
    'star': 'asterisk',
    'cross': 'plus',
    'ring': 'hoop',
    'crescent': 'moon',
    'grass': 'lawn',
    'water': 'sea',
    'wood': 'timber',
    'stone': 'cobbles',
}


def vocabulary_of(key: str) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
        key: ``'all'`` (72 names), ``'seen'`` (the 42 with masks in training), ``'large'`` ('all'
            with synonyms, then words for what never occurs), or a group of 'all':
            ``'unseen_combination'`` (12), ``'unseen_attribute'`` (18), ``'seen_things'``,
            ``'seen_stuff'``.

    Raises:
        ESCNetError: If there is no such vocabulary.
    """
    return vocabulary_names(f'toyworld_{key}')


ALL_NAMES = vocabulary_of('all')
THING_NAMES = ALL_NAMES[: -len(TEXTURES)]
SEEN_NAMES = vocabulary_of('seen')
UNSEEN_NAMES = vocabulary_of('unseen_combination')
UNSEEN_ATTRIBUTE_NAMES = vocabulary_of('unseen_attribute')
LARGE_NAMES = tuple(name.split(' | ')[0] for name in vocabulary_of('large'))
EVERYDAY_WORDS = tuple(name for name in LARGE_NAMES[len(ALL_NAMES) :] if ' ' not in name)


def with_synonyms(name: str) -> str:
    """The name with its synonyms: 'red circle' -> 'red circle | red disc'."""
    *color, noun = name.split()
    if noun not in SYNONYMS:
        return name
    return ' | '.join((name, ' '.join([*color, SYNONYMS[noun]])))


def to_seen_ids(label: np.ndarray) -> np.ndarray:
    """Map ids of the vocabulary 'all' to ids of 'seen'; classes without masks become 255.

    Args:
        label: (height, width), uint8.

    Returns:
        (height, width), uint8.
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for new_id, name in enumerate(SEEN_NAMES):
        table[ALL_NAMES.index(name)] = new_id
    return table[label]
