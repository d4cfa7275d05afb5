"""The vocabulary of the model follows the data set in use."""

import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch.utils.data import DataLoader

from ...errors import ESCNetError


def unwrap(model: nn.Module) -> nn.Module:
    """The segmentor inside what distributed training and test-time augmentation put around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Set the model's vocabulary from the data set under training, validation or test.

    Which words the model looks for is thus written in one place, the data set; after a validation
    in the middle of training the training vocabulary is back.
    """

    def __init__(self) -> None:
        self._in_training = False

    def before_train(self, runner: Runner) -> None:
        """Use the words of the training data set."""
        self._in_training = True
        self._follow(runner, runner.train_dataloader)

    def after_train(self, runner: Runner) -> None:
        """Training is over."""
        self._in_training = False

    def before_val(self, runner: Runner) -> None:
        """Use the words of the validation data set."""
        self._follow(runner, runner.val_dataloader)

    def after_val(self, runner: Runner) -> None:
        """Back to the words of the training data set, in the middle of training."""
        # not asked of the runner: its train_dataloader builds the training data when looked at
        if self._in_training:
            self._follow(runner, runner.train_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Use the words of the test data set."""
        self._follow(runner, runner.test_dataloader)

    @staticmethod
    def _follow(runner: Runner, dataloader: DataLoader) -> None:
        meta = dataloader.dataset.metainfo
        if 'classes' not in meta:
            raise ESCNetError(
                f'The data set {type(dataloader.dataset).__name__} has no class names: give it '
                "metainfo=dict(classes=['...', ...])."
            )
        unwrap(runner.model).set_vocabulary(meta['classes'], meta.get('palette'))
