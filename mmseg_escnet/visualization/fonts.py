"""Fonts for class names in any script."""

import unicodedata
import warnings
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
    other scripts (Chinese, ...) it is the installed font that covers most of the text. If letters
    are left, a warning says which package contains them.

    Returns:
        The font, and the text with '?' for letters that it does not cover.
    """
    path, missing = _find_font(text)
    text = ''.join('?' if c in missing else c for c in text)
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
def _find_font(text: str) -> tuple[Path, str]:
    """The first font with the fewest letters missing, and these letters."""
    best, missing = _OUR_FONT, _missing(_OUR_FONT, text)
    for path in _installed_fonts() if missing else ():
        left = _missing(path, text)
        if len(left) < len(missing):
            best, missing = path, left
    if missing:
        warnings.warn(
            f'No installed font contains all letters of {text!r}: {missing!r} is drawn as ?. '
            f'Install {_package(missing)}.',
            stacklevel=3,
        )
    return best, missing


def _missing(path: Path, text: str) -> str:
    # format characters, which join emoji or set the direction of writing, have no glyph to miss
    covered = _letters(path)
    letters = (c for c in dict.fromkeys(text) if unicodedata.category(c) != 'Cf')
    return ''.join(c for c in letters if ord(c) not in covered)


def _package(letters: str) -> str:
    """The Debian package of a font with some letters."""
    if any(unicodedata.category(c) in ('So', 'Sk') for c in letters):
        return 'a font with emoji that can be scaled, such as fonts-symbola'
    is_cjk = any(unicodedata.east_asian_width(c) in 'WF' for c in letters)
    return f'a font, such as {"fonts-noto-cjk" if is_cjk else "fonts-noto-core"}'


@cache
def _installed_fonts() -> tuple[Path, ...]:
    """Font files, upright ones of normal weight first; matplotlib's list may be out of date."""
    paths = map(Path, font_manager.findSystemFonts())
    return tuple(sorted(paths, key=lambda path: ('regular' not in path.name.lower(), path)))


@cache
def _letters(path: Path) -> frozenset[int]:
    """Code points that a font covers; none if it cannot be scaled."""
    try:
        ImageFont.truetype(str(path), 14)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
