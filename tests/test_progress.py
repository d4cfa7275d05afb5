"""Progress without a terminal: plain lines."""

import fcntl
import os
import re
import struct
import sys
import termios

import pytest

from mmseg_escnet.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """The time that tqdm sees, in seconds."""
    time = [1000.0]
    monkeypatch.setattr('tqdm.std.time', lambda: time[0])
    return time


def test_a_line_a_minute(capsys, clock):
    for _ in progress(range(100), desc='scenes', unit='image'):
        clock[0] += 7
    lines = capsys.readouterr().err.split('\n')
    assert lines[0] == 'scenes: 0 of 100, 00:00 so far, ? left'
    assert lines[-2:] == ['scenes: 100 of 100, 11:40 so far, 00:00 left', '']
    counts = [int(re.match(r'scenes: (\d+) of', line)[1]) for line in lines[:-1]]
    assert counts == [0, *range(9, 100, 9), 100], 'after 63 s each'
    assert all(line.isprintable() for line in lines)


def test_nested_bars_are_lines_too(capsys, clock):
    with progress(desc='outer', total=2, unit='step') as outer:
        for _ in range(2):
            with progress(desc='inner', total=1, unit='step', leave=False) as inner:
                clock[0] += 61
                inner.update()
            outer.set_postfix(loss='0.5', refresh=False)
            outer.update()
    lines = capsys.readouterr().err.splitlines()
    assert 'outer: 2 of 2, 02:02 so far, 00:00 left, loss=0.5' in lines
    assert sum(line.startswith('inner: 1 of 1') for line in lines) == 2
    assert all(line.isprintable() and line for line in lines)


@pytest.mark.parametrize('columns', [0, 90])
def test_a_terminal_of_some_size_or_none(monkeypatch, columns):
    """Some batch systems have a terminal without a size."""
    read_end, write_end = os.openpty()
    fcntl.ioctl(write_end, termios.TIOCSWINSZ, struct.pack('HHHH', 30, columns, 0, 0))
    with os.fdopen(write_end, 'w') as terminal:
        monkeypatch.setattr(sys, 'stderr', terminal)
        list(progress(range(3), desc='scenes', unit='image'))
        terminal.flush()
        monkeypatch.undo()
        print('end', file=terminal, flush=True)
        shown = ''
        while 'end' not in shown:
            shown += os.read(read_end, 10_000).decode(errors='replace')
    os.close(read_end)
    assert ('100%' in shown) == (columns > 0)
    assert ('scenes: 3 of 3' in shown) == (columns == 0)


def test_disabled(capsys):
    list(progress(range(3), desc='scenes', unit='image', disable=True))
    assert capsys.readouterr().err == ''
