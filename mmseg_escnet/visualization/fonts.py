"""Fonts for class names in any script."""

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

_OUR_FONT = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')


def font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that covers the letters of a text.

    The one shipped with matplotlib is the same on every machine and covers most alphabets. For
    other scripts (Chinese, ...) it is the first installed font that covers the text.

    Returns:
        The font, and the text as it can be written: '?' for letters that no font covers.
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
    upright = (
        font
        for font in font_manager.fontManager.ttflist
        if (font.style, font.weight) == ('normal', 400)
    )
    return tuple(sorted({Path(font.fname) for font in upright if Path(font.fname).is_file()}))


@cache
def _letters(path: Path) -> frozenset[int]:
    """Code points that a font covers; none if it cannot be scaled."""
    try:
        ImageFont.truetype(str(path), 14)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@lru_cache(maxsize=32)
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)
