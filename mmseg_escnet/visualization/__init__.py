"""Pictures of label maps, and figures of the ESC blocks."""

from .. import compat  # noqa: F401  before mmseg
from .blocks import blocks_figure
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
