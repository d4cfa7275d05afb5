"""What inference takes from a config: its images' way into the network, and the device."""

from __future__ import annotations

import torch
from mmcv.transforms import Compose, LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmseg.registry import TRANSFORMS

from ..config import pipeline_steps
from ..datasets.transforms import LoadLabelMap
from ..errors import ESCNetError


def find_device(name: str) -> torch.device:
    """The device of a name; 'auto' is the first GPU if there is one, otherwise the CPU.

    Raises:
        ESCNetError: If there is no such device.
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


def build_pipeline(cfg: Config) -> tuple[LoadImageFromFile, Compose]:
    """Build the pipeline of :func:`pipeline_steps`.

    Returns:
        The transform that loads images; the others, without those that load labels. They take
        ``img``, ``img_shape`` and ``ori_shape``.

    Raises:
        ESCNetError: If the config has no such pipeline, or it does not begin with loading an image
            from a file.
    """
    transforms = [TRANSFORMS.build(step) for step in pipeline_steps(cfg)]
    loaders = [step for step in transforms if isinstance(step, LoadImageFromFile)]
    if len(loaders) != 1 or transforms[0] is not loaders[0]:
        raise ESCNetError(
            'The test pipeline of the config does not begin with LoadImage: images cannot be '
            'loaded in another way here.'
        )
    others = [
        step for step in transforms[1:] if not isinstance(step, (LoadLabelMap, LoadAnnotations))
    ]
    return loaders[0], Compose(others)
