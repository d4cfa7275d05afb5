"""Figures of matplotlib as files."""

import io
import os
from pathlib import Path

from matplotlib.figure import Figure

from ..files import write_file


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: float = 144) -> None:
    """Write a figure as PNG, whole or not at all; its folder is made."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue())
