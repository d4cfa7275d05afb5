"""NaN and Inf are refused in weights and in scores, before they become a map of nonsense (ours)."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import ESCNetError, first_few


def non_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that hold a NaN or an Inf."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return [name for name, tensor in items if not tensor.isfinite().all()]


def check_weights(weights: Mapping[str, Tensor], *, source: str) -> None:
    """Check that weights about to be loaded are numbers.

    Args:
        weights: By name.
        source: What errors call them.

    Raises:
        ESCNetError: Naming some of those that are not.
    """
    names = non_finite(weights)
    if names:
        raise ESCNetError(
            f'{source} holds numbers that are not finite (NaN or Inf) in {first_few(names)}: the '
            'training that wrote it diverged, or the file is damaged; give another one.'
        )


def check_scores(scores: Tensor) -> None:
    """Check that labels are not about to be chosen among NaN.

    Args:
        scores: (B, N, h, w).

    Raises:
        ESCNetError: If one is NaN or Inf.
    """
    if not scores.isfinite().all():
        raise ESCNetError(
            'The scores are not finite (NaN or Inf): check the images and the weights, or set '
            'test_cfg.autocast to a larger type if it is float16.'
        )
