"""Refuse NaN and Inf in weights and scores, which would give meaningless label maps (ours)."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import ESCNetError, first_few


def non_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that contain NaN or Inf."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return [name for name, tensor in items if not tensor.isfinite().all()]


def check_weights(weights: Mapping[str, Tensor], *, source: str) -> None:
    """Check that weights are finite before they are loaded.

    Args:
        weights: By name.
        source: What is loaded, for the message.

    Raises:
        ESCNetError: Naming the first few that are not.
    """
    names = non_finite(weights)
    if names:
        raise ESCNetError(
            f'{source} contains values that are not finite (NaN or Inf) in {first_few(names)}: the '
            'training that wrote it diverged, or the file is damaged; use another one.'
        )


def check_scores(scores: Tensor) -> None:
    """Check that scores are finite before labels are chosen.

    Args:
        scores: (B, N, h, w).

    Raises:
        ESCNetError: If any is NaN or Inf.
    """
    if not scores.isfinite().all():
        raise ESCNetError(
            'The scores are not finite (NaN or Inf): check the images and the weights; if '
            "test_cfg.autocast is 'float16', use 'bfloat16' or None."
        )
