import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'analysis' / 'memory.py'


def test_measures_and_draws_both(tmp_path):
    out = tmp_path / 'deep' / 'memory'
    done = subprocess.run(
        [sys.executable, TOOL, '--images', '8', '--inferences', '8', '--out', out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(out.with_suffix('.json').read_text())
    assert [len(each['steps']) for each in measured.values()] == [8, 8]
    for each in measured.values():
        assert all(100 < mebibytes < 20_000 for mebibytes in each['mebibytes'])
    assert done.stdout.count('in the second half') == 2
    with Image.open(out.with_suffix('.png')) as picture:
        assert picture.size == (1080, 360)
