"""Applying a function to many items in several processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mmseg_escnet.datasets.parallel import parallel_map
from mmseg_escnet.errors import ESCNetError


def square_or_fail(number):
    if number % 10 == 3:
        raise ESCNetError(f'number {number} is odd in a bad way')
    return number**2


def crash(number):
    raise ZeroDivisionError


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('count', [0, 1, 100])
def test_parallel_map_reports_every_item(workers, count):
    outcomes = list(
        parallel_map(square_or_fail, list(range(count)), workers=workers, description='x')
    )
    assert [outcome.item for outcome in outcomes] == list(range(count))
    for item, result, error in outcomes:
        if item % 10 == 3:
            assert result is None
            assert f'number {item}' in error
        else:
            assert (result, error) == (item**2, None)


@pytest.mark.parametrize('workers', [1, 2])
def test_parallel_map_does_not_swallow_mistakes(workers):
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(crash, list(range(40)), workers=workers, description='x'))


def die(number):
    os._exit(9)


def test_a_dead_worker_is_an_error():
    with pytest.raises(ESCNetError, match='One of 2 worker processes died'):
        list(parallel_map(die, list(range(40)), workers=2, description='x'))


SLOW = """
import sys, time
from mmseg_escnet.cli import run_tool
from mmseg_escnet.datasets.parallel import parallel_map
def slow(number):
    print(number, flush=True)
    time.sleep(0.02)
def main():
    list(parallel_map(slow, list(range(100_000)), workers=2, description='x'))
run_tool(main, interrupted='go on')
"""


def test_ctrl_c_ends_it_without_traceback():
    process = subprocess.Popen(
        [sys.executable, '-c', SLOW],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell's background jobs ignore it, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.readline()
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == 'interrupted: go on'
    assert 'Traceback' not in errors
