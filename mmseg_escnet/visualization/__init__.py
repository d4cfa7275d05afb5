"""Pictures of label maps, and figures of the ESC blocks."""

from .. import compat  # noqa: F401  before mmseg
from .figure_files import save_figure
from .local_visualizer import OpenVocabVisualizer
from .overlay import draw_comparison, draw_overlay

__all__ = [
    'OpenVocabVisualizer',
    'blocks_figure',
    'draw_comparison',
    'draw_overlay',
    'save_figure',
]


def __getattr__(name: str):
    """Import what needs all of matplotlib on first use."""
    if name == 'blocks_figure':
        from .blocks import blocks_figure

        return blocks_figure
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
