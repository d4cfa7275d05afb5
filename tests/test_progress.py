"""Progress without a terminal: plain lines."""

import io
import re
import sys

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


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    list(progress(range(3), desc='scenes', unit='image'))
    assert '\r' in terminal.getvalue()
    assert '100%' in terminal.getvalue()


def test_disabled(capsys):
    list(progress(range(3), desc='scenes', unit='image', disable=True))
    assert capsys.readouterr().err == ''
