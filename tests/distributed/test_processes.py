"""How processes are started, and how they meet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config

from mmseg_escnet import ESCNetError
from mmseg_escnet.engine import join_processes

sys.path.insert(0, str(Path(__file__).parent))
from jobs import Jobs


@pytest.fixture
def call(tmp_path):
    """A function that runs a script with a stand-in for srun and the interpreter.

    It returns what that was called with, or the exit status.
    """
    for name in ('srun', 'interpreter'):
        stand_in = tmp_path / name
        stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        stand_in.chmod(0o755)

    def run(script: str, *arguments: str, **variables: str) -> list[str] | int:
        path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
        environment = {'PATH': path, 'PYTHON': str(tmp_path / 'interpreter')} | variables
        done = subprocess.run(
            [ROOT / f'tools/{script}.sh', *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.returncode or done.stdout.splitlines()

    return run


@pytest.mark.parametrize(('tool', 'files'), [('train', ['c.py']), ('test', ['c.py', 'w w.pth'])])
def test_dist_scripts(call, tool, files):
    """One machine: a free port. Several: as the environment says. Words stay whole."""
    options = ['--work-dir', 'my folder', '--cfg-options', 'a=1', 'b=2']
    tail = ['--nproc-per-node=3', str(ROOT / f'tools/{tool}.py'), *files]
    tail += ['--launcher', 'pytorch', *options]
    called = call(f'dist_{tool}', *files, '3', *options)
    module = ['-m', 'torch.distributed.run']
    assert called == [*module, '--standalone', '--local-addr=127.0.0.1', *tail]
    places = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='2950')
    where = ['--nnodes=2', '--node-rank=1', '--master-addr=10.0.0.1', '--master-port=2950']
    assert call(f'dist_{tool}', *files, '3', *options, **places) == [*module, *where, *tail]
    assert call(f'dist_{tool}', *files) == 2


@pytest.mark.parametrize(('tool', 'files'), [('train', ['c.py']), ('test', ['c.py', 'w w.pth'])])
def test_slurm_scripts(call, tmp_path, tool, files):
    variables = dict(GPUS='16', GPUS_PER_NODE='8', SRUN_ARGS='--exclusive -t 10')
    called = call(f'slurm_{tool}', 'part', 'my job', *files, '--cfg-options', 'a=1', **variables)
    where = ['-p', 'part', '--job-name=my job', '--ntasks=16', '--gres=gpu:8']
    where += ['--ntasks-per-node=8', '--cpus-per-task=5', '--kill-on-bad-exit=1']
    where += ['--exclusive', '-t', '10']
    command = [str(tmp_path / 'interpreter'), '-u', str(ROOT / f'tools/{tool}.py'), *files]
    assert called == [*where, *command, '--launcher', 'slurm', '--cfg-options', 'a=1']
    called = call(f'slurm_{tool}', 'part', 'job', *files, GPUS='2', GPUS_PER_NODE='0')
    assert '--ntasks=2' in called
    assert not [word for word in called if 'gpu' in word or 'per-node' in word]
    assert call(f'slurm_{tool}', 'part', 'job') == 2


@pytest.mark.parametrize(
    ('launcher', 'program'), [('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')]
)
def test_a_launcher_that_did_not_start_this_process(monkeypatch, launcher, program):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ESCNetError, match=f'for processes that {program} starts'):
        join_processes(Config(dict(launcher=launcher)))


DOWNLOADS = """
import sys, time
from pathlib import Path
import mmseg_escnet.components
from mmengine.config import Config
from mmengine.dist import get_rank
from mmseg_escnet.engine import in_turns, join_processes

join_processes(Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl')))))
file = Path(sys.argv[1])

def download():
    if not file.exists():
        time.sleep(0.5)  # enough for all to find it missing
        with open(file, 'a') as content:
            content.write(f'by {get_rank()}')

in_turns(download)
assert file.read_text() == 'by 0'
"""


def test_one_process_downloads_for_all(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(DOWNLOADS)
    Jobs(tmp_path).run(3, script, tmp_path / 'file')
