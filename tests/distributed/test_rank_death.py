"""tools/dist_train.sh when a process dies, hangs, or is interrupted: no job is left hanging."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(Path(__file__).parent))
from jobs import Jobs
from steps import STEP_CONFIG, Trainer, weights
from tool_processes import environment

DEADLINE_SECONDS = 240  # for what takes a few, on a machine that is busy with other things
SLOW = 'optim_wrapper.optimizer.lr=0.001'  # more than a few steps
LONG = ['train_cfg.max_iters=1000', 'default_hooks.checkpoint.max_keep_ckpts=2', SLOW]


@pytest.fixture(scope='module')
def trainer(tmp_path_factory):
    return Trainer(Jobs(tmp_path_factory.mktemp('logs')), tmp_path_factory.mktemp)


@pytest.fixture
def launch(trainer, tmp_path):
    """A function that starts tools/dist_train.sh with two processes, and waits for two steps."""
    launched = []

    def start(work_dir: Path) -> subprocess.Popen:
        log = open(work_dir / 'log.txt', 'w')  # noqa: SIM115  (the process keeps it)
        arguments = trainer.arguments(2, work_dir, *LONG, resume=False)
        process = subprocess.Popen(
            [ROOT / 'tools/dist_train.sh', STEP_CONFIG, '2', *arguments],
            cwd=ROOT,
            env=environment() | dict(PYTHON=sys.executable),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # as a shell starts it: Ctrl-C reaches all its processes
        )
        launched.append(process)
        wait_for(lambda: (work_dir / 'iter_2.pth').exists(), process)
        return process

    yield start
    for process in launched:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process is None or process.poll() is None, f'it ended with {process.returncode}'
        assert time.monotonic() < deadline
        time.sleep(0.01)


def worker(launcher: subprocess.Popen, rank: int) -> int:
    """The number of a process of a job."""
    children = Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()
    for child in children:
        variables = Path(f'/proc/{child}/environ').read_bytes().split(b'\0')
        if b'RANK=%d' % rank in variables:
            return int(child)
    raise AssertionError(f'no process of rank {rank} among {children}')


def test_a_killed_process_ends_the_job(launch, tmp_path):
    """The launcher names the process and what it died of."""
    job = launch(tmp_path)
    victim = worker(job, rank=1)
    os.kill(victim, signal.SIGKILL)
    assert job.wait(DEADLINE_SECONDS) == 1
    said = (tmp_path / 'log.txt').read_text()
    assert 'rank      : 1' in said
    assert f'Signal 9 (SIGKILL) received by PID {victim}' in said


def test_a_process_that_hangs_ends_the_job(trainer, tmp_path):
    """The others wait for it no longer than env_cfg.dist_cfg.timeout."""
    server = trainer.server
    options = [*LONG, 'env_cfg.dist_cfg.timeout=10']
    arguments = trainer.arguments(2, tmp_path, *options, resume=False)
    _, hanging = server.start(2, 'tools/train.py', STEP_CONFIG, *arguments)
    try:
        wait_for(lambda: (tmp_path / 'iter_2.pth').exists())
        os.kill(hanging, signal.SIGSTOP)
        wait_for(lambda: 'Timed out waiting' in server.said())
    finally:  # as the launcher does when the first process has ended
        os.kill(hanging, signal.SIGKILL)
        statuses = server.end()
    assert statuses == [1, -signal.SIGKILL]


def test_interrupted(launch, trainer, tmp_path):
    """Ctrl-C: the processes end after the same iteration, and its checkpoint is whole."""
    job = launch(tmp_path)
    os.killpg(job.pid, signal.SIGINT)
    assert job.wait(DEADLINE_SECONDS) != 0
    said = (tmp_path / 'log.txt').read_text()
    saved = [line for line in said.splitlines() if line.startswith('interrupted: ')]
    assert len(saved) == 2, said[-3000:]
    assert len(set(saved)) == 1
    assert f'is saved in {tmp_path}: add --resume to continue' in saved[0]
    iteration = int(saved[0].split()[2])
    (noted,) = (tmp_path / 'last_checkpoint').read_text().split()
    assert noted == str(tmp_path / f'iter_{iteration}.pth')
    end = f'train_cfg.max_iters={iteration + 1}'
    resumed = trainer.train(2, end, SLOW, resume=tmp_path)
    uninterrupted = trainer.train(2, end, SLOW)
    name = f'iter_{iteration + 1}.pth'
    expected, found = weights(uninterrupted / name), weights(resumed / name)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
