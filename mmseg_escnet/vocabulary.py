"""Vocabulary: the ordered words an image is segmented into."""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ESCNetError

# A name may hold several synonyms; the benchmarks separate them by a comma, people by a bar.
_SYNONYM_SEPARATORS = ('|', ',')


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
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @classmethod
    def create(
        cls, names: Sequence[str], palette: Sequence[Sequence[int]] | None = None
    ) -> Vocabulary:
        """Check the names and build a vocabulary.

        Args:
            names: N class names; each may hold synonyms (see :func:`split_synonyms`).
            palette: N colours ``(R, G, B)``; by default :func:`name_color` of each name.

        Raises:
            ESCNetError: If ``names`` is no sequence of non-empty, different strings, or the
                palette does not fit.
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
            if not split_synonyms(name):
                raise ESCNetError(
                    f'Class name {index} of the vocabulary, {name!r}, holds no word: '
                    'give it a name or leave it out.'
                )
        stripped = tuple(name.strip() for name in names)
        first_seen: dict[tuple[str, ...], int] = {}
        for index, name in enumerate(stripped):
            key = tuple(' '.join(word.lower().split()) for word in split_synonyms(name))
            if key in first_seen:
                raise ESCNetError(
                    f'Class name {name!r} stands in the vocabulary twice (classes '
                    f'{first_seen[key]} and {index}): remove one or give it another name.'
                )
            first_seen[key] = index
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
        return cls(stripped, tuple(tuple(int(v) for v in color) for color in palette))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """For each class its synonyms, at least one."""
        return tuple(split_synonyms(name) for name in self.names)

    @property
    def dataset_meta(self) -> dict:
        """The vocabulary as MMSegmentation's ``dataset_meta``: ``classes`` and ``palette``."""
        return dict(classes=self.names, palette=[list(color) for color in self.palette])

    @property
    def key(self) -> str:
        """SHA-256 of the names in order: what text embeddings depend on, the colours not."""
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()
