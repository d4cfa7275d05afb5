"""Fonts for class names in any script."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

_OUR_FONT = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')


def font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that has the letters of a text.

    The one that matplotlib brings along is the same on every machine, and has most alphabets. For
    other scripts (Chinese, ...) it is the first one installed that has them.

    Returns:
        The font, and the text as it can be written: '?' for letters that no font has.
    """
    path = _find_font(text)
    if path is not None:
        return _load(path, size), text
    letters = _letters(_OUR_FONT)
    return _load(_OUR_FONT, size), ''.join(c if ord(c) in letters else '?' for c in text)


@lru_cache(maxsize=4096)
def _find_font(text: str) -> Path | None:
    needed = set(map(ord, text))
    if needed <= _letters(_OUR_FONT):
        return _OUR_FONT
    return next((path for path in _installed_fonts() if needed <= _letters(path)), None)


@lru_cache(maxsize=1)
def _installed_fonts() -> tuple[Path, ...]:
    from matplotlib import font_manager  # looks for fonts when it is imported for the first time

    upright = (
        font
        for font in font_manager.fontManager.ttflist
        if (font.style, font.weight) == ('normal', 400)
    )
    return tuple(sorted({Path(font.fname) for font in upright if Path(font.fname).is_file()}))


@cache
def _letters(path: Path) -> frozenset[int]:
    """Unicode characters that a font has; none if it cannot be scaled."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(str(path), 14)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@lru_cache(maxsize=32)
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)
