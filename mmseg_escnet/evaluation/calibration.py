"""CLIP alone before training: what a network starts from."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.config import Config

from ..config import clip_alone
from ..engine import build_test_runner
from ..errors import ESCNetError


def calibrate(cfg: Config) -> dict[str, float]:
    """Evaluate CLIP alone on the validation data of a training.

    What is above the figure afterwards is what training has added. It is the correlation C_0 that
    the first ESC block reads, by the protocol of the config, whatever the decode head makes of it.

    Args:
        cfg: A whole config of ESC-Net; left as it is. The log is in ``WORK_DIR/calibration``.

    Returns:
        Metrics in percent.

    Raises:
        ESCNetError: If there is no validation data, or CLIP would be random.
    """
    if cfg.get('val_dataloader') is None:
        raise ESCNetError(
            'CLIP alone is evaluated on the validation data, and this config has no '
            'val_dataloader: leave out --calibrate.'
        )
    own = copy.deepcopy(cfg)
    own.model = clip_alone(cfg.model)
    own.test_dataloader, own.test_evaluator = own.val_dataloader, own.val_evaluator
    own.test_cfg = dict(type='TestLoop')
    own.update(val_dataloader=None, val_evaluator=None, val_cfg=None)
    own.update(load_from=None, resume=False, experiment_name='calibration')
    if own.get('visualizer') is not None:  # MMEngine gives each name one
        own.visualizer.name = 'visualizer of the calibration'
    own.work_dir = str(Path(cfg.work_dir) / 'calibration')
    return build_test_runner(own).test()
