"""What `make demo` runs, with a few scenes and steps, from the weights in data/toyworld."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tool_processes import run_tool

COLUMNS = ['ESC-Net', 'raw CLIP', 'words exchanged']


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Folder of the results, and what was printed."""
    out = tmp_path_factory.mktemp('demo')
    command = ['tools/toyworld/demo.py', '--out', out, '--scenes', '16', '4']
    command += ['--iterations', '2', '--rows', '2', '--cfg-options']
    command += ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    done = run_tool(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) <= 45, lines
    return out, done.stdout


def test_the_terminal_says_where_the_demo_stands(demo):
    _, printed = demo
    stages = re.findall(r'^(\d) of 4: (\w+)', printed, re.M)
    assert stages == [('1', 'drawing'), ('2', 'training'), ('3', 'measuring'), ('4', 'drawing')]
    order = ['2 of 4', 'first step: ', 'trained in ', '3 of 4', '4 of 4', 'page with pictures']
    places = [printed.index(part) for part in order]
    assert places == sorted(places)


def test_table_and_result(demo):
    out, printed = demo
    table = re.search(r'^\|.*?(?=\n\n)', (out / 'report.md').read_text(), re.M | re.S)[0]
    assert table in printed
    head, rule, *rows = (
        [cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()
    )
    assert head[1:] == COLUMNS
    assert all(set(cell) <= set(':-') for cell in rule)
    numbers = {title: values for title, *values in rows}
    assert len(numbers) == 6  # four groups, all, and all among more words
    # the groups are all names
    assert sum(int(title.split()[0]) for title in numbers if title[0].isdigit()) == 72
    *whole, among = numbers
    assert 'among 174 words' in among
    assert numbers[among][2:] == ['']
    cells = [cell for title in whole for cell in numbers[title]] + numbers[among][:2]
    assert all(re.fullmatch(r'\d+\.\d|-', cell) for cell in cells)
    result = json.loads((out / 'result.json').read_text())
    assert list(result['metrics']) == COLUMNS
    assert list(result['large']) == COLUMNS[:2]
    assert numbers['all 72 names'] == [
        f'{result["metrics"][method]["mIoU_gt"]:.1f}' for method in COLUMNS
    ]
    assert 0 < result['chance'] < 5
    assert f'reaches {result["chance"]:.1f} over' in (out / 'report.md').read_text()
    starred = [int(title.split()[0]) for title in whole if title.endswith('*')]
    assert starred == [12, 18], 'names without masks'


def test_where_the_results_come_from(demo):
    out, _ = demo
    origin = json.loads((out / 'result.json').read_text())['origin']
    assert origin['date'].startswith('20')
    assert origin['config'].endswith('escnet_toy.py')
    assert origin['weights'] == 'trained for 2 iterations of 2 images'
    assert 'train_dataloader.num_workers=0' in origin['settings']
    assert f'PyTorch {torch.__version__}' in origin['versions']
    page = (out / 'report.md').read_text()
    assert all(f'\n- {key}: {value}\n' in page for key, value in origin.items())


def test_page_and_pictures(demo):
    out, printed = demo
    page = (out / 'report.md').read_text()
    assert str(out / 'report.md') in printed
    pictures = re.findall(r'!\[[^]]+\]\(([^)]+)\)', page)
    assert pictures == ['scenes.png', 'classes.png', 'blocks_0.png', 'blocks_1.png', 'curves.png']
    assert {file.name for file in out.glob('*.png')} == set(pictures)
    for name in pictures:
        picture = np.asarray(Image.open(out / name).convert('RGB'))
        assert min(picture.shape[:2]) > 100, name
        assert picture.std() > 5, name
    assert len(list((out / 'scenes/images/train').iterdir())) == 16
