"""Makes MMSegmentation's own APIs work with the pipelines and visualizer of this package."""

from mmseg.apis import MMSegInferencer, inference

from .visualization.local_visualizer import OpenVocabVisualizer

_LOADERS = {'LoadImageFromFile': 'LoadImage', 'LoadAnnotations': 'LoadLabelMap'}
_find_by_name = MMSegInferencer._get_transform_idx


def _find_transform(self: MMSegInferencer, pipeline_cfg: list, name: str) -> int:
    index = _find_by_name(self, pipeline_cfg, name)
    if index < 0 and name in _LOADERS:
        index = _find_by_name(self, pipeline_cfg, _LOADERS[name])
    return index


def support_our_loaders() -> None:
    """Let ``MMSegInferencer`` find our loaders of images and labels (idempotent).

    It looks for MMSegmentation's names of them, and refuses a pipeline without.
    """
    MMSegInferencer._get_transform_idx = _find_transform


def support_our_pictures() -> None:
    """Let ``show_result_pyplot`` draw with :class:`.OpenVocabVisualizer` (idempotent).

    It uses MMSegmentation's visualizer whatever the config says.
    """
    inference.SegLocalVisualizer = OpenVocabVisualizer
