"""Fonts for class names in any script."""

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

_OUR_FONT = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')


def font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that covers the letters of a text.

    The one shipped with matplotlib is the same on every machine and covers most alphabets. For
    other scripts (Chinese, ...) it is the first installed font that covers the text.

    Returns:
        The font, and the text with '?' for letters that no font covers.
    """
    path = _find_font(text)
    if path is None:
        path, letters = _OUR_FONT, _letters(_OUR_FONT)
        text = ''.join(c if ord(c) in letters else '?' for c in text)
    return ImageFont.truetype(str(path), size), text


def text_width(text: str, size: int) -> int:
    """Width of a text in pixels."""
    font, text = font_for(text, size)
    return round(font.getlength(text))


def write(
    canvas: Image.Image, x: float, y: float, text: str, size: int, color: str, anchor: str
) -> None:
    """Write a text into an image, at a position that Pillow's ``anchor`` describes."""
    font, text = font_for(text, size)
    ImageDraw.Draw(canvas).text((x, y), text, font=font, fill=color, anchor=anchor)


@lru_cache(maxsize=4096)
def _find_font(text: str) -> Path | None:
    needed = set(map(ord, text))
    if needed <= _letters(_OUR_FONT):
        return _OUR_FONT
    return next((path for path in _installed_fonts() if needed <= _letters(path)), None)


@cache
def _installed_fonts() -> tuple[Path, ...]:
    fonts = font_manager.fontManager.ttflist
    upright = {Path(f.fname) for f in fonts if (f.style, f.weight) == ('normal', 400)}
    return tuple(sorted(path for path in upright if path.is_file()))


@cache
def _letters(path: Path) -> frozenset[int]:
    """Code points that a font covers; none if it cannot be scaled."""
    try:
        ImageFont.truetype(str(path), 14)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
