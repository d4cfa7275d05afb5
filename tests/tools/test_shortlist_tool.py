"""tools/toyworld/shortlist.py: what a shortlist costs and gains."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope='module')
def rows(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('shortlist') / 'result'
    command = [sys.executable, 'tools/toyworld/shortlist.py', '--scenes', '4', '--out', str(out)]
    subprocess.run(
        [*command, '--top-k', '2', '32', '--threshold', '0.02'], cwd=root, check=True, timeout=300
    )
    assert out.with_suffix('.png').stat().st_size > 5000
    return {row['setting']: row for row in json.loads(out.with_suffix('.json').read_text())}


def test_settings(rows):
    assert list(rows) == ['exact', 'top_k=2', 'top_k=32', 'threshold=0.02']
    assert rows['exact']['changed'] == rows['exact']['dropped'] == 0


def test_a_long_list_keeps_what_a_short_one_loses(rows):
    """On the committed model: 32 of 174 words hold every winner, 2 do not."""
    assert rows['top_k=2']['dropped'] > 5
    assert rows['top_k=2']['changed'] > 5
    assert rows['top_k=32']['dropped'] < 0.1
    assert rows['top_k=32']['changed'] < 3
    assert rows['top_k=32']['miou'] > rows['top_k=2']['miou'] + 5
