"""The class names an image is segmented into, their synonyms and colours."""

from __future__ import annotations

import difflib
import hashlib
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ftfy

from .colors import CLASS_COLORS, PALETTE_SIZES
from .errors import ESCNetError, first_few
from .words import folded, is_visible, visible

MAX_WORDS = 10_000
_SYNONYM_SEPARATORS = ('|', ',')  # the benchmarks use commas
_LONGEST_PHRASE = 1000  # characters; CLIP reads 77 tokens
_SHOWN, _LONGEST = 60, 28  # characters of a name, in a message and in a picture
_SUGGESTIONS = 5


def split_synonyms(name: str) -> tuple[str, ...]:
    """Split a class name into its synonyms, in order and stripped; invisible ones are dropped.

    Synonyms are separated by bars or, in a name without bars, by commas: ``'sofa | couch'``,
    ``'building, edifice'`` and ``'a red, wet road | street'`` have two each.
    """
    separator = next((s for s in _SYNONYM_SEPARATORS if s in name), None)
    parts = [name] if separator is None else name.split(separator)
    return tuple(part.strip() for part in parts if is_visible(part))


def split_words(text: str) -> list[str]:
    """The classes between commas or line breaks."""
    return [word.strip() for word in re.split(r'[,\r\n]', text) if word.strip()]


def palette_of(names: Sequence[str]) -> list[list[int]]:
    """Distinguishable colours ``[R, G, B]`` in 0..255 for class names (ours): :mod:`.colors`.

    A name keeps its colour while names are appended, and when its synonyms or phrases change.
    """
    palette: list[list[int]] = []
    for number, name in enumerate(names):
        place = number % len(CLASS_COLORS)
        if place == 0:
            taken: set[int] = set()
        room = next(size for size in PALETTE_SIZES if place < size)
        word = (split_synonyms(name) or ('',))[0].casefold()
        first = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], 'big')
        free = (i % room for i in range(first, first + room) if i % room not in taken)
        taken.add(chosen := next(free))
        palette.append(list(CLASS_COLORS[chosen]))
    return palette


@dataclass(frozen=True)
class Vocabulary:
    """Ordered class names: class ``i`` of every map, table and file is ``names[i]``.

    Attributes:
        names: The N class names, stripped.
        palette: N colours ``(R, G, B)`` in 0..255.
        synonyms: For each class the phrases for the text encoder, at least one.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    synonyms: tuple[tuple[str, ...], ...]

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        phrases: Sequence[Sequence[str] | None] | Mapping[str, Sequence[str] | None] | None = None,
    ) -> Vocabulary:
        """Check the names and build a vocabulary.

        Args:
            names: N class names, possibly with synonyms (see :func:`split_synonyms`).
            palette: N colours ``(R, G, B)``; by default :func:`palette_of` the names.
            phrases: Words or descriptions to use for each class instead of its name, or None to
                use the name. In the order of the names, or a dict by name.

        Raises:
            ESCNetError: If ``names`` is not a sequence of distinct, non-empty strings without
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
                    f'Class name {index} of the vocabulary must be a string, '
                    f'not {name!r} of type {type(name).__name__}.'
                )
            if not split_synonyms(name):
                raise ESCNetError(
                    f'Class name {index} of the vocabulary, {shown(name)}, contains no word: '
                    'give it a name or remove it.'
                )
        stripped = tuple(name.strip() for name in names)
        synonyms = _synonyms_of(stripped, phrases)
        _check_distinct(stripped, synonyms)
        if palette is None:
            palette = palette_of(stripped)
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
        return cls(stripped, tuple(tuple(map(int, color)) for color in palette), synonyms)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int:
        """The id of a class, by its name or a synonym, as they look and whatever their case.

        Raises:
            ESCNetError: If there is no such class, or several have that synonym.
        """
        if name in self.names:
            return self.names.index(name)
        wanted = folded(name)
        ids = [
            index
            for index, (own, words) in enumerate(zip(self.names, self.synonyms, strict=True))
            if wanted in map(folded, (own, *words))
        ]
        if len(ids) == 1:
            return ids[0]
        lower = {own.lower(): own for own in self.names}
        close = difflib.get_close_matches(wanted, lower, n=_SUGGESTIONS)
        near = [self.names[i] for i in ids[:_SUGGESTIONS]] or [lower[own] for own in close]
        kind = 'Several classes have the synonym' if ids else 'There is no class'
        what = f'{kind} {shown(name)}'
        if near:
            raise ESCNetError(f'{what}: did you mean {" or ".join(map(shown, near))}?')
        raise ESCNetError(f'{what}: choose one of {first_few(map(shown, self.names))}.')

    @property
    def dataset_meta(self) -> dict:
        """The vocabulary as MMSegmentation's ``dataset_meta``: ``classes`` and ``palette``."""
        return dict(classes=self.names, palette=[list(color) for color in self.palette])


def _synonyms_of(
    names: tuple[str, ...],
    phrases: Sequence[Sequence[str] | None] | Mapping[str, Sequence[str] | None] | None,
) -> tuple[tuple[str, ...], ...]:
    """The phrases of each class if it has any, otherwise the synonyms in its name."""
    if isinstance(phrases, Mapping):
        phrases = [phrases.get(name) for name in names]
    phrases = [None] * len(names) if phrases is None else phrases
    if len(phrases) != len(names):
        raise ESCNetError(
            f'There are phrases for {len(phrases)} classes, but {len(names)} class names: give a '
            'list of phrases for each name, None to use the name.'
        )
    synonyms = []
    for name, given in zip(names, phrases, strict=True):
        if given is None:
            synonyms.append(split_synonyms(name))
            continue
        is_list = isinstance(given, Sequence) and not isinstance(given, str)
        if not is_list or not all(isinstance(phrase, str) for phrase in given):
            raise ESCNetError(f'The phrases of class {shown(name)} must be a list of strings.')
        words = tuple(phrase.strip() for phrase in given)
        if not words or not all(map(is_visible, words)):
            raise ESCNetError(
                f'A phrase of class {shown(name)} contains no word: give at least one, or None to '
                'use the name.'
            )
        synonyms.append(words)
    return tuple(synonyms)


def _check_distinct(names: tuple[str, ...], synonyms: tuple[tuple[str, ...], ...]) -> None:
    """Refuse names and phrases that CLIP cannot read or tell apart."""
    first_seen: dict[tuple[str, ...], int] = {}
    for index, (name, words) in enumerate(zip(names, synonyms, strict=True)):
        if any(_has_control_character(text) for text in (name, *words)):
            raise ESCNetError(
                f'Class name {shown(name)} contains a control character: remove it, or '
                'replace it by a space.'
            )
        longest = max(map(len, words))
        if longest > _LONGEST_PHRASE:
            raise ESCNetError(
                f'Class name {shown(name)} has a phrase of {longest} characters, of which CLIP '
                'would read only the beginning: shorten it.'
            )
        # a class with phrases must differ from the others both in its name and in its phrases
        keys = {_comparable(words), _comparable(split_synonyms(name))}
        for key in keys & first_seen.keys():
            raise ESCNetError(
                f'Class name {shown(name)} is listed twice (classes {first_seen[key]} '
                f'and {index}): remove one or rename it.'
            )
        first_seen |= dict.fromkeys(keys, index)


def _comparable(words: tuple[str, ...]) -> tuple[str, ...]:
    # as CLIP's tokenizer cleans a text, and without what nobody sees
    clean = (html.unescape(html.unescape(ftfy.fix_text(word))) for word in words)
    return tuple(map(folded, clean))


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(character) in ('Cc', 'Cs') for character in text)


def shown(value: object) -> str:
    """A name, or any value given in its place, for a message: quoted, and cut if long."""
    if isinstance(value, str):
        text = repr(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + '...')
        return ''.join(char if char == visible(char) else ascii(char)[1:-1] for char in text)
    # only the type of a list: one from YAML may be infinite when written out
    if not isinstance(value, (bytes, int, float, type(None))):
        return f'a {type(value).__name__}'
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'


def cut(text: str, longest: int = _LONGEST) -> str:
    """A text, with an ellipsis for its end if it has more than ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip(' ,|') + '…'


def display_names(names: Sequence[str], longest: int = _LONGEST) -> list[str]:
    """Class names as pictures and tables show them, different ones differently.

    A name of more than ``longest`` characters loses its end, or its middle if another class would
    then look the same. If that does not help either, its id follows in brackets.
    """
    head = longest // 2
    tail = longest - head - 1
    ways = [
        lambda _, name: cut(name, longest),
        lambda _, name: f'{name[:head].rstrip()}…{name[-tail:].lstrip()}',
        lambda i, name: f'{cut(name, longest - len(f" [{i}]"))} [{i}]',
    ]
    texts = list(names)
    alike = {i for i, name in enumerate(names) if len(name) > longest}
    for way in ways:
        for i in alike:
            texts[i] = way(i, names[i])
        counts = Counter(texts)
        alike = {i for i in alike if counts[texts[i]] > 1}
    return texts


def normalise_classes(
    classes: object, *, max_words: int = MAX_WORDS
) -> dict[str, tuple[str, ...] | None]:
    """Convert classes to a dict, whichever way they are given.

    Args:
        classes: A list of names, each ``name`` or ``name: phrase | phrase``; or name -> string
            with phrases between bars, phrases, or None.
        max_words: Maximum number of names and phrases.

    Returns:
        Name -> phrases to use instead of the name, or None.

    Raises:
        ESCNetError: If there are none or too many, or one is not a string or is listed twice.
    """
    if isinstance(classes, (str, bytes)) or not isinstance(classes, (Sequence, Mapping)):
        raise ESCNetError(
            f'Classes must be a list of names, or names with phrases, not {shown(classes)}: write '
            "['taxi', 'wet road'] or {'taxi': ['a yellow cab']}."
        )
    if len(classes) == 0:
        raise ESCNetError('There are no classes: give at least one name.')
    count = len(classes)
    _check_count(count, max_words)
    if not isinstance(classes, Mapping):
        pairs = (split_phrases(name) if isinstance(name, str) else (name, None) for name in classes)
        classes = without_duplicates(pairs)
    found: dict[str, tuple[str, ...] | None] = {}
    for name in classes:
        _check_new(name.strip() if isinstance(name, str) else name, found)
        phrases = _phrases(name, classes[name])
        # counted before anything is copied: YAML can refer to one long list many times
        count += len(phrases or ())
        _check_count(count, max_words)
        found[name.strip()] = None if phrases is None else tuple(phrases)
    return found


def _phrases(name: str, given: object) -> Sequence[str] | None:
    if isinstance(given, str):
        given = [part.strip() for part in given.split('|') if part.strip()]
    if not given and (given is None or isinstance(given, Sequence)):
        return None
    if not isinstance(given, (list, tuple)) or not all(isinstance(part, str) for part in given):
        raise ESCNetError(
            f'The phrases of class {shown(name)} must be a string or a list of strings, not '
            f'{shown(given)}.'
        )
    return given


def _check_count(count: int, max_words: int) -> None:
    if count > max_words:
        raise ESCNetError(
            f'There are {count} words or more, and at most {max_words} are allowed: remove some, '
            'or raise max_words if there is enough memory.'
        )


def split_phrases(line: str) -> tuple[str, str | list[str]]:
    """Name and phrases of ``name: phrase | phrase``; a name in quotes is its own only phrase."""
    if line.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(line)
        except ValueError:
            pass  # a name that begins with a quote
        else:
            name, colon, phrases = name.strip(), line[end : end + 1], line[end + 1 :].strip()
            if colon in ('', ':'):
                return name, phrases or [name]
    name, _, phrases = line.partition(': ')
    return name.strip().removesuffix(':'), phrases


def without_duplicates(pairs: Iterable[tuple[object, object]]) -> dict:
    """A dict of (name, phrases).

    Raises:
        ESCNetError: If a name is not a string, or listed twice.
    """
    found = {}
    for name, phrases in pairs:
        _check_new(name, found)
        found[name] = phrases
    return found


def _check_new(name: object, found: Mapping[str, object]) -> None:
    if not isinstance(name, str):
        raise ESCNetError(
            f'Class name {shown(name)} must be a string, not {type(name).__name__}: put it '
            'in quotes.'
        )
    if name in found:
        raise ESCNetError(f'Class name {shown(name)} is listed twice: remove one.')
