"""A runner for tests alone: hooks that only serve training are left out."""

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmseg_escnet.engine.processes import _acts_in_tests


@HOOKS.register_module()
class _OnlyAtTheBeginning(Hook):
    def before_run(self, runner) -> None:
        pass


@HOOKS.register_module()
class _AfterEveryIteration(Hook):
    def after_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        pass


@pytest.mark.parametrize(
    ('hook', 'acts'),
    [
        (dict(type='EarlyStoppingHook', monitor='mIoU'), False),
        (dict(type='ProfilerHook'), False),
        (dict(type='EmptyCacheHook'), True),
        (dict(type='EMAHook'), True),
        (dict(type='VocabularyHook'), True),
        (dict(type='FiniteHook'), False),
        (dict(type='SyncBuffersHook'), False),
        (dict(type='_OnlyAtTheBeginning'), True),
        (dict(type='_AfterEveryIteration'), True),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_hooks_of_a_test(hook, acts):
    assert _acts_in_tests(hook) is acts
