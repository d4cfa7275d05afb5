"""The words of the toy world: what there is, what it is called, and whose masks training sees.

Three kinds of names are kept from the masks. A colour and a shape may each be known without their
combination (*unseen*); a whole shape or a whole texture may be (*unseen attribute*); and a large
vocabulary has words for what never occurs at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..errors import ESCNetError

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
TEXTURES: dict[str, tuple[int, int, int]] = {  # name -> colour in pictures of label maps
    'brick': (150, 74, 58),
    'grass': (70, 104, 44),
    'sand': (196, 172, 124),
    'water': (40, 92, 128),
    'wood': (122, 84, 50),
    'stone': (122, 122, 126),
    'tiles': (168, 184, 178),
    'fabric': (118, 76, 104),
}
# Another word for the same thing; captions use either.
SYNONYMS = {
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
HELD_OUT_SHAPES = ('ring', 'heart')
HELD_OUT_TEXTURES = ('wood', 'tiles')


def _is_held_out_combination(color_index: int, shape_index: int) -> bool:
    """Two of every eight, like a Latin square: every shape that is masked has six colours."""
    return (color_index + shape_index) % 8 in (2, 5)


THING_NAMES = tuple(f'{color} {shape}' for color, shape in product(COLORS, SHAPES))
ALL_NAMES = THING_NAMES + tuple(TEXTURES)
UNSEEN_ATTRIBUTE_NAMES = tuple(
    name for name in ALL_NAMES if name.split()[-1] in HELD_OUT_SHAPES + HELD_OUT_TEXTURES
)
UNSEEN_NAMES = tuple(
    f'{color} {shape}'
    for (i, color), (j, shape) in product(enumerate(COLORS), enumerate(SHAPES))
    if _is_held_out_combination(i, j) and shape not in HELD_OUT_SHAPES
)
SEEN_NAMES = tuple(
    name for name in ALL_NAMES if name not in UNSEEN_NAMES and name not in UNSEEN_ATTRIBUTE_NAMES
)
SEEN_STUFF_NAMES = tuple(name for name in TEXTURES if name in SEEN_NAMES)
SEEN_THING_NAMES = tuple(name for name in THING_NAMES if name in SEEN_NAMES)

# Words for what is in no scene. Those of the first two lines share a word with what there is.
_ABSENT_COMBINATIONS = tuple(
    [f'{color} {shape}' for color, shape in product(COLORS, ('hexagon', 'arrow'))]
    + [f'{color} {shape}' for color, shape in product(('pink', 'black'), SHAPES)]
)
_EVERYDAY = (
    'airplane apple armchair backpack banana bear bench bicycle bird boat book bottle bridge bus '
    'candle car carrot cat chair clock cloud computer cow curtain dog donkey door elephant fence '
    'flag flower fork giraffe guitar hammer hat helmet horse house kite knife ladder lamp laptop '
    'leaf mirror motorcycle mountain orchard oven painting person pillow pizza plate rabbit river '
    'road rocket sheep ship shoe sofa spoon stairs suitcase table telephone tower train'
)
EVERYDAY_WORDS = tuple(_EVERYDAY.split())
LARGE_NAMES = ALL_NAMES + _ABSENT_COMBINATIONS + EVERYDAY_WORDS


def with_synonyms(name: str) -> str:
    """The name with its synonyms: 'red circle' -> 'red circle | red disc'."""
    *color, noun = name.split()
    if noun not in SYNONYMS:
        return name
    return ' | '.join((name, ' '.join([*color, SYNONYMS[noun]])))


_VOCABULARIES = {
    'all': ALL_NAMES,
    'seen': SEEN_NAMES,
    'large': tuple(with_synonyms(name) for name in LARGE_NAMES),
    # groups of 'all', over which IoU is averaged
    'unseen_combination': UNSEEN_NAMES,
    'unseen_attribute': UNSEEN_ATTRIBUTE_NAMES,
    'seen_things': SEEN_THING_NAMES,
    'seen_stuff': SEEN_STUFF_NAMES,
}
VOCABULARY_KEYS = tuple(_VOCABULARIES)


def vocabulary_of(key: str) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
        key: ``'all'`` (72 names), ``'seen'`` (the 42 that training has masks of), ``'large'``
            ('all' with synonyms, then words for what never occurs), or a group of 'all':
            ``'unseen_combination'`` (12), ``'unseen_attribute'`` (18), ``'seen_things'``,
            ``'seen_stuff'``.

    Raises:
        ESCNetError: If there is no such vocabulary.
    """
    if key not in _VOCABULARIES:
        raise ESCNetError(
            f'The toy world has no vocabulary {key!r}: choose one of {", ".join(_VOCABULARIES)}.'
        )
    return _VOCABULARIES[key]


def palette_of(names: Sequence[str]) -> list[list[int]]:
    """Colours ``[R, G, B]`` for pictures of label maps; shapes of one colour differ in shade.

    Words for what never occurs are grey.
    """
    palette = []
    for name in names:
        color, _, shape = name.split(' | ')[0].partition(' ')
        if color in TEXTURES:
            palette.append(list(TEXTURES[color]))
        elif color in COLORS and shape in SHAPES:
            shade = 1.0 - 0.07 * SHAPES.index(shape)
            palette.append([round(channel * shade) for channel in COLORS[color]])
        else:
            palette.append([90, 90, 90])
    return palette


def to_seen_ids(label: np.ndarray) -> np.ndarray:
    """Turn ids of the vocabulary 'all' into ids of 'seen'; classes without masks become 255.

    Args:
        label: (height, width), uint8.

    Returns:
        (height, width), uint8.
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for new_id, name in enumerate(SEEN_NAMES):
        table[ALL_NAMES.index(name)] = new_id
    return table[label]
