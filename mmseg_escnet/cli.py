"""What the command-line tools share."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .config import check_config_path, run_config
from .errors import ESCNetError

if TYPE_CHECKING:
    from mmengine.config import Config

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
_DEAD_WORKER = re.compile(r'DataLoader worker \(pid(\(s\))? [\d, ]+\)[^.\n]*')
_WHY_WORKERS_DIE = (
    'a process that loads data died, as a rule because memory ran out (`dmesg` tells) or /dev/shm '
    'is too small; set train_dataloader.num_workers lower, or to 0 to see the error itself'
)


def run_tool(main: Callable[[], int | None], *, interrupted: str = '') -> None:
    """Run a tool's main function and exit; threads of libraries it loads wait passively.

    Bad input ends with one sentence and status 2, the death of a data loading worker with status 1,
    Ctrl-C with status 130; none of them with a traceback.

    Args:
        main: The tool; returns its exit status, None for 0.
        interrupted: What to say after Ctrl-C: how to go on. A KeyboardInterrupt with a message of
            its own goes before.
    """
    from . import threads  # noqa: F401

    try:
        status = main()
    except ESCNetError as error:
        # from a worker of a data loader the sentence comes behind that worker's traceback
        sentence = str(error).rsplit('ESCNetError: ', 1)[-1].strip()
        print(f'error: {sentence}', file=sys.stderr)
        status = BAD_INPUT
    except (RuntimeError, ConnectionError) as error:
        if not (death := _DEAD_WORKER.search(str(_cause(error)))):
            raise
        print(f'error: {death[0]}: {_WHY_WORKERS_DIE}', file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt as interruption:
        how_to_go_on = str(interruption) or interrupted
        print(f'interrupted: {how_to_go_on}' if how_to_go_on else 'interrupted', file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status or 0)


def _cause(error: Exception) -> Exception:
    """What PyTorch says of a dead data loading worker, whose pipe may break before that."""
    torch = sys.modules.get('torch')
    if isinstance(error, ConnectionError) and torch is not None:
        try:
            for _ in range(20):  # the pipe may also break before the system reports the death
                torch._C._error_if_any_worker_fails()
                time.sleep(0.05)
        except RuntimeError as death:
            return death
    return error


class ConfigOptions(argparse.Action):
    """MMEngine's ``DictAction``, imported when there is something to read."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from mmengine.config import DictAction

        if bad := [value for value in values if '=' not in value.strip('=')]:
            parser.error(f'{option_string}: {bad[0]!r} is not key=value')
        DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help begins with the description as it is, line by line."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which :func:`load_config` merges into a config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        help='override settings of the config: key=value, nested keys with dots, '
        'lists as key="[a,b]"',
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of training and testing, which :func:`load_run_config` reads."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes it; torchrun sets the environment variable instead
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(
    path: str,
    options: Mapping[str, object] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """:func:`.config.run_config` with all components registered.

    Raises:
        ESCNetError: If there is no such file.
        ImportError: If a requirement is missing; the message lists all that are.
    """
    check_config_path(path)
    importlib.import_module('.components', __package__)
    return run_config(path, options, work_dir, launcher)


def load_run_config(args: argparse.Namespace) -> Config:
    """:func:`load_config` with the arguments of :func:`add_config_arguments`."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
