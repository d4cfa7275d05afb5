"""Figures of matplotlib as files, and class names in them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_suffix, write_file
from .fonts import font_for

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = ('.png', '.pdf', '.svg')


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: float = 144) -> None:
    """Write a figure as ``.png``, ``.pdf`` or ``.svg``, whole or not at all, with its folders.

    Raises:
        ESCNetError: If the path has another suffix, or cannot be written.
    """
    check_suffix(path, FIGURE_SUFFIXES)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=dpi)
    write_file(path, buffer.getvalue())


def name_ticks(axis: Axis, names: Sequence[str], *, fontsize: float, **style) -> None:
    """Write names at the ticks 0, 1, ... of an axis, in any script and never as formulas."""
    from matplotlib.font_manager import FontProperties

    fonts = [font_for(name, 1) for name in names]
    axis.set_ticks(range(len(names)), [text for _, text in fonts], **style)
    for label, (font, _) in zip(axis.get_ticklabels(), fonts, strict=True):
        label.set_font_properties(FontProperties(fname=font.path, size=fontsize))
        label.set_parse_math(False)
