"""What is asked of an image: classes, what stands for them, and what is none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ..errors import ESCNetError
from ..vocabulary import MAX_WORDS, Vocabulary, normalise_classes, read_classes

# Ours: the ground, the sky and what stands around, which most questions are not about.
COMMON_BACKGROUND = (
    *('sky', 'wall', 'floor', 'ceiling', 'ground', 'road', 'grass', 'tree', 'bush', 'water'),
    *('sand', 'snow', 'rock', 'mountain', 'building', 'window', 'door', 'fence', 'furniture'),
)
_OTHER = 'other'
_OTHER_COLOR = (128, 128, 128)
_MOST_CLASSES = 65_535  # ids of 16 bits, of which one stands for no class


@dataclass(frozen=True)
class Query:
    """What is asked of an image.

    The model is asked for M words: K classes, then the words of the background. The answer has
    N = K classes, or N = K + 1 with the background as the last one.

    Attributes:
        vocabulary: The M words.
        num_asked: K.
        background: Name of the background class; None if there is none.
        background_below: Pixels that score lower belong to the background; None for no such bound.
        threshold: Pixels that score lower have no class; None for no such bound.
    """

    vocabulary: Vocabulary
    num_asked: int
    background: str | None = None
    background_below: float | None = None
    threshold: float | None = None

    @classmethod
    def create(
        cls,
        classes: Sequence[str] | Mapping[str, object] | Vocabulary | os.PathLike,
        *,
        background: str | float | Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        threshold: float | None = None,
        max_words: int = MAX_WORDS,
    ) -> Query:
        """Check what is asked.

        Args:
            classes: Names, each with synonyms between bars if it has any ('sofa | couch'); or name
                -> phrases that stand for it; or the path of a file of them (:func:`read_classes`).
            background: What is none of the classes. A text is the name of a further class, for
                which the words of ``COMMON_BACKGROUND`` stand, those apart that occur in a class;
                a list holds words of its own (the class is called 'other'); name -> words is both;
                a number is a score, and what scores lower belongs to the class 'other'. None for
                no such class: then every pixel is one of ``classes``.
            threshold: Pixels that score lower have no class.
            max_words: The most names and phrases that are taken.

        Raises:
            ESCNetError: If one of them is not usable.
        """
        if isinstance(classes, os.PathLike):
            classes = read_classes(classes, max_words=max_words)
        if isinstance(classes, Vocabulary):
            asked = classes
        else:
            found = normalise_classes(classes, max_words=max_words)
            asked = Vocabulary.create(list(found), phrases=list(found.values()))
        if len(asked) >= _MOST_CLASSES:
            raise ESCNetError(
                f'There are {len(asked)} classes, and label maps have ids for less than '
                f'{_MOST_CLASSES}: ask in several calls.'
            )
        _check_score(threshold, 'threshold')
        if background is None:
            return cls(asked, len(asked), threshold=threshold)
        if isinstance(background, Real):
            _check_score(background, 'background')
            _check_name(_OTHER, asked)
            return cls(asked, len(asked), _OTHER, float(background), threshold)
        name, words = _background_words(background, asked)
        _check_name(name, asked)
        found = normalise_classes(words, max_words=max_words - len(asked))
        words = Vocabulary.create(list(found))
        both = Vocabulary.create(
            asked.names + words.names,
            asked.palette + words.palette,
            asked.synonyms + words.synonyms,
        )
        return cls(both, len(asked), name, None, threshold)

    @property
    def classes(self) -> Vocabulary:
        """The N classes of the answer in the order asked for; a background is last, and grey."""
        words, count = self.vocabulary, self.num_asked
        asked = words.names[:count], words.palette[:count], words.synonyms[:count]
        if self.background is None:
            return Vocabulary(*asked)
        last = self.background, _OTHER_COLOR, (self.background,)
        return Vocabulary(*((*those, this) for those, this in zip(asked, last, strict=True)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the N classes of the answer."""
        return self.classes.names

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colours of the N classes of the answer."""
        return self.classes.palette

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """What stands for each of the N classes; nothing for a background that is a low score."""
        synonyms = self.vocabulary.synonyms
        asked = synonyms[: self.num_asked]
        if self.background is None:
            return asked
        return (*asked, tuple(word for words in synonyms[self.num_asked :] for word in words))

    @property
    def dtype(self) -> type:
        """Type of label maps: ``numpy.uint8`` if that holds N ids and :attr:`no_class`."""
        return np.uint8 if len(self.names) <= 255 else np.uint16

    @property
    def no_class(self) -> int:
        """Id of pixels below the threshold: the largest of :attr:`dtype`, 255 or 65535."""
        return int(np.iinfo(self.dtype).max)


def _background_words(
    background: str | Sequence[str] | Mapping[str, Sequence[str]], asked: Vocabulary
) -> tuple[str, Sequence[str]]:
    if isinstance(background, str):
        if {',', '|'} & set(background) or background.strip().lower() in COMMON_BACKGROUND:
            raise ESCNetError(
                f'background={background!r} must be a name, such as {_OTHER!r}: words of the '
                "background are given in a list, such as ['sky', 'wall']."
            )
        taken = {
            part for words in asked.synonyms for word in words for part in word.lower().split()
        }
        return background.strip(), [word for word in COMMON_BACKGROUND if word not in taken]
    if isinstance(background, Mapping):
        if len(background) != 1 or not isinstance(next(iter(background)), str):
            raise ESCNetError(
                "A background with a name must be one name with its words, such as {'other': "
                "['sky', 'wall']}."
            )
        ((name, words),) = background.items()
        return name.strip(), words
    return _OTHER, background


def _check_name(name: str, asked: Vocabulary) -> None:
    Vocabulary.create([name])
    if name.lower() in (other.lower() for other in asked.names):
        raise ESCNetError(
            f'{name!r} is a class and the name of the background: give the background another '
            "name, such as {'background': ['sky', 'wall']}."
        )


def _check_score(value: float | None, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value <= 1:
        raise ESCNetError(
            f'{what}={value!r} is no score: scores are probabilities, so give a number above 0 '
            'and up to 1.'
        )
