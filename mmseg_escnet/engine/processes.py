"""Distributed training and test."""

from __future__ import annotations

import atexit
import copy
import os
from collections.abc import Callable

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from ..config import check_needs_no_checkpoint
from ..consistency import check_consistency, use_no_workers
from ..errors import ESCNetError
from .training_log import build_runner
from .vocabulary_hook import unwrap

# launcher -> the environment variable of the rank, the program, and how to use it
_LAUNCHERS = dict(
    pytorch=('RANK', 'torchrun', 'tools/dist_train.sh CONFIG GPUS, or tools/dist_test.sh'),
    slurm=('SLURM_PROCID', 'srun', 'tools/slurm_train.sh PARTITION JOB CONFIG'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun', 'mpirun -np 2 mmseg-escnet train ...'),
)
# launcher -> the environment variable of the local rank
_LOCAL_RANK = dict(pytorch='LOCAL_RANK', slurm='SLURM_LOCALID', mpi='OMPI_COMM_WORLD_LOCAL_RANK')


def join_processes(cfg: Config) -> None:
    """Initialise distributed processing, before a runner is built.

    MMEngine's runners would do so too, but they need a GPU for every process. Without a GPU, the
    backend is gloo and the model stays on the CPU.

    Args:
        cfg: A complete config; its ``launcher`` is 'none' for a single process. Without a GPU, the
            model wrapper is changed in place.

    Raises:
        ESCNetError: If this process was not started by the launcher.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return
    variable, program, command = _LAUNCHERS[launcher]
    if variable not in os.environ:
        raise ESCNetError(
            f'--launcher {launcher} is for processes that {program} starts: use `{command}`, or '
            'remove --launcher.'
        )
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        _keep_on_cpu(cfg)
    if dist.is_distributed():
        return
    env_cfg = cfg.get('env_cfg') or {}
    dist_cfg = dict(env_cfg.get('dist_cfg') or {})
    # first, as in MMEngine: init_dist would set another start method for the loaders' workers
    set_multi_processing(**(env_cfg.get('mp_cfg') or {}), distributed=True)
    if has_gpu:
        dist.init_dist(launcher, **dist_cfg)
    else:
        # MMEngine selects the GPU of this number; a negative one selects none
        local = _LOCAL_RANK[launcher]
        local_rank = os.environ.get(local, '0')
        os.environ[local] = '-1'
        dist.init_dist(launcher, **dist_cfg | dict(backend='gloo'))
        os.environ[local] = os.environ['LOCAL_RANK'] = local_rank
        # threads of gloo that are still alive when Python exits may abort the process
        atexit.register(_leave_processes)


def build_test_runner(cfg: Config) -> Runner:
    """A runner for tests alone, which does not need the training data (:func:`.build_runner`).

    Args:
        cfg: A complete config, whose training part is removed in place. Without ``load_from``,
            CLIP's own weights are loaded, which only CLIP alone can do with.

    Raises:
        ESCNetError: As :func:`join_processes` and :func:`.check_consistency`; or if ``load_from``
            is missing.
    """
    join_processes(cfg)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    check_consistency(cfg, 'test')
    use_no_workers(cfg)
    # otherwise SegVisualizationHook builds the training data set to count iterations
    for name in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(name, None)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if _acts_in_tests(hook)]
    runner = build_runner(cfg, Runner)
    if cfg.get('load_from') is None:
        check_needs_no_checkpoint(cfg)
        unwrap(runner.model).init_weights()
    return runner


def _acts_in_tests(hook: dict) -> bool:
    """Whether a hook has anything to do without training, where some refuse to be.

    Hooks that do nothing in training either, such as those for the beginning of a run, are kept.
    """
    stages = HOOKS.build(copy.deepcopy(hook)).get_triggered_stages()
    in_training = any('train' in stage or 'val' in stage for stage in stages)
    in_tests = any('test' in stage or stage == 'after_load_checkpoint' for stage in stages)
    return in_tests or not in_training


def in_turns(function: Callable[[], None]) -> None:
    """Call a function that may download files: in the main process before all others.

    The first processes of the other machines, which may have their own disks, come next.

    Args:
        function: Called once in every process.
    """
    rank = dist.get_rank()
    turn = 0 if rank == 0 else 1 if os.environ['LOCAL_RANK'] == '0' else 2
    for current in range(3):
        if current == turn:
            function()
        dist.barrier()


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _keep_on_cpu(cfg: Config) -> None:
    # the default of MMEngine's Runner except for device_ids
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = wrapper | dict(cfg.get('model_wrapper_cfg') or {}, device_ids=None)
