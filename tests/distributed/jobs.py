"""Jobs of several processes that start at once: what they import is imported before."""

import functools
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from PIL import Image

from mmseg_escnet.datasets.toyworld_scenes import scene
from mmseg_escnet.datasets.toyworld_vocabulary import to_seen_ids

TOY_CHECKPOINT = ROOT / 'data/toyworld/escnet.pth'

# Makes of each line as many processes as it has environments, and says how they ended.
_SERVER = """
import json, os, runpy, sys, traceback
import mmseg_escnet.components, mmengine.runner, mmseg_escnet.engine, mmseg_escnet.apis.preflight
for line in sys.stdin:
    request = json.loads(line)
    children = []
    for environment, log in zip(request['environments'], request['logs'], strict=True):
        child = os.fork()
        if not child:
            os.environ.update(environment)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1), os.dup2(descriptor, 2)
            sys.argv = request['argv']
            sys.path.insert(0, os.path.dirname(sys.argv[0]))
            try:
                runpy.run_path(sys.argv[0], run_name='__main__')
            except SystemExit as end:
                status = end.code or 0
            except BaseException:
                traceback.print_exc()
                status = 1
            else:
                status = 0
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
        children.append(child)
    print(json.dumps(children), flush=True)
    print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)
"""


def environment() -> dict[str, str]:
    """Of a process that a test starts: on the CPU, also where there is a GPU."""
    ours = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    return os.environ | ours


class Jobs:
    """Starts jobs, as a launcher does, one after the other."""

    def __init__(self) -> None:
        self.folder = Path()  # of the logs
        self.logs: list[Path] = []
        self.process = subprocess.Popen(
            [sys.executable, '-c', _SERVER],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, size: int, *argv: object, launcher: str = 'pytorch', **extra: str) -> list[int]:
        """Start a job of ``size`` processes; ``extra`` goes into their environment.

        Returns:
            The numbers of the processes, by rank.
        """
        self.logs = [self.folder / f'rank {rank} of {size}.log' for rank in range(size)]
        port = str(free_port())
        environments = []
        for rank in map(str, range(size)):
            who = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(size))
            if launcher == 'slurm':
                who = dict(SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_NTASKS=str(size))
                who['SLURM_NODELIST'] = 'localhost'
            environments.append(dict(who, MASTER_ADDR='127.0.0.1', MASTER_PORT=port, **extra))
        if size == 1:
            environments = [extra]
        else:
            argv += ('--launcher', launcher)
        request = dict(argv=[*map(str, argv)], environments=environments)
        request['logs'] = [*map(str, self.logs)]
        for log in self.logs:
            log.write_text('')
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> list[int]:
        """Wait for the job.

        Returns:
            Exit statuses by rank, or the negative number of the signal that ended a process.
        """
        return [*map(os.waitstatus_to_exitcode, json.loads(self.process.stdout.readline()))]

    def run(self, size: int, *argv: object, **kwargs: str) -> None:
        """Run a job to its end."""
        self.start(size, *argv, **kwargs)
        assert self.end() == [0] * size, self.said()

    def said(self) -> str:
        """The ends of what the processes said."""
        return '\n'.join(f'{log.name}\n{log.read_text()[-3000:]}' for log in self.logs)


@functools.cache
def _jobs() -> Jobs:
    return Jobs()


def jobs(folder: Path) -> Jobs:
    """The one server of this test session; it ends with it.

    Args:
        folder: Where its logs go from now on.
    """
    server = _jobs()
    server.folder = folder
    return server


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def scenes(folder: Path, count: int) -> None:
    """Draw scenes as a data set in a folder."""
    for split, number in itertools.product(('train', 'val'), range(count)):
        image, label = scene(1, number)
        label = to_seen_ids(label) if split == 'train' else label
        for kind, content in (('images', image), ('annotations', label)):
            path = folder / kind / split / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
