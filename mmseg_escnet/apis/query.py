"""What images are segmented into: classes, the words that stand for them, and a background."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from torch import Tensor

from ..class_files import read_classes
from ..colors import BACKGROUND
from ..errors import ESCNetError
from ..vocabulary import MAX_WORDS, Vocabulary, normalise_classes, shown, split_words
from ..words import is_form_of, normalise, tokens

# Ours: the ground, the sky and other surroundings, which most queries are not about.
COMMON_BACKGROUND = (
    *('sky', 'wall', 'floor', 'ceiling', 'ground', 'road', 'grass', 'tree', 'bush', 'water'),
    *('sand', 'snow', 'rock', 'mountain', 'building', 'window', 'door', 'fence', 'furniture'),
)
_OTHER = 'other'
_MOST_CLASSES = 65_535  # ids of 16 bits, one of which means no class
Background = str | float | Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class Query:
    """What images are segmented into.

    The model scores M words: K classes, then the words of the background. Label maps have N = K
    classes, or N = K + 1 with the background as the last one.

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
        classes: str | Sequence[str] | Mapping[str, object] | Vocabulary | os.PathLike,
        *,
        background: Background = None,
        threshold: float | None = None,
        max_words: int = MAX_WORDS,
    ) -> Query:
        """Check the arguments and build a query.

        Args:
            classes: Names, with synonyms between bars ('sofa | couch'), and phrases that stand
                for a name behind a colon ('seat: sofa | couch'); the same as one string with
                commas between the names; or name -> phrases; or the path of a file of them
                (:func:`.class_files.read_classes`).
            background: A class for everything that is none of the classes. A text is its name, for
                which the words of ``COMMON_BACKGROUND`` stand, except those that occur in a class,
                singular or plural and however they are written (``water_sea``, ``"Trees"``);
                a list contains its words (the class is called 'other'); name -> words is both; a
                number is a score, below which pixels belong to the class 'other'. None for no such
                class: then every pixel is one of ``classes``.
            threshold: Pixels that score lower have no class.
            max_words: The maximum number of names and phrases.

        Raises:
            ESCNetError: If an argument cannot be used.
        """
        if isinstance(classes, os.PathLike):
            classes = read_classes(classes, max_words=max_words)
        elif isinstance(classes, str):
            _check_is_no_file(classes)
            classes = split_words(classes)
        asked = _vocabulary(classes, max_words)
        if len(asked) >= _MOST_CLASSES:
            raise ESCNetError(
                f'There are {len(asked)} classes, and label maps have ids for fewer than '
                f'{_MOST_CLASSES}: split them into several queries.'
            )
        _check_score(threshold, 'threshold')
        if background is None:
            return cls(asked, len(asked), threshold=threshold)
        if isinstance(background, Real):
            _check_score(background, 'background')
            name, below, words = _OTHER, float(background), asked
        else:
            name, words = _background_words(background, asked)
            below, words = None, _vocabulary(words, max_words - len(asked))
            words = Vocabulary.create(
                asked.names + words.names,
                asked.palette + words.palette,
                asked.synonyms + words.synonyms,
            )
        Vocabulary.create([name])
        if normalise(name) in {normalise(word) for word in sum(asked.synonyms, asked.names)}:
            raise ESCNetError(
                f'{name!r} is a class and the name of the background: give the background another '
                "name, such as {'background': ['sky', 'wall']}."
            )
        return cls(words, len(asked), name, below, threshold)

    @property
    def classes(self) -> Vocabulary:
        """The N classes of label maps, in the given order; a background is last, and grey."""
        words, count = self.vocabulary, self.num_asked
        columns = words.names[:count], words.palette[:count], words.synonyms[:count]
        if self.background is not None:
            last = self.background, BACKGROUND, (self.background,)
            columns = ((*column, value) for column, value in zip(columns, last, strict=True))
        return Vocabulary(*columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the N classes."""
        return self.classes.names

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colours of the N classes."""
        return self.classes.palette

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The phrases for each of the N classes; none for a background that is a low score."""
        synonyms, count = self.vocabulary.synonyms, self.num_asked
        if self.background is None:
            return synonyms
        return (*synonyms[:count], sum(synonyms[count:], ()))

    @property
    def dtype(self) -> type:
        """Type of label maps: ``numpy.uint8`` if it holds N ids and :attr:`no_class`."""
        return np.uint8 if len(self.names) <= 255 else np.uint16

    @property
    def no_class(self) -> int:
        """Id of pixels below the threshold: the largest of :attr:`dtype`, 255 or 65535."""
        return int(np.iinfo(self.dtype).max)

    def record(self) -> dict:
        """The meaning of a label map's ids, for a file of names: see :mod:`.label_folder`.

        Returns:
            ``names``, ``first_id`` and ``ignore_index``; ``words`` that stand for each name;
            ``palette`` (R, G, B); ``background``, ``background_below`` and ``threshold``.
        """
        return dict(
            names=self.names,
            first_id=0,
            ignore_index=self.no_class,
            words=self.words,
            palette=self.palette,
            background=self.background,
            background_below=self.background_below,
            threshold=self.threshold,
        )

    def notes(self, synonyms: str | None = 'mean') -> list[str]:
        """What of the query has no effect, a sentence each: values that can never act.

        Args:
            synonyms: How the model combines them: see :meth:`.OpenVocabInferencer.stream`.
        """
        notes = []
        if len(self.names) == 1:
            notes.append(
                f'The only class is {self.names[0]!r}, so every pixel will be assigned to it: '
                'name what else there is with a background.'
            )
        # with 'max', or what a config says, the phrases compete, otherwise the words
        each = synonyms not in ('mean', 'first')
        count = sum(map(len, self.vocabulary.synonyms)) if each else len(self.vocabulary)
        least = (
            f'the best of {count} words scores at least 1/{count}'
            if count > 1
            else ('a single word always scores 1')
        )
        values = dict(background=self.background_below, threshold=self.threshold)
        for name, value in values.items():
            if value is not None and value * count <= 1:
                advice = 'give a higher value' if count > 1 else 'name what else there is'
                notes.append(f'{name}={value:g} has no effect, because {least}: {advice}.')
        below = self.background_below
        if below is not None and self.threshold is not None and self.threshold >= below:
            notes.append(
                f'background={below:g} has no effect, because pixels below '
                f'threshold={self.threshold:g} have no class: give a lower threshold.'
            )
        return notes

    def assign_classes(self, ids: Tensor, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Labels and scores (H, W) from the best of M words and its probability."""
        labels = ids.clamp(max=self.num_asked)  # the words of the background are one class
        if self.background_below is not None:
            labels = labels.masked_fill(scores < self.background_below, self.num_asked)
        if self.threshold is not None:
            labels = labels.masked_fill(scores < self.threshold, self.no_class)
        return labels.numpy().astype(self.dtype), scores.numpy()


Words = str | Sequence[str] | Mapping[str, object] | Vocabulary | os.PathLike | Query


def _vocabulary(classes: Sequence | Mapping | Vocabulary, max_words: int) -> Vocabulary:
    if isinstance(classes, Vocabulary):
        return classes
    found = normalise_classes(classes, max_words=max_words)
    return Vocabulary.create(list(found), phrases=list(found.values()))


def _check_is_no_file(classes: str) -> None:
    if classes.strip().lower().endswith(('.txt', '.json', '.yaml', '.yml')):
        raise ESCNetError(
            f"{shown(classes)} is the name of a file, not of a class: give Path('words.yaml') in "
            'Python, or --classes-file words.yaml.'
        )


def _background_words(
    background: str | Sequence[str] | Mapping[str, Sequence[str]], asked: Vocabulary
) -> tuple[str, Sequence[str]]:
    """Name and words of a background class."""
    if isinstance(background, str):
        said = tokens(background)
        common = [_common(token) for token in said]
        if {',', '|'} & set(background) or (said and all(common)):
            raise ESCNetError(
                f'background={background!r} must be a name, such as {_OTHER!r}: give the words of '
                "the background as a list, such as ['sky', 'wall']."
            )
        if not said:
            raise ESCNetError(
                f'background={background!r} contains no word: give a name, such as {_OTHER!r}, or '
                'a number without quotes.'
            )
        taken = {
            _common(token) for words in asked.synonyms for word in words for token in tokens(word)
        }
        return background.strip(), [word for word in COMMON_BACKGROUND if word not in taken]
    if not isinstance(background, Mapping):
        words = background if isinstance(background, Sequence) else ()
        for word in filter(_is_nearly_a_list, words):
            raise ESCNetError(
                f'{shown(word)} of the background is not one word: separate words with commas, '
                'such as "sky, wall", or in Python give a list of them.'
            )
        return _OTHER, background
    if len(background) != 1 or not isinstance(next(iter(background)), str):
        raise ESCNetError(
            "A background with a name must be one name with its words, such as {'other': "
            "['sky', 'wall']}."
        )
    ((name, words),) = background.items()
    return name.strip(), words


def _is_nearly_a_list(word: object) -> bool:
    """Whether there are common words and other signs than those of synonyms and compounds."""
    plain = not isinstance(word, str) or re.fullmatch(r"[\w\s|,'-]*", word)
    return not plain and all(map(_common, tokens(word) or ('',)))


def _common(token: str) -> str | None:
    return next((word for word in COMMON_BACKGROUND if is_form_of(token, word)), None)


def _check_score(value: float | None, argument: str) -> None:
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value <= 1:
        raise ESCNetError(
            f'{argument}={value!r} is not a score: give a probability, a number above 0 and up '
            'to 1.'
        )
