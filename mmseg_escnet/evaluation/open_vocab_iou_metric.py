"""IoU for any number of classes, with the means that papers in this field report.

Shapes: K classes; (K, K + 1) of a confusion matrix, see :mod:`.confusion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.dist import all_reduce, barrier, broadcast_object_list, get_dist_info
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from torch import Tensor

from ..datasets.benchmark_vocabularies import vocabulary_names
from ..engine.training_log import say
from ..errors import ESCNetError, first_few
from ..label_folder import LabelNames, LabelWriter
from ..preflight import unlabelled
from .class_names import describe_split, match_classes
from .confusion import areas_of, count_confusion

BACKGROUND = 'background'
_RESERVED = ('gt', 'seen', 'unseen')  # a group of such a name would hide a mean


@METRICS.register_module()
class OpenVocabIoUMetric(IoUMetric):
    """``IoUMetric`` for large vocabularies, with several named means, all in percent.

    All results and the per-class table of MMSegmentation's ``IoUMetric`` are reported under the
    same names. Its ``mIoU`` counts an IoU of 0 for classes that are predicted but absent from the
    ground truth; papers based on detectron2 average only over classes in the ground truth, which
    is ``mIoU_gt`` here. ``fwIoU`` weights each class by its share of the labelled pixels, ``aAcc``
    is the pixel accuracy. With ``seen``, the mean of ``mIoU_gt`` is also reported over the classes
    with masks in training (``mIoU_seen``) and the others (``mIoU_unseen``), with their harmonic
    mean (``hIoU``); the split is logged once. Each of ``groups`` adds the mean over its classes
    (``mIoU_<name>``).

    Pixels are counted in 64-bit integers, and ids that are not classes raise an error, where
    MMSegmentation drops them. A prediction equal to ``ignore_index`` means "no class" and counts
    as a miss.

    Memory does not grow with the number of images: ``results`` has at most two confusion matrices
    (6 MB each for 847 classes), of the last image of this process and of all earlier ones. The last
    one is kept apart because samplers (MMEngine's ``DefaultSampler``, PyTorch's
    ``DistributedSampler``) pad the last round with images that were already evaluated:
    :meth:`evaluate` drops exactly those, and checks that every image is counted once.

    Args:
        seen: Training vocabulary: its names, or its short name ('coco_stuff171',
            'toyworld_seen'). A class is seen if one of its synonyms is one of theirs, as compared
            by :func:`.words.normalise`.
        groups: Further means: name -> class names or short name of a vocabulary, matched like
            ``seen``. Groups may overlap.
        background_from: Count labels and predictions from this class on as one class,
            'background', with this index (PAS-20b: 20 objects, and 39 other words together). It is
            neither seen nor unseen.
        output_dir: Folder for predictions, see :mod:`.label_folder`: the words as predicted, even
            those that count as background.
        image_dir: Folder of all images, whose sub-folders are kept in ``output_dir``.
        dataset_name: Name of the data set, for ``names.json``.
        kwargs: Other arguments of ``IoUMetric``.

    Attributes:
        confusion: Counts of the last :meth:`evaluate`, (K, K + 1), int64; None before, and if there
            was nothing to count.

    Raises:
        ESCNetError: If a group has a reserved name or, once the data set is known, none of its
            classes; if ``ignore_index`` is a class of the data set, or ``background_from`` leaves
            no class on one of its sides.
    """

    def __init__(
        self,
        *,
        seen: Sequence[str] | str | None = None,
        groups: Mapping[str, Sequence[str] | str] | None = None,
        background_from: int | None = None,
        output_dir: str | None = None,
        image_dir: str | None = None,
        dataset_name: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(output_dir=output_dir, **kwargs)
        self.seen = None if seen is None else _names_of(seen)
        self.groups = {name: _names_of(classes) for name, classes in (groups or {}).items()}
        for name in self.groups:
            if name in _RESERVED:
                raise ESCNetError(
                    f'A group of classes may not be called {name!r}: mIoU_{name} is another mean, '
                    'so rename the group.'
                )
        self.background_from = background_from
        self.image_dir = image_dir
        self.dataset_name = dataset_name
        self.confusion: Tensor | None = None
        self._num_images = 0
        self._split_is_logged = False
        self._writer: LabelWriter | None = None

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the data set; its ``classes`` are those that are evaluated."""
        if self._dataset_meta is None or self.background_from is None:
            return self._dataset_meta
        classes = (*self._dataset_meta['classes'][: self.background_from], BACKGROUND)
        return dict(self._dataset_meta, classes=classes)

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # Set when the loops are built, so errors are raised before hours of training.
        self._dataset_meta = dataset_meta
        self._split_is_logged = False
        names = dataset_meta.get('classes')
        if names is None:
            return  # VocabularyHook raises an error
        if 0 <= self.ignore_index < len(names):
            raise ESCNetError(
                f'OpenVocabIoUMetric has ignore_index={self.ignore_index}, which is the id of '
                f'class {names[self.ignore_index]!r} of the data set: use 65535, also in its label '
                'maps.'
            )
        if self.background_from is not None and not 0 < self.background_from < len(names):
            raise ESCNetError(
                f'background_from={self.background_from} must be between 1 and {len(names) - 1} '
                f'for a data set of {len(names)} classes: it is the first class that counts as '
                'background.'
            )
        for name, classes in self.groups.items():
            if not self._is_among(classes).any():
                names = first_few(map(repr, classes), 3) or 'empty'
                raise ESCNetError(
                    f'No class of the group {name!r} ({names}) is a class of the data set: check '
                    'its names, or remove the group.'
                )

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of one batch, and write its predictions if ``output_dir`` is set.

        Args:
            data_batch: Not used.
            data_samples: One dict per image with ``pred_sem_seg`` and, unless ``format_only``,
                ``gt_sem_seg``, whose ``data`` are ids (1, height, width). ``num_classes`` in
                ``pred_sem_seg`` or the channels of ``seg_logits`` (classes, height, width), if
                present, must match the vocabulary.

        Raises:
            ESCNetError: If there is no label map, sizes or numbers of classes differ, or an id is
                neither a class nor ``ignore_index``.
        """
        num_classes = len(self.dataset_meta['classes'])
        num_words = len(self._dataset_meta['classes'])
        for data_sample in data_samples:
            where = data_sample.get('img_path', 'an image without img_path')
            _check_vocabulary(data_sample, num_words, where)
            prediction = _as_map(data_sample['pred_sem_seg']['data'])
            self._check_ids(
                prediction, f'The prediction for {where}', 'the vocabulary of the model'
            )
            if not self.format_only:
                if 'gt_sem_seg' not in data_sample:
                    raise unlabelled(where)
                label = _as_map(data_sample['gt_sem_seg']['data']).to(prediction.device)
                if label.shape != prediction.shape:
                    raise ESCNetError(
                        f'The prediction for {where} has shape {tuple(prediction.shape)}, its '
                        f'label map {tuple(label.shape)}: in the test pipeline, load labels after '
                        'resizing the image.'
                    )
                self._check_ids(label, f'The label map of {where}', 'the converter of the data set')
                self._add(
                    count_confusion(
                        self._merge_background(prediction),
                        self._merge_background(label),
                        num_classes,
                        self.ignore_index,
                    )
                )
            if self.output_dir is not None:
                self._write(prediction, data_sample)

    def evaluate(self, size: int) -> dict[str, float]:
        """Sum up the counts of all processes, each image once.

        If more images were evaluated than the data set has, samplers padded the last round: the
        k-th image of process r of p (all from 0) is number k * p + r in their order, a repetition
        if that is at least ``size``.

        Args:
            size: Number of images in the data set.

        Returns:
            The result of :meth:`compute_metrics`, in every process.

        Raises:
            ESCNetError: If not every image was evaluated exactly once.
        """
        results = [] if self.format_only else self._gather(size)
        self.confusion = results[0] if results else None
        barrier()  # all predictions are written
        metrics = [None]
        if get_dist_info()[0] == 0:
            if self._writer is not None:
                self._writer.finish()
            prefix = f'{self.prefix}/' if self.prefix else ''
            metrics = [{prefix + k: v for k, v in self.compute_metrics(results).items()}]
        broadcast_object_list(metrics)
        self.results.clear()
        self._num_images, self._writer = 0, None
        return metrics[0]

    def _gather(self, size: int) -> list[Tensor]:
        rank, world_size = get_dist_info()
        evaluated = torch.tensor(self._num_images)
        all_reduce(evaluated)
        results, counted = self.results, self._num_images
        padded = world_size > 1 and evaluated > size
        if padded and (counted - 1) * world_size + rank >= size:
            results, counted = results[:-1], counted - 1
        num_classes = len(self.dataset_meta['classes'])
        total = sum(results, torch.zeros(num_classes, num_classes + 1, dtype=torch.int64))
        flat = torch.cat([total.flatten(), torch.tensor([counted])])
        all_reduce(flat)
        if flat[-1] != size:
            raise ESCNetError(
                f'The data set has {size} images, but {int(evaluated)} were evaluated, not each '
                "exactly once: use sampler=dict(type='DefaultSampler', shuffle=False) in the data "
                'loader.'
            )
        return [flat[:-1].reshape(total.shape)] if size else []

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Compute the metrics from the counts of all images.

        Args:
            results: Confusion matrices (K, K + 1), of single images or sums.

        Returns:
            The metrics of ``IoUMetric`` and the means listed in the class docstring, in percent;
            the mean over no class is NaN.
        """
        logger = MMLogger.get_current_instance()
        if self.format_only:
            say(logger, f'predictions are saved in {self.output_dir}')
            return {}
        if not results:
            logger.warning('no image was evaluated: there are no metrics')
            return {}
        areas = areas_of(sum(results))
        metrics = super().compute_metrics([tuple(area.double() for area in areas)])
        iou, present = self.class_iou(results)
        labelled = areas[3].numpy()
        share = labelled[present] / labelled.sum() if present.any() else []
        metrics['mIoU_gt'] = _mean(iou[present])
        metrics['fwIoU'] = float(np.dot(iou[present], share)) if present.any() else float('nan')
        if self.seen is not None:
            is_word = np.arange(len(iou)) != self.background_from
            is_seen = self._is_among(self.seen)
            seen = _mean(iou[present & is_word & is_seen])
            unseen = _mean(iou[present & is_word & ~is_seen])
            metrics['mIoU_seen'], metrics['mIoU_unseen'] = seen, unseen
            metrics['hIoU'] = 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)
            self._log_split(logger)
        for name, classes in self.groups.items():
            metrics[f'mIoU_{name}'] = _mean(iou[present & self._is_among(classes)])
        return {key: round(float(value), 2) for key, value in metrics.items()}

    @staticmethod
    def class_iou(results: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """IoU of each class over all images.

        Args:
            results: At least one confusion matrix (K, K + 1), of an image or summed.

        Returns:
            IoU in percent, (K,), float64, NaN for classes absent from the ground truth; and
            whether each is present, (K,), bool.
        """
        intersect, union, _, labelled = (area.numpy() for area in areas_of(sum(results)))
        present = labelled > 0
        share = np.divide(intersect, union, out=np.full(len(union), np.nan), where=present)
        return 100 * share, present

    def seen_flags(self) -> list[bool | None]:
        """Whether each of the K classes has masks in training; None for background, or unknown."""
        if self.seen is None:
            return [None] * len(self.dataset_meta['classes'])
        is_seen = self._is_among(self.seen).tolist()
        return [None if i == self.background_from else flag for i, flag in enumerate(is_seen)]

    def _add(self, counts: Tensor) -> None:
        if len(self.results) > 1:
            self.results[:] = [sum(self.results)]
        self.results.append(counts)
        self._num_images += 1

    def _merge_background(self, ids: Tensor) -> Tensor:
        if self.background_from is None:
            return ids
        return torch.where(ids == self.ignore_index, ids, ids.clamp(max=self.background_from))

    def _check_ids(self, ids: Tensor, subject: str, remedy: str) -> None:
        num_classes = len(self._dataset_meta['classes'])
        outside = ids[((ids < 0) | (ids >= num_classes)) & (ids != self.ignore_index)]
        if outside.numel():
            raise ESCNetError(
                f'{subject} holds id {first_few(outside.unique().tolist())}, but the data set has '
                f'{num_classes} classes and ignores {self.ignore_index}: check {remedy}.'
            )

    def _write(self, prediction: Tensor, data_sample: dict) -> None:
        first_id = 1 if data_sample.get('reduce_zero_label') else 0
        if self._writer is None:
            names = LabelNames(
                names=tuple(self._dataset_meta['classes']),
                ignore_index=self.ignore_index,
                first_id=first_id,  # the ids of the label files, as test servers expect
                background_from=self.background_from,
                dataset=self.dataset_name,
            )
            self._writer = LabelWriter(self.output_dir, names, image_dir=self.image_dir)
            if get_dist_info()[0] == 0:
                self._writer.begin()
        if first_id != self._writer.names.first_id:
            raise ESCNetError(
                f'The label maps of {data_sample["img_path"]} and of earlier images differ in '
                'reduce_zero_label: save the predictions of one data set at a time.'
            )
        self._writer.write(prediction.cpu().numpy(), data_sample['img_path'])

    def _is_among(self, names: Sequence[str]) -> np.ndarray:
        """Which classes share a synonym with any of the names, (num_classes,), bool."""
        matches = match_classes(self.dataset_meta['classes'], names)
        return np.array([match is not None for match in matches])

    def _log_split(self, logger: MMLogger) -> None:
        if not self._split_is_logged:
            classes = self.dataset_meta['classes'][: self.background_from]
            logger.info('\n' + describe_split(classes, match_classes(classes, self.seen)))
            self._split_is_logged = True


def _names_of(classes: Sequence[str] | str) -> Sequence[str]:
    """Class names, or those of a vocabulary given by its short name."""
    return vocabulary_names(classes) if isinstance(classes, str) else classes


def _check_vocabulary(data_sample: dict, num_words: int, where: str) -> None:
    if 'seg_logits' in data_sample:
        channels = len(data_sample['seg_logits']['data'])
    else:
        channels = data_sample['pred_sem_seg'].get('num_classes', num_words)
    if channels != num_words and (channels, num_words) != (1, 2):  # MMSegmentation's binary heads
        raise ESCNetError(
            f'The model has scores of {channels} classes for {where}, but the data set has '
            f'{num_words}: it has another vocabulary, so add VocabularyHook to custom_hooks.'
        )


def _as_map(data: Tensor) -> Tensor:
    """(1, height, width) or (height, width) -> (height, width), int64."""
    return data.reshape(data.shape[-2:]).long()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float('nan')
