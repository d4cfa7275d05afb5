"""The tools in processes of their own that start at once: what they import is imported before.

How they start by themselves is tested in tests/test_startup.py and tests/test_readme.py.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT

from mmseg_escnet.__main__ import commands

# Makes of each line as many processes as it has jobs, prints their numbers, and how they ended.
_SERVER = """
import atexit, gc, json, os, runpy, sys
import mmseg_escnet.components, mmengine.config.config, mmengine.runner
import mmseg_escnet.engine, mmseg_escnet.preflight, yapf.yapflib.yapf_api
mmengine.config.config.FormatCode = lambda text, **_: (text, True)  # as in conftest.py
yapf.yapflib.yapf_api.FormatCode = mmengine.config.config.FormatCode
gc.freeze()  # MMEngine collects garbage for every data set it loads
if sys.version_info >= (3, 13):  # or triton complains that objects are left
    atexit.register(gc.unfreeze)

def become(request, job):
    os.setsid()
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(job['environment'])
    for descriptor, name in enumerate([os.devnull, job['stdout'], job['stderr']]):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = request['argv']
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))

def serve():
    for line in sys.stdin:
        request, children = json.loads(line), []
        for job in request['jobs']:
            children.append(os.fork())
            if not children[-1]:
                become(request, job)
                return True
        print(json.dumps(children), flush=True)
        print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)

if serve():
    runpy.run_path(sys.argv[0], run_name='__main__')
"""


def environment(**extra: str) -> dict[str, str]:
    """Of a process that a test starts: on the CPU, also where there is a GPU."""
    ours = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    return os.environ | ours | dict(MPLBACKEND='Agg') | extra


class ToolServer:
    """Starts processes that run together, and waits for them before the next are started."""

    def __init__(self) -> None:
        self._running: list[int] = []
        self._server = subprocess.Popen(
            [sys.executable, '-c', _SERVER],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # so that select() sees all that has not been read
        )

    def start(self, argv: Sequence, jobs: list[dict], cwd: Path = ROOT) -> list[int]:
        """Start a process for each job.

        Args:
            argv: A file of Python, and its arguments.
            jobs: ``environment``, and the files ``stdout`` and ``stderr``, which may be one.
            cwd: Where they work.

        Returns:
            Their numbers.
        """
        if self._running:  # a test that failed did not wait for them
            for pid in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            self.end()
        request = dict(argv=[*map(str, argv)], jobs=jobs, cwd=str(cwd))
        self._server.stdin.write(json.dumps(request).encode() + b'\n')
        self._running = json.loads(self._server.stdout.readline())
        return self._running

    def end(self, timeout: float | None = None) -> list[int]:
        """Wait for all of them.

        Args:
            timeout: Seconds.

        Returns:
            Exit statuses, or the negative number of the signal that ended a process.

        Raises:
            subprocess.TimeoutExpired: They still run.
        """
        if not select.select([self._server.stdout], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired('tool', timeout)
        self._running = []
        return [*map(os.waitstatus_to_exitcode, json.loads(self._server.stdout.readline()))]


def tool_of(command: str) -> list[str]:
    """The file below ROOT that a command of the documentation runs, and its arguments."""
    program, *words = shlex.split(command.replace('\\\n', ''), comments=True)
    words = [found for word in words for found in _expand(word)]
    if program != 'mmseg-escnet':
        first = next(i for i, word in enumerate(words) if word.startswith('tools/'))
        return words[first:]
    files = commands()
    count = 2 if ' '.join(words[:2]) in files else 1
    return [str(files[' '.join(words[:count])].relative_to(ROOT)), *words[count:]]


def _expand(word: str) -> list[str]:
    """What a shell does with the pattern of an inference file, whose name has its digest."""
    return (glob.glob(word) if word.endswith('*.safetensors') else []) or [word]


@functools.cache
def tool_server() -> ToolServer:
    """The one of this test session; it ends with it."""
    return ToolServer()


def run_tool(
    *argv: object, cwd: Path = ROOT, timeout: float = 600, **extra: str
) -> subprocess.CompletedProcess:
    """What ``subprocess.run([sys.executable, *argv], capture_output=True, text=True)`` does.

    Args:
        argv: A file of Python, and its arguments.
        cwd: Where it works.
        timeout: Seconds, after which it is killed and the test fails.
        extra: What its environment has beside that of all.
    """
    server = tool_server()
    with tempfile.TemporaryDirectory() as folder:
        job = dict(stdout=f'{folder}/out', stderr=f'{folder}/err', environment=environment(**extra))
        (child,) = server.start(argv, [job], cwd)
        try:
            (status,) = server.end(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child, signal.SIGKILL)
            server.end()
            raise
        said = [Path(job[key]).read_text() for key in ('stdout', 'stderr')]
    return subprocess.CompletedProcess(argv, status, *said)
