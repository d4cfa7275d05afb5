"""What `make demo` runs, with a few scenes and steps."""

import os
import subprocess
import sys

import numpy as np
from conftest import ROOT
from PIL import Image


def test_demo(tmp_path):
    command = ['tools/toyworld/demo.py', '--out', tmp_path, '--scenes', '16', '12']
    command += ['--iterations', '2', '--rows', '2']
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = (tmp_path / 'table.txt').read_text()
    assert table in done.stdout
    for row in ('all 22 names', '17 names with masks in training', '5 names without'):
        assert row in table
    assert 'blue star' in done.stdout, 'a word without a mask'
    picture = np.asarray(Image.open(tmp_path / 'panels.png'))
    assert picture.std() > 20
    assert len(list((tmp_path / 'scenes' / 'images' / 'train').iterdir())) == 16
