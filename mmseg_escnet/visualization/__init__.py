"""Pictures of what the model sees and does."""

from .panels import PanelRow, draw_pseudo_prompts, paint_labels, save_panels

__all__ = ['PanelRow', 'draw_pseudo_prompts', 'paint_labels', 'save_panels']
