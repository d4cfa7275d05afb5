"""Pictures of what the model sees and does."""

from .figures import (
    blocks_figure,
    class_bars_figure,
    curve_figure,
    ranges_figure,
    scenes_figure,
)
from .panels import draw_pseudo_prompts, overlay_labels, paint_labels
from .report import Section, Table, save_figure, write_report

__all__ = [
    'Section',
    'Table',
    'blocks_figure',
    'class_bars_figure',
    'curve_figure',
    'draw_pseudo_prompts',
    'overlay_labels',
    'paint_labels',
    'ranges_figure',
    'save_figure',
    'scenes_figure',
    'write_report',
]
