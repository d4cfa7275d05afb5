"""Confusion matrices, which all areas and shares of pixels are computed from.

Shapes: K classes; (K, K + 1) of a confusion matrix: pixels by their label (rows) and by what they
are predicted as (columns), of which the last is "no class".
"""

import torch
from torch import Tensor


def count_confusion(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    """Count the pixels of one image by the class they have and the class they are taken for.

    Args:
        prediction: Predicted ids, (height, width); ``ignore_index`` is "no class".
        label: Ground truth ids, (height, width).
        num_classes: K.
        ignore_index: Id of labels not to count.

    Returns:
        (K, K + 1), int64, on the CPU.
    """
    labelled = label != ignore_index
    columns = torch.where(prediction == ignore_index, num_classes, prediction)[labelled].long()
    cells = label[labelled].long() * (num_classes + 1) + columns
    counts = torch.bincount(cells, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1).cpu()


def areas_of(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intersection, union, predicted and labelled pixels of each class, (K,) each, int64.

    Args:
        confusion: (K, K + 1).
    """
    intersect, predicted = confusion.diagonal(), confusion.sum(dim=0)[:-1]
    labelled = confusion.sum(dim=1)
    return intersect, predicted + labelled - intersect, predicted, labelled
