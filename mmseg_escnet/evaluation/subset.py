"""A first look: an evaluation on a few images, which nobody should take for more."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from ..errors import ESCNetError


def take_subset(cfg: Config, dataset: Dataset, number: int) -> str | None:
    """Restrict a test to some of its images, evenly spread over their order.

    That is the order of their names or of the list of images, so they are the same each time. The
    names of all figures begin with ``first_look_50_of_2000/``.

    Args:
        cfg: The config, changed in place.
        dataset: Its test data set, built; changed in place.
        number: Number of images.

    Returns:
        What its figures are, in words; None if there are no more images than that.

    Raises:
        ESCNetError: If the number is not positive, or the images are chosen by something else.
    """
    chosen = cfg.test_dataloader.dataset.get('indices') is not None
    if number < 1 or chosen or not isinstance(dataset, BaseDataset):
        raise ESCNetError(
            f'--subset {number} is not possible: give a positive number, and a single data set '
            'without indices of its own.'
        )
    total = len(dataset)
    if number >= total:
        return None
    indices = [position * total // number for position in range(number)]
    cfg.test_dataloader.dataset.indices = indices
    dataset.get_subset_(indices)
    dataset.images_in_all = total
    metrics = cfg.test_evaluator
    for metric in [metrics] if isinstance(metrics, dict) else metrics:
        metric.prefix = f'first_look_{number}_of_{total}'
    return f'first look: {number} of {total} images, not comparable with published figures'
