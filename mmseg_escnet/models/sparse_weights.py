"""Matrices with few nonzero rows in small files: the token embeddings of the toy CLIP."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ESCNetError

_MAX_DENSE = 1 << 28  # numbers that a sparse tensor may become: a GiB


def sparse_rows(weight: Tensor) -> Tensor:
    """The rows of a matrix that are not all zero, for a small file; :func:`to_dense` undoes it.

    An embedding of CLIP's 49408 tokens, of which a toy world needs a hundred, would otherwise take
    25 MB.

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
    """Make sparse tensors dense (see :func:`sparse_rows`), and leave the others as they are.

    Args:
        state_dict: Tensors by name, strided or sparse COO.
        source: Where they come from, for the message.

    Raises:
        ESCNetError: If a sparse tensor is damaged or of another layout.
    """
    return {key: _to_dense(value, key, source) for key, value in state_dict.items()}


def _to_dense(value: Tensor, key: str, source: str) -> Tensor:
    if value.layout == torch.strided:
        return value
    if value.layout != torch.sparse_coo:
        raise ESCNetError(
            f'{source} holds a tensor of the layout {value.layout} under {key!r}: store it dense.'
        )
    try:
        # torch.load leaves the indices unchecked, and to_dense would write wherever they point
        indices, values = value._indices(), value._values()
        if max(value.numel(), indices.numel(), values.numel()) > _MAX_DENSE:
            raise RuntimeError(f'it has more than {_MAX_DENSE} numbers')
        checked = torch.sparse_coo_tensor(indices, values, value.shape, check_invariants=True)
        return checked.to_dense()
    except RuntimeError as error:
        raise ESCNetError(
            f'{source} holds a damaged sparse tensor under {key!r} '
            f'({str(error).splitlines()[0][:200]}): get it again.'
        ) from error
