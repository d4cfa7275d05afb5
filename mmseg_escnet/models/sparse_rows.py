"""Matrices stored as their non-zero rows.

The toy world uses a hundred of CLIP's 49408 token embeddings; all of them would take 25 MB in each
of its committed files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ESCNetError

_MAX_DENSE = 1 << 28  # most elements of the dense tensor: 1 GiB


def sparse_rows(weight: Tensor) -> Tensor:
    """Store a matrix as its non-zero rows; :func:`to_dense` is the inverse.

    Args:
        weight: (N, W), strided.

    Returns:
        The same matrix (N, W) as a coalesced sparse COO tensor of whole rows.
    """
    weight = weight.detach()
    rows = weight.ne(0).any(dim=1).nonzero().T
    sparse = torch.sparse_coo_tensor(rows, weight[rows[0]], weight.shape, check_invariants=True)
    return sparse.coalesce()


def to_dense(state_dict: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Convert sparse tensors to dense ones; others are unchanged.

    Args:
        state_dict: Tensors by name, strided or sparse COO.
        source: What is loaded, for the message.

    Raises:
        ESCNetError: If a sparse tensor is damaged or has another layout.
    """
    return {key: _to_dense(value, key, source) for key, value in state_dict.items()}


def _to_dense(value: Tensor, key: str, source: str) -> Tensor:
    if value.layout == torch.strided:
        return value
    if value.layout != torch.sparse_coo:
        raise ESCNetError(
            f'{source} contains a tensor of layout {value.layout} under {key!r}: store it dense.'
        )
    try:
        # torch.load does not check the indices, and to_dense would write wherever they point
        indices, values = value._indices(), value._values()
        if max(value.numel(), indices.numel(), values.numel()) > _MAX_DENSE:
            raise RuntimeError(f'it has more than {_MAX_DENSE} elements')
        checked = torch.sparse_coo_tensor(indices, values, value.shape, check_invariants=True)
        return checked.to_dense()
    except RuntimeError as error:
        raise ESCNetError(
            f'{source} contains a damaged sparse tensor under {key!r} '
            f'({str(error).splitlines()[0][:200]}): get the file again.'
        ) from error
