"""The commands of the README exist and take the options that it gives them."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
LINES = [
    line.split('#')[0].strip()
    for block in BLOCKS
    for line in block.replace('\\\n', '').splitlines()
]
TOOLS = [line for line in LINES if line.startswith('python tools/')]


def test_there_are_commands():
    assert len(TOOLS) >= 5
    assert {'make demo', 'make test'} <= set(LINES)


@pytest.mark.parametrize('target', [line.split()[1] for line in LINES if line.startswith('make ')])
def test_make_targets(target):
    assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)


@pytest.mark.parametrize('line', TOOLS)
def test_tools(line):
    _, script, *arguments = line.split()
    assert (ROOT / script).is_file()
    done = subprocess.run(
        [sys.executable, ROOT / script, '--help'],
        capture_output=True,
        text=True,
        env={'PYTHONPATH': str(ROOT), 'COLUMNS': '200'},
    )
    assert done.returncode == 0, done.stderr
    for argument in arguments:
        if argument.startswith('--'):
            assert argument in done.stdout, f'{script} has no {argument}'
        elif argument.startswith('configs/'):
            assert (ROOT / argument).is_file()


def test_files_that_the_readme_points_to():
    for target in re.findall(r'\]\(([^)#]+)\)', README):
        if not target.startswith('http'):
            assert (ROOT / target).exists(), target
    for target in re.findall(r"'(configs/[^']+\.py)'", README):
        assert (ROOT / target).is_file(), target
