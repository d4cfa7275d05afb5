"""Vocabulary: the ordered words an image is segmented into."""

from __future__ import annotations

import colorsys
import difflib
import hashlib
import html
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import ftfy

from .errors import ESCNetError

# A name may hold several synonyms; the benchmarks separate them by a comma, people by a bar.
_SYNONYM_SEPARATORS = ('|', ',')
_LONGEST_PHRASE = 1000  # characters; CLIP reads 77 tokens
_SHOWN = 60  # characters of a name in a message
_LONGEST = 28  # characters of a name in a picture
_SUGGESTIONS = 5


def split_synonyms(name: str) -> tuple[str, ...]:
    """Split a class name into its synonyms.

    A bar separates synonyms and, in a name without one, a comma: ``'sofa | couch'`` and
    ``'building, edifice'`` hold two each, ``'a red, wet road | street'`` two as well.

    Args:
        name: A class name as given.

    Returns:
        Its synonyms in order, stripped, empty ones dropped.
    """
    separator = next((s for s in _SYNONYM_SEPARATORS if s in name), None)
    parts = [name] if separator is None else name.split(separator)
    return tuple(part.strip() for part in parts if part.strip())


def name_color(name: str) -> tuple[int, int, int]:
    """A colour that depends on the name alone, so it stays when other words come or go (ours).

    Args:
        name: A class name.

    Returns:
        ``(R, G, B)`` in 0..255, saturated enough to be told from the photograph.
    """
    digest = hashlib.sha256(name.encode()).digest()
    hue = int.from_bytes(digest[:4], 'big') / 2**32
    saturation = 0.55 + 0.4 * digest[4] / 255
    value = 0.65 + 0.35 * digest[5] / 255
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True)
class Vocabulary:
    """Ordered class names with the colours they are drawn in.

    Class ``i`` of every map, table and file is ``names[i]``: the order given is kept.

    Attributes:
        names: The N class names as given, stripped.
        palette: N colours ``(R, G, B)`` in 0..255.
        synonyms: For each class what the text encoder is given, at least one phrase.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    synonyms: tuple[tuple[str, ...], ...]

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        phrases: Sequence[Sequence[str] | None] | None = None,
    ) -> Vocabulary:
        """Check the names and build a vocabulary.

        Args:
            names: N class names; each may hold synonyms (see :func:`split_synonyms`).
            palette: N colours ``(R, G, B)``; by default :func:`name_color` of each name.
            phrases: For each class the words or descriptions that stand for it in place of its
                name; None for a class that goes by its name.

        Raises:
            ESCNetError: If ``names`` is no sequence of non-empty, different strings, one holds
                control characters, or palette or phrases do not fit.
        """
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ESCNetError(
                f'A vocabulary must be a list of class names, not {names!r}: write '
                "['taxi', 'wet road'], one string for each class."
            )
        if len(names) == 0:
            raise ESCNetError('The vocabulary is empty: give at least one class name.')
        for index, name in enumerate(names):
            if not isinstance(name, str):
                raise ESCNetError(
                    f'Class name {index} of the vocabulary is {name!r} of type '
                    f'{type(name).__name__}: every class name must be a string.'
                )
            if not any(map(_is_visible, split_synonyms(name))):
                raise ESCNetError(
                    f'Class name {index} of the vocabulary, {shown(name)}, holds no word: '
                    'give it a name or leave it out.'
                )
        stripped = tuple(name.strip() for name in names)
        synonyms = _phrases_of(stripped, phrases)
        _check_different(stripped, synonyms)
        if palette is None:
            palette = [name_color(name) for name in stripped]
        if len(palette) != len(stripped):
            raise ESCNetError(
                f'The palette has {len(palette)} colours for {len(stripped)} class names: '
                'give one colour for each name, or none at all.'
            )
        for name, color in zip(stripped, palette, strict=True):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ESCNetError(
                    f'The colour {list(color)} of class {name!r} must be (R, G, B), each 0 to 255.'
                )
        palette = tuple(tuple(int(v) for v in color) for color in palette)
        return cls(stripped, palette, synonyms)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int:
        """The id of a class, given its name or one of its synonyms in any case.

        Raises:
            ESCNetError: If there is no such class, or a synonym belongs to several.
        """
        if name in self.names:
            return self.names.index(name)
        wanted = name.strip().lower()
        ids = [
            index
            for index, (own, words) in enumerate(zip(self.names, self.synonyms, strict=True))
            if wanted in (own.lower(), *map(str.lower, words))
        ]
        if len(ids) == 1:
            return ids[0]
        lower = {own.lower(): own for own in self.names}
        close = [lower[own] for own in difflib.get_close_matches(wanted, lower, n=_SUGGESTIONS)]
        if close and not ids:
            near = ' or '.join(map(repr, close))
            raise ESCNetError(f'There is no class {name!r}: did you mean {near}?')
        what = 'Several classes have the synonym' if ids else 'There is no class'
        names = [self.names[i] for i in ids] or self.names
        some = ', '.join(map(repr, names[:_SUGGESTIONS]))
        more = ', ...' if len(names) > _SUGGESTIONS else ''
        raise ESCNetError(f'{what} {name!r}: choose one of {some}{more}.')

    @property
    def dataset_meta(self) -> dict:
        """The vocabulary as MMSegmentation's ``dataset_meta``: ``classes`` and ``palette``."""
        return dict(classes=self.names, palette=[list(color) for color in self.palette])

    @property
    def key(self) -> str:
        """SHA-256 of the words in order: what text embeddings depend on, the colours not."""
        return hashlib.sha256(json.dumps(self.synonyms).encode()).hexdigest()


def _phrases_of(
    names: tuple[str, ...], phrases: Sequence[Sequence[str] | None] | None
) -> tuple[tuple[str, ...], ...]:
    """For each name what stands for it: its phrases, or else its own synonyms."""
    if phrases is None:
        return tuple(split_synonyms(name) for name in names)
    if len(phrases) != len(names):
        raise ESCNetError(
            f'There are phrases for {len(phrases)} classes, but {len(names)} class names: give a '
            'list of phrases for each name, None for one that goes by its name.'
        )
    found = []
    for name, given in zip(names, phrases, strict=True):
        if given is None:
            found.append(split_synonyms(name))
            continue
        strings = isinstance(given, Sequence) and not isinstance(given, str)
        if not strings or not all(isinstance(phrase, str) for phrase in given):
            raise ESCNetError(f'The phrases of class {shown(name)} must be a list of strings.')
        words = tuple(phrase.strip() for phrase in given)
        if not words or not all(map(_is_visible, words)):
            raise ESCNetError(
                f'A phrase of class {shown(name)} holds no word: give at least one, or None for '
                'the name alone.'
            )
        found.append(words)
    return tuple(found)


def _check_different(names: tuple[str, ...], synonyms: tuple[tuple[str, ...], ...]) -> None:
    """Refuse what CLIP cannot read or tell apart."""
    first_seen: dict[tuple[str, ...], int] = {}
    for index, (name, words) in enumerate(zip(names, synonyms, strict=True)):
        if any(_has_control_character(text) for text in (name, *words)):
            raise ESCNetError(
                f'Class name {shown(name)} holds a control character: take it out, or put a '
                'space in its place.'
            )
        longest = max(map(len, words))
        if longest > _LONGEST_PHRASE:
            raise ESCNetError(
                f'Class name {shown(name)} holds a phrase of {longest} characters, of which CLIP '
                'would read the beginning alone: shorten it.'
            )
        # a name with phrases of its own must differ from the others, and so must its phrases
        for key in {_comparable(words), _comparable(split_synonyms(name))}:
            if key in first_seen:
                raise ESCNetError(
                    f'Class name {shown(name)} stands in the vocabulary twice (classes '
                    f'{first_seen[key]} and {index}): remove one or give it another name.'
                )
        first_seen[_comparable(words)] = first_seen[_comparable(split_synonyms(name))] = index


def _comparable(words: tuple[str, ...]) -> tuple[str, ...]:
    # what CLIP's tokenizer makes of a text before it looks at it
    clean = (html.unescape(html.unescape(ftfy.fix_text(word))) for word in words)
    return tuple(' '.join(word.lower().split()) for word in clean)


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in 'CZ' for character in text)


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(character) in ('Cc', 'Cs') for character in text)


def shown(name: str) -> str:
    """A name as messages show it: quoted, and cut if it is long."""
    return repr(name if len(name) <= _SHOWN else name[: _SHOWN - 3] + '...')


def cut(text: str, longest: int = _LONGEST) -> str:
    """A text, with its end left out where it has more than ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + '…'


def short_name(name: str, longest: int = _LONGEST) -> str:
    """The first synonym of a class name, cut where it is long."""
    return cut((split_synonyms(name) or (name,))[0], longest)
