"""Pictures of what the model sees and does."""

from .. import compat  # noqa: F401  before mmseg
from .blocks import blocks_figure
from .figures import (
    class_bars_figure,
    curve_figure,
    ranges_figure,
    scenes_figure,
)
from .local_visualizer import OpenVocabVisualizer
from .overlay import draw_comparison, draw_overlay
from .panels import overlay_labels, paint_labels
from .report import Section, Table, save_figure, write_report

__all__ = [
    'OpenVocabVisualizer',
    'Section',
    'Table',
    'blocks_figure',
    'class_bars_figure',
    'curve_figure',
    'draw_comparison',
    'draw_overlay',
    'overlay_labels',
    'paint_labels',
    'ranges_figure',
    'save_figure',
    'scenes_figure',
    'write_report',
]
