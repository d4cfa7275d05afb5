"""What the command-line tools share."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable

from .config import check_config_path, run_config
from .errors import ESCNetError

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
            torch._C._error_if_any_worker_fails()
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


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every tool with a config has."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        help='override settings of the config: key=value, nested keys with dots, '
        'lists as key="[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes it; torchrun sets the environment variable instead
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace):
    """Read the config that the arguments of :func:`add_config_arguments` name.

    Raises:
        ESCNetError: If there is no such file.
    """
    check_config_path(args.config)
    importlib.import_module('.components', __package__)  # explains what is missing

    if 'local_rank' in args:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return run_config(args.config, args.cfg_options, args.work_dir, args.launcher)
