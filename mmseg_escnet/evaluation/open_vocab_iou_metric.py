"""IoU for any number of classes, with the means that papers of this field report."""

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
from ..errors import ESCNetError
from ..label_folder import LabelNames, LabelWriter
from .class_names import describe_split, match_classes

BACKGROUND = 'background'
_IDS_SHOWN = 5
_NAMES_SHOWN = 3
_OWN_MEANS = ('gt', 'seen', 'unseen')  # a group of such a name would hide a mean


@METRICS.register_module()
class OpenVocabIoUMetric(IoUMetric):
    """``IoUMetric`` for wide vocabularies, with several means, each named.

    All figures and the per-class table of MMSegmentation's ``IoUMetric`` are reported under the
    same names. Its ``mIoU`` gives a class that is predicted but absent from the ground truth an
    IoU of 0; papers built on detectron2 average over the classes in the ground truth alone, which
    is ``mIoU_gt`` here. ``fwIoU`` weighs each class by its share of the labelled pixels, ``aAcc``
    is the share of pixels that are right. With ``seen``, the mean of ``mIoU_gt`` is also taken over
    the classes that training had masks of (``mIoU_seen``) and over the others (``mIoU_unseen``),
    with their harmonic mean (``hIoU``); which are which is logged once. Each of ``groups`` adds the
    same mean over its classes (``mIoU_<name>``). All values are percentages.

    Pixels are counted in 64-bit integers, and ids outside the data set are an error, where
    MMSegmentation drops them. A prediction equal to ``ignore_index`` means "no class" and counts
    as a miss.

    Memory does not grow with the number of images: ``results`` holds at most two entries, the sum
    over all images but the last one of this process, and that last one. The last one is apart
    because samplers (MMEngine's ``DefaultSampler``, PyTorch's ``DistributedSampler``) deal images
    out in turns and fill up the last turn with images that were dealt already: :meth:`evaluate`
    leaves out exactly those, and makes sure that what is left is one entry for every image.

    Args:
        seen: Vocabulary of training: its names, or its short name ('coco_stuff171',
            'toyworld_seen'). A class is seen if one of its synonyms is one of theirs, as
            :func:`.class_names.normalise` compares them.
        groups: Further means: name -> class names or short name of a vocabulary, matched like
            ``seen``. Groups may overlap.
        background_from: Labels and predictions from this class on count as one class, called
            'background', whose index it is (PAS-20b: 20 objects, and the 39 other words together).
            It is neither seen nor unseen.
        output_dir: Folder for predictions, see :mod:`.label_folder`: the words as predicted, also
            those that count as background.
        image_dir: Folder of all images, whose sub-folders are kept in ``output_dir``.
        dataset_name: Name of the data set, for the file of names.
        kwargs: Other arguments of ``IoUMetric``.

    Raises:
        ESCNetError: If a group has the name of a mean there is anyway, or, as soon as the data
            set is known, none of its classes; if ``ignore_index`` is a class of the data set, or
            ``background_from`` leaves no class on one of its sides.
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
            if name in _OWN_MEANS:
                raise ESCNetError(
                    f'A group of classes may not be called {name!r}: mIoU_{name} is a mean of its '
                    'own, so give the group another name.'
                )
        self.background_from = background_from
        self.image_dir = image_dir
        self.dataset_name = dataset_name
        self._num_images = 0
        self._split_is_told = False
        self._writer: LabelWriter | None = None

    @property
    def dataset_meta(self) -> dict | None:
        """What is known of the data set; its ``classes`` are those that are evaluated."""
        if self._dataset_meta is None or self.background_from is None:
            return self._dataset_meta
        classes = (*self._dataset_meta['classes'][: self.background_from], BACKGROUND)
        return dict(self._dataset_meta, classes=classes)

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # The loops set it when they are built: what is wrong is found before hours of training.
        self._dataset_meta = dataset_meta
        self._split_is_told = False
        names = dataset_meta.get('classes')
        if names is None:
            return  # VocabularyHook says so
        if 0 <= self.ignore_index < len(names):
            raise ESCNetError(
                f'OpenVocabIoUMetric has ignore_index={self.ignore_index}, which is the id of '
                f'class {names[self.ignore_index]!r} of the data set: use 65535, in its label maps '
                'too.'
            )
        if self.background_from is not None and not 0 < self.background_from < len(names):
            raise ESCNetError(
                f'background_from={self.background_from} must be between 1 and {len(names) - 1} '
                f'for a data set of {len(names)} classes: it is the first that counts as '
                'background.'
            )
        for name, classes in self.groups.items():
            if not self._is_among(classes).any():
                shown = ', '.join(map(repr, classes[:_NAMES_SHOWN]))
                raise ESCNetError(
                    f'No class of the group {name!r} ({shown or "empty"}'
                    f'{", ..." if len(classes) > _NAMES_SHOWN else ""}) is a class of the data '
                    'set: check its names, or leave the group out.'
                )

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of one batch, and write its predictions if that was asked for.

        Args:
            data_batch: Not used.
            data_samples: One dict an image with ``pred_sem_seg`` and, unless ``format_only``,
                ``gt_sem_seg``, whose ``data`` are ids (1, height, width); with ``num_classes`` in
                ``pred_sem_seg``, or ``seg_logits`` (classes, height, width), it is made sure that
                they are of this vocabulary.

        Raises:
            ESCNetError: If sizes or numbers of classes differ, or an id is neither a class nor
                ``ignore_index``.
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
                label = _as_map(data_sample['gt_sem_seg']['data']).to(prediction.device)
                if label.shape != prediction.shape:
                    raise ESCNetError(
                        f'The prediction for {where} has shape {tuple(prediction.shape)}, its '
                        f'label map {tuple(label.shape)}: in the test pipeline, load labels after '
                        'resizing the image.'
                    )
                self._check_ids(label, f'The label map of {where}', 'the converter of the data set')
                self._add(
                    self.intersect_and_union(
                        self._merge_background(prediction),
                        self._merge_background(label),
                        num_classes,
                        self.ignore_index,
                    )
                )
            if self.output_dir is not None:
                self._write(prediction, data_sample)

    def evaluate(self, size: int) -> dict[str, float]:
        """Add up what all processes counted, every image once.

        Where there are more images than the data set has, samplers filled up the last turn: the
        k-th image of process r of p (all from 0) is image k * p + r of their order, and it is a
        repetition if that is ``size`` or more.

        Args:
            size: Number of images in the data set.

        Returns:
            What :meth:`compute_metrics` returns, on every process.

        Raises:
            ESCNetError: If not every image was evaluated once.
        """
        results = [] if self.format_only else self._gather(size)
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

    def _gather(self, size: int) -> list[tuple[Tensor, ...]]:
        rank, world_size = get_dist_info()
        evaluated = torch.tensor(self._num_images)
        all_reduce(evaluated)
        results, counted = self.results, self._num_images
        filled_up = world_size > 1 and evaluated > size
        if filled_up and (counted - 1) * world_size + rank >= size:
            results, counted = results[:-1], counted - 1
        zeros = torch.zeros(len(self.dataset_meta['classes']), dtype=torch.int64)
        totals = torch.stack(_totals([*results, (zeros,) * 4]))
        flat = torch.cat([totals.flatten(), torch.tensor([counted])])
        all_reduce(flat)
        if flat[-1] != size:
            raise ESCNetError(
                f'The data set has {size} images, but {int(evaluated)} were evaluated, not each of '
                "them once: use sampler=dict(type='DefaultSampler', shuffle=False) in the data "
                'loader.'
            )
        return [tuple(flat[:-1].reshape(totals.shape))] if size else []

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Turn the counts of all images into figures.

        Args:
            results: Tuples as :meth:`intersect_and_union` returns them, of one image or the sum
                over several.

        Returns:
            What ``IoUMetric`` returns, and the means named in the class, in percent; a mean over
            no class is NaN.
        """
        logger = MMLogger.get_current_instance()
        if self.format_only:
            logger.info(f'predictions are saved in {self.output_dir}')
            return {}
        if not results:
            logger.warning('no image was evaluated: there are no figures')
            return {}
        totals = tuple(total.double() for total in _totals(results))
        metrics = super().compute_metrics([totals])
        iou, present = self.class_iou(results)
        share = totals[3].numpy()[present] / totals[3].sum().item() if present.any() else []
        metrics['mIoU_gt'] = _mean(iou[present])
        metrics['fwIoU'] = float(np.dot(iou[present], share)) if present.any() else float('nan')
        if self.seen is not None:
            is_word = np.arange(len(iou)) != self.background_from
            is_seen = self._is_among(self.seen)
            seen = _mean(iou[present & is_word & is_seen])
            unseen = _mean(iou[present & is_word & ~is_seen])
            metrics['mIoU_seen'], metrics['mIoU_unseen'] = seen, unseen
            metrics['hIoU'] = 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)
            self._tell_split(logger)
        for name, classes in self.groups.items():
            metrics[f'mIoU_{name}'] = _mean(iou[present & self._is_among(classes)])
        return {key: round(float(value), 2) for key, value in metrics.items()}

    @staticmethod
    def class_iou(results: Sequence[tuple[Tensor, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """IoU of each class over all images.

        Args:
            results: Tuples as :meth:`intersect_and_union` returns them, of one image or the sum
                over several; at least one.

        Returns:
            IoU in percent, (num_classes,), float64, NaN where the class is not in the ground
            truth; whether it is there, (num_classes,), bool.
        """
        intersect, union, _, labelled = (total.double().numpy() for total in _totals(results))
        present = labelled > 0
        share = np.divide(intersect, union, out=np.full_like(union, np.nan), where=present)
        return 100 * share, present

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count the pixels of each class in one image.

        Args:
            pred_label: Predicted ids, (height, width).
            label: Ids of the ground truth, (height, width).
            num_classes: Number of classes.
            ignore_index: Id of pixels that do not count.

        Returns:
            Intersection, union, predicted and labelled pixels, each (num_classes,), int64.
        """
        valid = label != ignore_index
        pred_label, label = pred_label[valid].long(), label[valid].long()

        def count(ids: Tensor) -> Tensor:
            ids = ids[ids < num_classes]  # what is left out is "no class"
            return torch.bincount(ids, minlength=num_classes).cpu()

        intersect = count(label[pred_label == label])
        predicted, labelled = count(pred_label), count(label)
        return intersect, predicted + labelled - intersect, predicted, labelled

    def _add(self, counts: tuple[Tensor, ...]) -> None:
        if len(self.results) > 1:
            self.results[:] = [_totals(self.results)]
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
            found = outside.unique().tolist()
            shown = ', '.join(map(str, found[:_IDS_SHOWN]))
            raise ESCNetError(
                f'{subject} holds id {shown}{" and more" if len(found) > _IDS_SHOWN else ""}, but '
                f'the data set has {num_classes} classes and ignores {self.ignore_index}: check '
                f'{remedy}.'
            )

    def _write(self, prediction: Tensor, data_sample: dict) -> None:
        first_id = 1 if data_sample.get('reduce_zero_label') else 0
        if self._writer is None:
            names = LabelNames(
                names=tuple(self._dataset_meta['classes']),
                ignore_index=self.ignore_index,
                first_id=first_id,  # the ids of the label files, as a test server wants them
                background_from=self.background_from,
                dataset=self.dataset_name,
            )
            self._writer = LabelWriter(self.output_dir, names, image_dir=self.image_dir)
            if get_dist_info()[0] == 0:
                self._writer.begin()
        if first_id != self._writer.names.first_id:
            raise ESCNetError(
                f'The label maps of {data_sample["img_path"]} and of earlier images differ in '
                'reduce_zero_label: save predictions for one data set at a time.'
            )
        self._writer.write(prediction.cpu().numpy(), data_sample['img_path'])

    def _is_among(self, names: Sequence[str]) -> np.ndarray:
        """Which classes share a synonym with a name, (num_classes,), bool."""
        matches = match_classes(self.dataset_meta['classes'], names)
        return np.array([match is not None for match in matches])

    def _tell_split(self, logger: MMLogger) -> None:
        if not self._split_is_told:
            classes = self.dataset_meta['classes'][: self.background_from]
            logger.info('\n' + describe_split(classes, match_classes(classes, self.seen)))
            self._split_is_told = True


def _names_of(classes: Sequence[str] | str) -> Sequence[str]:
    """Class names as they are, or those of a vocabulary given by its short name."""
    return vocabulary_names(classes) if isinstance(classes, str) else classes


def _totals(results: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Sums: intersection, union, predicted, labelled, each (num_classes,), int64."""
    # float32 sums lose pixels from 2**24 of a class on
    return tuple(sum(counts[i].long() for counts in results) for i in range(4))


def _check_vocabulary(data_sample: dict, num_words: int, where: str) -> None:
    if 'seg_logits' in data_sample:
        channels = len(data_sample['seg_logits']['data'])
    else:
        channels = data_sample['pred_sem_seg'].get('num_classes', num_words)
    if channels != num_words and (channels, num_words) != (1, 2):  # MMSegmentation's binary heads
        raise ESCNetError(
            f'The model has scores of {channels} classes for {where}, but the data set has '
            f'{num_words}: its vocabulary is another one, so put VocabularyHook into custom_hooks.'
        )


def _as_map(data: Tensor) -> Tensor:
    """(1, height, width) or (height, width) -> (height, width), int64."""
    return data.reshape(data.shape[-2:]).long()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float('nan')
