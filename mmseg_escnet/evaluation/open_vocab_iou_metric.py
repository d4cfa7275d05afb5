"""IoU for any number of classes, with the means that papers of this field report."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image
from torch import Tensor

from ..datasets.benchmark_vocabularies import vocabulary_names
from ..errors import ESCNetError
from ..vocabulary import split_synonyms

_IDS_SHOWN = 5
_NAMES_SHOWN = 3
_OWN_MEANS = ('gt', 'seen', 'unseen')  # a group of such a name would hide a mean


@METRICS.register_module()
class OpenVocabIoUMetric(IoUMetric):
    """``IoUMetric`` for wide vocabularies, with several means, each named.

    All figures and the per-class table of MMSegmentation's ``IoUMetric`` are reported under the
    same names. Its ``mIoU`` gives a class that is predicted but absent from the ground truth an
    IoU of 0; papers built on detectron2 average over the classes in the ground truth alone, which
    is ``mIoU_gt`` here. With ``seen``, the same mean is also taken over the classes that training
    had masks of (``mIoU_seen``) and over the others (``mIoU_unseen``), with their harmonic mean
    (``hIoU``). Each of ``groups`` adds the same mean over its classes (``mIoU_<name>``). All values
    are percentages.

    Pixels are counted in integers, and ids outside the data set are an error, where
    MMSegmentation drops them. A prediction equal to ``ignore_index`` means "no class" and counts
    as a miss. ``output_dir`` gets PNG of 16 bits where 8 do not hold every id.

    Args:
        seen: Vocabulary of training: its names, or its short name ('coco_stuff171',
            'toyworld_seen'). A class is seen if one of its synonyms is one of theirs, case apart.
        groups: Further means: name -> class names or short name of a vocabulary, matched like
            ``seen``. Groups may overlap.
        kwargs: Arguments of ``IoUMetric``.

    Raises:
        ESCNetError: If a group has the name of a mean there is anyway, or, as soon as the data
            set is known, none of its classes.
    """

    def __init__(
        self,
        *,
        seen: Sequence[str] | str | None = None,
        groups: Mapping[str, Sequence[str] | str] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.seen = None if seen is None else _names_of(seen)
        self.groups = {name: _names_of(classes) for name, classes in (groups or {}).items()}
        for name in self.groups:
            if name in _OWN_MEANS:
                raise ESCNetError(
                    f'A group of classes may not be called {name!r}: mIoU_{name} is a mean of its '
                    'own, so give the group another name.'
                )

    @property
    def dataset_meta(self) -> dict | None:
        """What is known of the data set; its ``classes`` are those that are evaluated."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # The loops set it when they are built: a wrong group is found before hours of training.
        self._dataset_meta = dataset_meta
        for name, classes in self.groups.items():
            if not self._is_among(classes).any():
                shown = ', '.join(map(repr, classes[:_NAMES_SHOWN]))
                raise ESCNetError(
                    f'No class of the group {name!r} ({shown or "empty"}'
                    f'{", ..." if len(classes) > _NAMES_SHOWN else ""}) is a class of the data '
                    'set: check its names, or leave the group out.'
                )

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of one batch, or write its predictions.

        Args:
            data_batch: Not used.
            data_samples: One dict an image with ``pred_sem_seg`` and, unless ``format_only``,
                ``gt_sem_seg``, whose ``data`` are ids (1, height, width).

        Raises:
            ESCNetError: If sizes differ, or an id is neither a class nor ``ignore_index``.
        """
        num_classes = len(self.dataset_meta['classes'])
        for data_sample in data_samples:
            prediction = _as_map(data_sample['pred_sem_seg']['data'])
            where = data_sample.get('img_path', 'an image without img_path')
            self._check_ids(
                prediction,
                num_classes,
                f'The prediction for {where}',
                'the vocabulary of the model',
            )
            if not self.format_only:
                label = _as_map(data_sample['gt_sem_seg']['data']).to(prediction.device)
                if label.shape != prediction.shape:
                    raise ESCNetError(
                        f'The prediction for {where} has shape {tuple(prediction.shape)}, its '
                        f'label map {tuple(label.shape)}: in the test pipeline, load labels after '
                        'resizing the image.'
                    )
                self._check_ids(
                    label, num_classes, f'The label map of {where}', 'the converter of the data set'
                )
                self.results.append(
                    self.intersect_and_union(prediction, label, num_classes, self.ignore_index)
                )
            if self.output_dir is not None:
                self._write(prediction, data_sample, num_classes)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Turn the counts of all images into figures.

        Args:
            results: One tuple an image, as :meth:`intersect_and_union` returns it.

        Returns:
            What ``IoUMetric`` returns, and the means named in the class, in percent; a mean over
            no class is NaN.
        """
        if self.format_only:
            return super().compute_metrics(results)
        if not results:
            MMLogger.get_current_instance().warning('no image was evaluated: there are no figures')
            return {}
        metrics = super().compute_metrics([_totals(results)])
        iou, present = self.class_iou(results)
        metrics['mIoU_gt'] = _mean(iou[present])
        if self.seen is not None:
            is_seen = self._is_among(self.seen)
            seen, unseen = _mean(iou[present & is_seen]), _mean(iou[present & ~is_seen])
            metrics['mIoU_seen'], metrics['mIoU_unseen'] = seen, unseen
            metrics['hIoU'] = 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)
        for name, classes in self.groups.items():
            metrics[f'mIoU_{name}'] = _mean(iou[present & self._is_among(classes)])
        return {key: round(float(value), 2) for key, value in metrics.items()}

    @staticmethod
    def class_iou(results: Sequence[tuple[Tensor, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """IoU of each class over all images.

        Args:
            results: One tuple an image, as :meth:`intersect_and_union` returns it; at least one.

        Returns:
            IoU in percent, (num_classes,), float64, NaN where the class is not in the ground
            truth; whether it is there, (num_classes,), bool.
        """
        intersect, union, _, labelled = (total.numpy() for total in _totals(results))
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
            Intersection, union, predicted and labelled pixels, each (num_classes,), int32.
        """
        valid = label != ignore_index
        pred_label, label = pred_label[valid].long(), label[valid].long()

        def count(ids: Tensor) -> Tensor:
            ids = ids[ids < num_classes]  # what is left out is "no class"
            return torch.bincount(ids, minlength=num_classes).to('cpu', torch.int32)

        intersect = count(label[pred_label == label])
        predicted, labelled = count(pred_label), count(label)
        return intersect, predicted + labelled - intersect, predicted, labelled

    def _check_ids(self, ids: Tensor, num_classes: int, subject: str, remedy: str) -> None:
        outside = ids[((ids < 0) | (ids >= num_classes)) & (ids != self.ignore_index)]
        if outside.numel():
            found = outside.unique().tolist()
            shown = ', '.join(map(str, found[:_IDS_SHOWN]))
            raise ESCNetError(
                f'{subject} holds id {shown}{" and more" if len(found) > _IDS_SHOWN else ""}, but '
                f'the data set has {num_classes} classes and ignores {self.ignore_index}: check '
                f'{remedy}.'
            )

    def _write(self, prediction: Tensor, data_sample: dict, num_classes: int) -> None:
        ids = prediction.cpu().numpy()
        no_class = ids == self.ignore_index
        shift = 1 if data_sample.get('reduce_zero_label') else 0  # back to the ids of the files
        ids = np.where(no_class, self.ignore_index, ids + shift)
        largest = max(num_classes - 1 + shift, int(ids.max(initial=0)))
        name = Path(data_sample['img_path']).stem + '.png'
        dtype = np.uint8 if largest <= 255 else np.uint16
        Image.fromarray(ids.astype(dtype)).save(osp.join(self.output_dir, name))

    def _is_among(self, names: Sequence[str]) -> np.ndarray:
        """Which classes of the data set share a synonym with a name, (num_classes,), bool."""
        wanted = {synonym.lower() for name in names for synonym in split_synonyms(name)}
        return np.array(
            [
                any(synonym.lower() in wanted for synonym in split_synonyms(name))
                for name in self.dataset_meta['classes']
            ]
        )


def _names_of(classes: Sequence[str] | str) -> Sequence[str]:
    """Class names as they are, or those of a vocabulary given by its short name."""
    return vocabulary_names(classes) if isinstance(classes, str) else classes


def _totals(results: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Counts of all images: intersection, union, predicted, labelled, each (num_classes,)."""
    # One sum in 64 bits: float32 sums lose pixels from 2**24 of a class on.
    return tuple(
        torch.stack([counts[i] for counts in results]).sum(dim=0, dtype=torch.int64).double()
        for i in range(4)
    )


def _as_map(data: Tensor) -> Tensor:
    """(1, height, width) or (height, width) -> (height, width), int64."""
    return data.reshape(data.shape[-2:]).long()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float('nan')
