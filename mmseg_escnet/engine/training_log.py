"""A short account of a training or a test on the terminal; MMEngine's long log is in a file."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from tqdm import tqdm

from ..errors import first_few
from ..progress import progress

_MOST_METRICS = 8
_NO_WARNINGS = (  # of MMEngine, about what is as it should be, or is not the user's
    'is skipped since its requires_grad=False',
    'will be deprecated in future',
    'The prefix is not set in metric class',
)


def build_runner(cfg: Config, kind: str | type[Runner] | None = None) -> Runner:
    """A runner that trains and tests with a short account on the terminal.

    The terminal shows warnings, what is trained and where it is written, a progress bar (without a
    terminal, a line a minute), the time of the first step, and the figures of each validation or
    test. Everything else is only in ``WORK_DIR/TIMESTAMP/TIMESTAMP.log``.

    Args:
        cfg: A complete config.
        kind: Of the runner; None for the config's ``runner_type``.
    """
    kind = kind or cfg.get('runner_type', 'Runner')
    kind = RUNNERS.get(kind) if isinstance(kind, str) else kind
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='The draw is False')  # SegVisualizationHook
        return type(kind.__name__, (_BriefRunner, kind), {}).from_cfg(cfg)


def say(logger: logging.Logger, message: str) -> None:
    """Write to the terminal and to the log file."""
    logger.info(message, extra=dict(terminal=True))


@contextmanager
def quiet_log() -> Iterator[None]:
    """Only warnings of MMEngine's current logger."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)


class _BriefRunner:
    """Mixed into a runner of MMEngine."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Write only what is meant for it to the terminal."""
        logger = super().build_logger(*args, **kwargs)
        for number, handler in enumerate(logger.handlers):
            if type(handler) is logging.StreamHandler:
                logger.handlers[number] = _Terminal(handler)
        return logger

    def train(self) -> object:
        """Train, with an account of it."""
        log, scalars = self._log_file(), Path(self.log_dir, 'vis_data/scalars.json')
        return self._account_for(
            super().train,
            f'checkpoints: {self.work_dir}',
            f'log, with all details: {log} (follow it with tail -f)',
            f'losses and metrics, a line of JSON each: {scalars}',
            'loading the data and the weights ...',
        )

    def test(self) -> dict[str, float]:
        """Test, with an account of it."""
        return self._account_for(
            super().test, f'log, with the figures of all classes: {self._log_file()}'
        )

    def _log_file(self) -> Path:
        return Path(self.log_dir, f'{self.timestamp}.log')

    def _account_for(self, run: Callable[[], object], *lines: str) -> object:
        """Say something, and run with a bar, which is closed whatever happens."""
        account = TerminalHook()
        self.register_hook(account)
        for line in lines:
            say(self.logger, line)
        try:
            return run()
        finally:
            account.close()


class _Terminal(logging.Handler):
    """Warnings, and what :func:`say` says, beside a progress bar."""

    def __init__(self, replaced: logging.Handler) -> None:
        super().__init__(replaced.level)
        self.filters = list(replaced.filters)  # repeated warnings

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the terminal shows it."""
        if record.levelno < logging.WARNING:
            return getattr(record, 'terminal', False)
        message = record.getMessage()
        return not any(part in message for part in _NO_WARNINGS) and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, above the bar if there is one."""
        level = record.levelname.lower()
        message = self.format(record)
        tqdm.write(message if record.levelno < logging.WARNING else f'{level}: {message}')
        sys.stdout.flush()


class TerminalHook(Hook):
    """Tells the terminal where a training or a test stands."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._bar = self._evaluation = None
        self._since = self._began = 0.0  # time.monotonic()
        self._is_first = True

    def before_train(self, runner: Runner) -> None:
        """Say what is trained, and open the bar."""
        loader = runner.cfg.train_dataloader
        each = f'{loader.get("batch_size", 1)} images'
        if dist.get_world_size() > 1:
            each = f'{dist.get_world_size()} x {each}'
        if (counts := runner.cfg.optim_wrapper.get('accumulative_counts', 1)) > 1:
            each += f', an update after every {counts} steps'
        interval = getattr(runner.train_loop, 'val_interval', math.inf)
        unit = 'steps' if runner.train_loop.__class__.__name__.startswith('Iter') else 'epochs'
        validates = runner.val_loop is not None and interval <= _end(runner, unit)
        validation = 'none'
        if validates:
            validation = f'every {interval} {unit}, {len(runner.val_dataloader.dataset)} images'
        lines = [
            f'training: {runner.max_iters} steps of {each}{_parameters(runner)}',
            f'validation: {validation}',
        ]
        if runner.iter > 0:
            lines.append(f'resumed after step {runner.iter}: {runner.cfg.get("load_from")}')
        for line in lines:
            say(runner.logger, line)
        self._bar = progress(
            desc='training',
            total=runner.max_iters,
            initial=runner.iter,
            unit='step',
            disable=not dist.is_main_process(),
        )
        self._since = self._began = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Move the bar on."""
        if self._is_first:
            self._is_first = False
            seconds = time.monotonic() - self._began
            say(runner.logger, f'first step: {seconds:.1f} s, including the start of data loading')
        scalars = runner.message_hub.log_scalars
        if 'train/loss' in scalars:
            loss = scalars['train/loss'].current()
            self._bar.set_postfix(loss=f'{float(loss):.3g}', refresh=False)
        self._bar.update()

    def before_val(self, runner: Runner) -> None:
        """Open a bar for the validation."""
        self._open_evaluation('validation', len(runner.val_dataloader))

    def before_test(self, runner: Runner) -> None:
        """Open a bar for the test."""
        self._open_evaluation('test', len(runner.test_dataloader))

    def after_val_iter(self, runner: Runner, *_, **__) -> None:
        """Move the bar on."""
        self._evaluation.update()

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Say what was measured."""
        figures, seconds = self._close_evaluation(metrics)
        say(runner.logger, f'step {runner.iter}: {figures} (validated in {seconds})')

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Say what was measured."""
        figures, seconds = self._close_evaluation(metrics)
        say(runner.logger, f'{figures or "no figures"} (tested in {seconds})')

    def _open_evaluation(self, description: str, batches: int) -> None:
        self._since = time.monotonic()
        self._evaluation = progress(
            desc=description,
            total=batches,
            unit='batch',
            leave=False,
            disable=not dist.is_main_process(),
        )

    def _close_evaluation(self, metrics: Mapping[str, object] | None) -> tuple[str, str]:
        """The figures, and how long they took."""
        self._evaluation.close()
        numbers = {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))}
        figures = first_few((f'{k} {v:.4g}' for k, v in numbers.items()), _MOST_METRICS)
        return figures, f'{time.monotonic() - self._since:.0f} s'

    def after_train(self, runner: Runner) -> None:
        """Say how long it took, and where the last checkpoint is."""
        self.close()
        seconds = time.monotonic() - self._began
        last = Path(runner.work_dir, 'last_checkpoint')
        where = f'; last checkpoint: {last.read_text().strip()}' if last.is_file() else ''
        say(runner.logger, f'trained in {seconds / 60:.1f} minutes{where}')

    def close(self) -> None:
        """Close the bars."""
        for bar in (self._evaluation, self._bar):
            if bar is not None:
                bar.close()


def _end(runner: Runner, unit: str) -> int:
    return runner.max_iters if unit == 'steps' else runner.max_epochs


def _parameters(runner: Runner) -> str:
    """How many there are, and where; shards of them are not counted."""
    parameters = list(runner.model.parameters())
    if hasattr(runner, 'strategy'):
        return f', on {parameters[0].device}'
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    return (
        f', {total:.1f} million parameters, {trained:.1f} of them trained, on '
        f'{parameters[0].device}'
    )
