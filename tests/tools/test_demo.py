"""What `make demo` runs, with a few scenes and steps, from the weights in data/toyworld."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tool_processes import run_tool

COLUMNS = ['ESC-Net', 'raw CLIP', 'words exchanged', 'chance']


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Folder of the results, and what was printed."""
    out = tmp_path_factory.mktemp('demo')
    command = ['tools/toyworld/demo.py', '--out', out, '--scenes', '16', '4']
    command += ['--iterations', '2', '--rows', '2', '--cfg-options']
    command += ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    done = run_tool(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    return out, done.stdout


def test_table(demo):
    out, printed = demo
    table = (out / 'table.txt').read_text()
    assert table in printed
    lines = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
        if line.startswith('|')
    ]
    head, *rows = lines
    assert head[1:] == COLUMNS
    titles = [row[0] for row in rows]
    assert len(titles) == len(set(titles)) == 6  # four groups, all, and all among more words
    numbers = dict(zip(titles, (row[1:] for row in rows), strict=True))
    assert all(re.fullmatch(r'\d+\.\d', cell) for cell in numbers['all 72 names'])
    (among,) = (title for title in titles if 'among 174 words' in title)
    assert all(re.fullmatch(r'\d+\.\d', cell) for cell in numbers[among][:2])
    assert numbers[among][2:] == ['-', '-']
    for title in titles:
        if title != among:
            assert all(re.fullmatch(r'\d+\.\d|nan', cell) for cell in numbers[title]), title
    # the groups are all names
    assert sum(int(title.split()[0]) for title in titles if title[0].isdigit()) == 72
    assert float(numbers['all 72 names'][3]) < 5


def test_result(demo):
    out, _ = demo
    result = json.loads((out / 'result.json').read_text())
    assert list(result['metrics']) == COLUMNS[:3]
    assert list(result['large']) == COLUMNS[:2]
    for measured in (*result['metrics'].values(), *result['large'].values()):
        assert {'mIoU_gt', 'mIoU_unseen_combination', 'mIoU_unseen_attribute'} <= set(measured)
        assert all(isinstance(value, (int, float)) for value in measured.values())
        assert all(np.isnan(value) or 0 <= value <= 100 for value in measured.values())
    rows = dict(
        re.findall(r'^\|\s+(.*?)\s+\|\s+([\d.nan]+) ', (out / 'table.txt').read_text(), re.M)
    )
    assert rows['all 72 names'] == f'{result["metrics"]["ESC-Net"]["mIoU_gt"]:.1f}'
    assert list(result['chance']) == list(rows)
    assert result['chance']['all 72 names'] > 0
    assert result['seconds'] > 0


class Sources(HTMLParser):
    """What a page refers to, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ('src', 'href', 'srcset')]


def test_report_is_one_page_that_needs_nothing(demo):
    out, _ = demo
    page = (out / 'report.html').read_text()
    without_pictures = re.sub(r'base64,[\w+/=]*', '', page)  # by chance there is any word in them
    assert 'http' not in without_pictures.replace('http-equiv', '')
    sources = Sources(page).found
    pictures = [source for source in sources if source.startswith('data:image/png;base64,')]
    assert len(pictures) == 5  # scenes, classes, the insides of two, training
    assert all(source.startswith(('data:image/png', '#')) for source in sources)
    for text in ('among 174 words', 'words exchanged', 'What makes this easier'):
        assert text in page
    assert [file.name for file in out.glob('*.htm*')] == ['report.html']


def test_pictures(demo):
    out, _ = demo
    files = {file.stem: file for file in out.glob('*.png')}
    assert set(files) == {'panels', 'classes', 'curves', 'blocks_0', 'blocks_1'}
    for name, file in files.items():
        picture = np.asarray(Image.open(file).convert('RGB'))
        assert min(picture.shape[:2]) > 100, name
        assert picture.std() > 5, name
    assert np.asarray(Image.open(files['panels'])).std() > 20


def test_scenes(demo):
    out, _ = demo
    for split, count in (('train', 16), ('val', 4)):
        assert len(list((out / 'scenes' / 'images' / split).iterdir())) == count
