"""What people fill in on the page, and the scenes that they may begin with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ESCNetError
from ..toyworld.scenes import scene

BackgroundKind = Literal['none', 'words', 'score']

_MOST_CHARACTERS = 1_000_000
_WORLD = 0
_SCENES = {  # numbers of scenes that training has not seen, and their words
    1_000_000: 'yellow heart, orange ring, wood, sea | water',
    1_000_008: 'red heart, orange star, cyan star, grass | lawn, fabric',
    1_000_002: 'green triangle, yellow square, cyan heart, white heart, fabric',
    1_000_022: 'yellow star, yellow ring, yellow heart, purple circle, tiles',
    1_000_011: 'purple moon, cyan hoop, brick',
    1_000_014: 'blue plus, yellow moon, orange heart, brick, timber',
}


@dataclass(frozen=True)
class Example:
    """A picture and words for it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        words: As they are typed.
    """

    image: np.ndarray
    words: str


def toy_examples() -> list[Example]:
    """Scenes of the toy world, with their words."""
    return [Example(scene(_WORLD, number)[0], words) for number, words in _SCENES.items()]


def split_words(text: str) -> list[str]:
    """The words between commas and on the lines of a text; bars within a word stay.

    Raises:
        ESCNetError: If there are none, or the text is longer than any list of words.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ESCNetError(
            f'The words have {len(text)} characters, and at most {_MOST_CHARACTERS} are taken: '
            'leave some out.'
        )
    words = [word.strip() for word in re.split(r'[,\r\n]', text) if word.strip()]
    if not words:
        raise ESCNetError('There are no words: type what to look for, one on each line.')
    return words


def choose_background(kind: BackgroundKind, words: str, below: float) -> str | float | list | None:
    """The background as :meth:`.query.Query.create` takes it.

    Args:
        kind: 'none', 'words' or 'score'.
        words: For 'words': as they are typed; the common ones if there are none.
        below: For 'score': what scores lower is background.
    """
    if kind == 'none':
        return None
    if kind == 'score':
        return below
    return split_words(words) if words.strip() else 'other'
