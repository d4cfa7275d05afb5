"""Test-time augmentation: one image seen several ways, and the probabilities averaged."""

from __future__ import annotations

from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor


@MODELS.register_module()
class OpenVocabTTAModel(SegTTAModel):
    """``SegTTAModel`` for ESC-Net.

    MMSegmentation's applies a softmax to all scores; in 'windows' mode those are probabilities
    already, and a second softmax would flatten them. It also takes a vocabulary of one word for a
    binary problem.
    """

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """Average over the versions of each image.

        Args:
            data_samples_list: For each image its versions, brought back to the original image,
                with ``seg_logits`` (N, H, W).

        Returns:
            For each image its first version with the mean probabilities as ``seg_logits``
            (N, H, W) and the best class of every pixel as ``pred_sem_seg`` (1, H, W).
        """
        merged = []
        for versions in data_samples_list:
            mean = sum(self._probabilities(v.seg_logits.data) for v in versions) / len(versions)
            sample = versions[0]
            sample.set_data(
                {
                    'seg_logits': PixelData(data=mean),
                    'pred_sem_seg': PixelData(data=mean.argmax(dim=0, keepdim=True)),
                }
            )
            merged.append(sample)
        return merged

    def _probabilities(self, scores: Tensor) -> Tensor:
        return scores if self.module.test_cfg.mode == 'windows' else scores.softmax(dim=0)
