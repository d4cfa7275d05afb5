"""The pictures of MMSegmentation's hook, ``--show-dir`` and APIs.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.structures import PixelData
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from ..colors import BACKGROUND, OPACITY
from ..errors import ESCNetError
from ..vocabulary import palette_of
from .overlay import draw_comparison


@VISUALIZERS.register_module()
class OpenVocabVisualizer(SegLocalVisualizer):
    """Image, ground truth and prediction side by side, with a legend of the classes present.

    With hundreds of classes the pictures of ``SegLocalVisualizer`` are unreadable: it writes every
    name over the label map at the size of the image, and leaves ignored pixels unpainted. This one
    draws with :func:`.overlay.draw_comparison`, on the main process only.

    Classes from ``dataset_meta['background_from']`` on, if there is one, are drawn as background,
    as the metric counts them.

    Args:
        name: Name of the instance.
        alpha: Opacity of the colours, 0 to 1.
        kwargs: All other arguments of ``SegLocalVisualizer``.
    """

    def __init__(self, name: str = 'visualizer', *, alpha: float = OPACITY, **kwargs) -> None:
        super().__init__(name, alpha=alpha, **kwargs)
        self._sources: dict[str, str] = {}  # name of a picture -> path of its image

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool | None = True,
    ) -> None:
        """Draw an image, its ground truth and its prediction.

        Arguments that are not listed are those of ``SegLocalVisualizer``.

        Args:
            name: Name of the picture. If another image already has it, folders are appended.
            image: (H, W, 3) uint8, RGB.
            data_sample: With ``gt_sem_seg``, ``pred_sem_seg``, both or none.
            out_file: Write the picture to this file instead of to the backends.
            with_labels: Also write names into the label maps.

        Raises:
            ESCNetError: If there is a label map and no class names.
        """
        maps = {}
        for title, key, wanted in (
            ('ground truth', 'gt_sem_seg', draw_gt),
            ('prediction', 'pred_sem_seg', draw_pred),
        ):
            if wanted and data_sample is not None and key in data_sample:
                maps[title] = _labels_of(data_sample.get(key), image.shape[:2])
        names, palette = self._classes(maps)
        picture = draw_comparison(
            image, maps, names=names, palette=palette, opacity=self.alpha, tags=bool(with_labels)
        )
        drawn = np.array(picture)
        self.set_image(drawn)  # what get_image returns
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(mmcv.rgb2bgr(drawn), out_file)
        else:
            source = '' if data_sample is None else data_sample.get('img_path', '')
            self.add_image(self._unique_name(name, source), drawn, step)

    def _classes(self, maps: dict[str, np.ndarray]) -> tuple[list[str], list]:
        """Names and colours of the classes; merges the background in the maps."""
        meta = self.dataset_meta or {}
        names = list(meta.get('classes') or ())
        if maps and not names:
            raise ESCNetError(
                'The visualizer does not know the class names: set visualizer.dataset_meta = '
                "dict(classes=['...', ...])."
            )
        palette = list(meta.get('palette') or palette_of(names))
        first = meta.get('background_from')
        if first is not None:
            for labels in maps.values():
                labels[(labels >= first) & (labels < len(names))] = first
            names, palette = [*names[:first], 'background'], [*palette[:first], BACKGROUND]
        return names, palette

    def _unique_name(self, name: str, source: str) -> str:
        # the hook names pictures after the file only: x/1.png would replace y/1.png
        if self._sources.setdefault(name, source) == source:
            return name
        return f'{name}_{"_".join(Path(source).parent.parts[-2:])}'


def _labels_of(pixels: PixelData, size: tuple[int, int]) -> np.ndarray:
    """A label map (H, W) of uint16, at the size of the image."""
    labels = np.asarray(pixels.cpu().data)
    labels = labels.reshape(labels.shape[-2:])
    labels = labels.astype(np.uint16)  # -1, often used for ignored pixels, becomes 65535
    if labels.shape != size:  # loaded before the image was resized
        labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    return labels
