"""Jobs of several processes."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from PIL import Image
from tool_processes import environment, tool_server

from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import to_seen_ids

TOY_CHECKPOINT = ROOT / 'data/toyworld/escnet.pth'


class Jobs:
    """Starts jobs, as a launcher does, one after the other."""

    def __init__(self, folder: Path, device: str = 'cpu') -> None:
        self.folder = folder  # of the logs
        self.device = device  # 'cpu' or 'cuda'
        self.logs: list[Path] = []
        self._on_gpu: list[subprocess.Popen] = []

    def start(
        self, size: int, *argv: object, launcher: str | None = None, **extra: str
    ) -> list[int]:
        """Start a job of ``size`` processes; ``extra`` goes into their environment.

        By default the launcher is 'pytorch', for a single process none.

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
        if size == 1 and launcher is None:
            environments = [extra]
        else:
            argv += ('--launcher', launcher or 'pytorch')
        for log in self.logs:
            log.write_text('')
        if self.device == 'cuda':
            self._on_gpu = [
                start_on_gpu(argv, log, **variables)
                for variables, log in zip(environments, self.logs, strict=True)
            ]
            return [process.pid for process in self._on_gpu]
        processes = [
            dict(stdout=str(log), stderr=str(log), environment=environment(**variables))
            for variables, log in zip(environments, self.logs, strict=True)
        ]
        return tool_server().start(argv, processes)

    def end(self) -> list[int]:
        """Wait for the job.

        Returns:
            Exit statuses by rank, or the negative number of the signal that ended a process.
        """
        if self.device == 'cuda':
            return [process.wait() for process in self._on_gpu]
        return tool_server().end()

    def run(self, size: int, *argv: object, **kwargs: str | None) -> None:
        """Run a job to its end."""
        self.start(size, *argv, **kwargs)
        assert self.end() == [0] * size, self.said()

    def said(self) -> str:
        """The ends of what the processes said."""
        return '\n'.join(f'{log.name}\n{log.read_text()[-3000:]}' for log in self.logs)


def start_on_gpu(argv: tuple, log: Path, **variables: str) -> subprocess.Popen:
    """Start a process by itself: the tool server's have its libraries, which saw no GPU."""
    gpus = dict(CUDA_VISIBLE_DEVICES=os.environ.get('CUDA_VISIBLE_DEVICES', '0'))
    # as exact as on a CPU
    variables = environment(**gpus, NVIDIA_TF32_OVERRIDE='0', **variables)
    with open(log, 'w') as file:
        return subprocess.Popen(
            [sys.executable, *map(str, argv)],
            cwd=ROOT,
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


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
