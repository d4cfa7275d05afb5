"""Test-time augmentation: average the probabilities over versions of an image."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.transforms import RandomFlip
from mmengine.config import Config
from mmseg.models import SegTTAModel
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList

from ..errors import ESCNetError
from ..models.segmentors.scores import Scores, write_result


@MODELS.register_module()
class OpenVocabTTAModel(SegTTAModel):
    """``SegTTAModel`` for ESC-Net.

    MMSegmentation's applies a softmax to all scores, although in 'windows' mode they are already
    probabilities; it treats a vocabulary of one class as binary segmentation; and it keeps the
    scores of all classes and versions in full resolution. Here they are averaged in parts.
    """

    def test_step(self, data: dict) -> SampleList:
        """Segment all versions of every image and merge them.

        Args:
            data: ``inputs`` and ``data_samples``, each a list over the images for every version.

        Returns:
            The result of :meth:`merge_preds`.
        """
        images = data['inputs'][0]
        if len({image.shape for image in images}) > 1:  # as the segmentor: one by one
            single = (
                {key: [[version[number]] for version in value] for key, value in data.items()}
                for number in range(len(images))
            )
            return [self.test_step(image)[0] for image in single]
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
            data_samples_list: For each image its versions: sample, and scores mapped back to the
                original image.

        Returns:
            For each image its first sample with the class of highest mean probability as
            ``pred_sem_seg`` (1, H, W) and, with ``test_cfg.keep_scores``, the mean probabilities as
            ``seg_logits`` (N, H, W).
        """
        merged = []
        for versions in data_samples_list:
            samples, maps = zip(*versions, strict=True)
            keep_scores = self.module.test_cfg.get('keep_scores', False)
            write_result(samples[0], Scores.mean(maps), keep_scores=keep_scores)
            merged.append(samples[0])
        return merged


@TRANSFORMS.register_module()
class MirrorImage(RandomFlip):
    """``RandomFlip`` for images alone, also those one pixel wide.

    Their mirror image is a view with a negative stride that NumPy calls contiguous, and PyTorch
    refuses.
    """

    def transform(self, results: dict) -> dict:
        """Flip ``results['img']``, as ``RandomFlip`` does."""
        results = super().transform(results)
        results['img'] = results['img'].copy()
        return results


def use_tta(cfg: Config) -> None:
    """Enable test-time augmentation: the config's own, or horizontal flips.

    ``tta_pipeline`` and ``tta_model`` of the config are used as in MMSegmentation. By default, the
    test pipeline is applied to the image and its mirror image, with the protocol of the config
    (size, windows, global view), and probabilities are averaged. A ``tta_model`` that is not ours
    gets the scores of all classes in full resolution by ``keep_scores``.

    Args:
        cfg: The config, changed in place.

    Raises:
        ESCNetError: If the test pipeline cannot be mirrored.
    """
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or _mirrored(dataset.get('pipeline') or ())
    model, merging = cfg.model, cfg.get('tta_model') or dict(type='OpenVocabTTAModel')
    if merging['type'] != 'OpenVocabTTAModel':
        model.test_cfg = dict(model.get('test_cfg') or {}, keep_scores=True)
    cfg.model = dict(merging, module=model)


def _mirrored(pipeline: Sequence[dict]) -> list[dict]:
    types = [step.type for step in pipeline]
    load = next((i for i, name in enumerate(types) if name.startswith('LoadImage')), None)
    if load is None or any(name.startswith(('LoadAnn', 'LoadLabel')) for name in types[:load]):
        raise ESCNetError(
            '--tta cannot tell where to mirror images, since this test pipeline has no transform '
            'that loads the image before its labels: give tta_pipeline in the config.'
        )
    # before the labels are loaded: predictions are flipped back, labels are not flipped
    flips = [dict(type='MirrorImage', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
    rest = [[step] for step in pipeline[load + 1 :]]
    return [
        *pipeline[: load + 1],
        dict(type='TestTimeAug', transforms=[flips, *rest]),
    ]
