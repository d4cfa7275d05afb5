"""Test-time augmentation: one image seen several ways, and the probabilities averaged."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList

from ..models.segmentors.scores import Scores, write_result


@MODELS.register_module()
class OpenVocabTTAModel(SegTTAModel):
    """``SegTTAModel`` for ESC-Net.

    MMSegmentation's applies a softmax to all scores; in 'windows' mode those are probabilities
    already, and a second softmax would flatten them. It also takes a vocabulary of one word for a
    binary problem, and holds the scores of all classes at the size of the image, of all versions
    at once. Here they are averaged in parts.
    """

    def test_step(self, data: dict) -> SampleList:
        """Segment all versions of every image and merge them.

        Args:
            data: ``inputs`` and ``data_samples``: for every version a list over the images.

        Returns:
            As :meth:`merge_preds`.
        """
        versions, text = [], self.module.text_features()
        for number in range(len(data['inputs'])):
            version = {key: value[number] for key, value in data.items()}
            version = self.module.data_preprocessor(version, False)
            samples = version['data_samples']
            metas = [sample.metainfo for sample in samples]
            maps = self.module.scores(version['inputs'], text, metas)
            versions.append(list(zip(samples, maps, strict=True)))
        return self.merge_preds(list(zip(*versions, strict=True)))

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[tuple[SegDataSample, Scores]]]
    ) -> SampleList:
        """Average over the versions of each image.

        Args:
            data_samples_list: For each image its versions: sample, and scores brought back to the
                original image.

        Returns:
            For each image its first sample with the class of highest mean probability at every
            pixel as ``pred_sem_seg`` (1, H, W); and, if ``test_cfg.keep_scores``, the mean
            probabilities as ``seg_logits`` (N, H, W).
        """
        merged = []
        for versions in data_samples_list:
            samples, maps = zip(*versions, strict=True)
            keep_scores = self.module.test_cfg.get('keep_scores', False)
            write_result(samples[0], Scores.mean(maps), keep_scores=keep_scores)
            merged.append(samples[0])
        return merged
