"""The hook that tells a model which words to segment into."""

from __future__ import annotations

import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch.utils.data import DataLoader

from ..errors import ESCNetError


def unwrap(model: nn.Module) -> nn.Module:
    """The segmentor inside the wrappers of distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Set the model's vocabulary to that of the data set in training, validation or test.

    The data set is thus the only place that defines the classes; after a validation during training
    the training vocabulary is restored.
    """

    def __init__(self) -> None:
        self._in_training = False

    def before_train(self, runner: Runner) -> None:
        self._in_training = True
        self._follow(runner, runner.train_dataloader)

    def after_train(self, runner: Runner) -> None:
        self._in_training = False

    def before_val(self, runner: Runner) -> None:
        self._follow(runner, runner.val_dataloader)

    def after_val(self, runner: Runner) -> None:
        if self._in_training:  # otherwise runner.train_dataloader would build the training data
            self._follow(runner, runner.train_dataloader)

    def before_test(self, runner: Runner) -> None:
        self._follow(runner, runner.test_dataloader)

    @staticmethod
    def _follow(runner: Runner, dataloader: DataLoader) -> None:
        meta = dataloader.dataset.metainfo
        if 'classes' not in meta:
            raise ESCNetError(
                f'The data set {type(dataloader.dataset).__name__} has no class names: give it '
                "metainfo=dict(classes=['...', ...])."
            )
        words = meta['classes'], meta.get('palette'), meta.get('phrases')
        unwrap(runner.model).set_vocabulary(*words)
