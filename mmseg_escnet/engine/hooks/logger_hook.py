"""One writer for the figures of a test in several processes."""

from __future__ import annotations

from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class MainProcessLoggerHook(LoggerHook):
    """MMEngine's ``LoggerHook``, whose file of test figures has one writer (ours).

    In MMEngine 0.10 every process of a distributed test writes ``TIMESTAMP/TIMESTAMP.json``: from
    time to time their writes mix and leave a file that is not JSON.
    """

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the figures of a test, and write them where the main process runs.

        Args:
            runner: The runner of the test.
            metrics: Figures by name.
        """
        super().after_test_epoch(runner, metrics)
