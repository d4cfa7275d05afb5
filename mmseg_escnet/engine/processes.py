"""Several processes that train or test together."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from ..config import check_needs_no_checkpoint
from ..errors import ESCNetError
from .hooks import unwrap

# launcher -> the variable by which it tells a process who it is, and how to start it
_LAUNCHERS = dict(
    pytorch=('RANK', 'torchrun', 'tools/dist_train.sh CONFIG GPUS, or tools/dist_test.sh'),
    slurm=('SLURM_PROCID', 'srun', 'tools/slurm_train.sh PARTITION JOB CONFIG'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun', 'mpirun -np 2 mmseg-escnet train ...'),
)
# launcher -> the variable with the number of a process on its machine
_LOCAL_RANK = dict(pytorch='LOCAL_RANK', slurm='SLURM_LOCALID', mpi='OMPI_COMM_WORLD_LOCAL_RANK')


def join_processes(cfg: Config) -> None:
    """Meet the other processes of the job, before a runner is built.

    MMEngine's runners would do it, but they give every process a GPU, whether there is one or not.
    On a machine without a GPU the processes meet by gloo, and the model stays on the CPU.

    Args:
        cfg: A whole config; its ``launcher`` says what started this process, 'none' if it is alone.
            Without a GPU, the wrapper of the model is changed in place.

    Raises:
        ESCNetError: If the launcher did not start this process.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return
    variable, program, command = _LAUNCHERS[launcher]
    if variable not in os.environ:
        raise ESCNetError(
            f'--launcher {launcher} is for processes that {program} starts: use `{command}`, or '
            'leave --launcher out.'
        )
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        _keep_on_cpu(cfg)
    if dist.is_distributed():
        return
    env_cfg = cfg.get('env_cfg') or {}
    dist_cfg = dict(env_cfg.get('dist_cfg') or {})
    # first, as in MMEngine: init_dist would choose another way to start the loaders' workers
    set_multi_processing(**(env_cfg.get('mp_cfg') or {}), distributed=True)
    if has_gpu:
        dist.init_dist(launcher, **dist_cfg)
    else:
        # MMEngine makes the process use the GPU of this number; a negative one means none
        local = _LOCAL_RANK[launcher]
        local_rank = os.environ.get(local, '0')
        os.environ[local] = '-1'
        dist.init_dist(launcher, **dist_cfg | dict(backend='gloo'))
        os.environ[local] = os.environ['LOCAL_RANK'] = local_rank
        # gloo's threads, if they are still there when Python ends, may abort the process
        atexit.register(_leave_processes)


def build_test_runner(cfg: Config) -> Runner:
    """A runner that only tests: it never looks for the training data.

    Args:
        cfg: A whole config, whose training part is removed in place; its ``launcher`` as in
            :func:`join_processes`. Without ``load_from`` the weights are those that the config of
            CLIP alone names.

    Raises:
        ESCNetError: If the launcher did not start this process, or there is no ``load_from`` and
            the model needs one.
    """
    join_processes(cfg)
    # with it, SegVisualizationHook would build the training data set to count iterations
    for name in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(name, None)
    runner = Runner.from_cfg(cfg)
    if cfg.get('load_from') is None:
        check_needs_no_checkpoint(cfg)
        unwrap(runner.model).init_weights()
    return runner


def in_turns(function: Callable[[], None]) -> None:
    """Call a function that may download a file for all: the first process before the others.

    The next are the first processes of the other machines, which may have disks of their own.

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
    # what MMEngine's Runner makes of it, but for device_ids
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = wrapper | dict(cfg.get('model_wrapper_cfg') or {}, device_ids=None)
