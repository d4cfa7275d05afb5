"""The device that a model runs on."""

from __future__ import annotations

import torch

from .errors import ESCNetError


def find_device(name: str) -> torch.device:
    """A device by PyTorch's name; 'auto' is the first GPU if there is one, otherwise the CPU.

    Raises:
        ESCNetError: If it cannot be used.
    """
    if name == 'auto':
        name = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ESCNetError(
            f'The device {str(name)!r} cannot be used ({str(error).splitlines()[0]}): give auto, '
            'cpu or a GPU such as cuda:0.'
        ) from error
    return device
