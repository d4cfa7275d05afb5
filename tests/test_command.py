"""The command mmseg-escnet; tests/test_installed.py runs it from a wheel."""

import subprocess
import sys

import pytest
from conftest import ROOT
from tool_processes import environment

from mmseg_escnet import __main__ as command

COMMANDS = list(command.commands())


def call(*arguments: str) -> subprocess.CompletedProcess:
    words = [sys.executable, '-m', 'mmseg_escnet', *arguments]
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)


@pytest.mark.parametrize('arguments', [[], ['--help'], ['convert'], ['check', '--help']])
def test_help_lists_every_command(arguments):
    done = call(*arguments)
    assert done.returncode == 0
    assert len(COMMANDS) >= 12
    for name in COMMANDS:
        assert f' {name.removeprefix("convert ")}' in done.stdout


@pytest.mark.parametrize('name', COMMANDS)
def test_usage_lines_name_the_command(name):
    done = call(*name.split(), '--help')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'usage: mmseg-escnet {name} ')


@pytest.mark.parametrize(
    ('mistyped', 'hint'),
    [
        ('infr photo.jpg', "no command 'infr' (did you mean infer?)"),
        ('convert pascal', "no command 'convert pascal' (did you mean convert pascal_"),
        ('check configs/x.py', "no command 'check configs/x.py' (did you mean check dataset?)"),
        ('--classes', "no command '--classes': mmseg-escnet --help"),
    ],
)
def test_a_mistyped_command(mistyped, hint):
    done = call(*mistyped.split())
    assert done.returncode == 2
    assert hint in done.stderr
    assert done.stderr.count('\n') == 1


def test_status_and_sentence_of_a_tool():
    done = call('train', 'nothing.py')
    assert done.returncode == 2
    assert done.stderr.startswith('error: The config nothing.py does not exist')


def test_a_file_runs_as_it_does_by_itself(tmp_path):
    """Neighbours are imported, and processes it starts find its functions, however they start."""
    (tmp_path / 'neighbour.py').write_text('FACTOR = 2')
    (tmp_path / 'tool.py').write_text("""
import multiprocessing, sys
from neighbour import FACTOR
def double(number):
    return number * FACTOR
if __name__ == '__main__':
    for method in ('fork', 'spawn'):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.map(double, map(int, sys.argv[1:])), sys.argv[0])
""")
    code = (
        'from pathlib import Path\n'
        'from mmseg_escnet.__main__ import _run_file\n'
        f'_run_file(Path({str(tmp_path / "tool.py")!r}), "a b", ["3", "4"])'
    )
    words = [sys.executable, '-c', code]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.stdout == '[6, 8] a b\n' * 2, done.stderr
