"""Figures of matplotlib as files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_suffix, write_file

if TYPE_CHECKING:
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
