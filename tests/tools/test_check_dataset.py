"""The tool that inspects data sets: what it prints and writes, and its exit status."""

import csv
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, load_tool
from small_datasets import CLASSES, dataset_cfg, write_pair
from tool_processes import run_tool

from mmseg_escnet.colors import OPACITY
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.toyworld.drawing import draw_scenes
from mmseg_escnet.vocabulary import palette_of

SCRIPT = 'tools/check_dataset.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool(SCRIPT)


def write_config(path, **phases):
    path.write_text(
        '\n'.join(f'{phase}_dataloader = dict(dataset={cfg!r})' for phase, cfg in phases.items())
    )
    return str(path)


def run(tool, tmp_path, *args):
    return tool.main([*args, '--out', str(tmp_path / 'out'), '--workers', '1'])


def test_counts_equal_independent_ones(tool, tmp_path, capsys):
    rng, pixels, images = np.random.default_rng(0), Counter(), Counter()
    for number in range(8):
        height, width = rng.integers(20, 40, 2)
        ids = rng.choice([0, 1, 3, 255], (height, width), p=[0.2, 0.1, 0.3, 0.4])
        if number == 2:
            ids[ids == 1] = 0
        if number == 7:
            ids[:] = 255  # may be meant so
        write_pair(tmp_path / 'set', str(number), ids)
        for value in ids.ravel().tolist():
            pixels[value] += 1
        for value in set(ids.ravel().tolist()):
            images[value] += 1
    config = write_config(tmp_path / 'own.py', train=dataset_cfg(tmp_path / 'set'))
    assert run(tool, tmp_path, config) == 0
    labelled = sum(pixels.values()) - pixels[255]
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'out' / 'own_train.csv').read_text())))
    assert [row['class'] for row in rows] == list(CLASSES)
    for i, row in enumerate(rows):
        assert (int(row['id']), int(row['pixels'])) == (i, pixels[i])
        assert int(row['images']) == images[i]
        assert float(row['share']) == pytest.approx(pixels[i] / labelled, rel=1e-5)
    assert images[1] == 6  # and is told apart from the others
    printed = capsys.readouterr().out
    assert '8, all inspected' in printed
    assert '0 to 3 and 255 in 8 bits; 4 classes have 0 to 3, ignored: 255' in printed
    assert f'{100 * pixels[255] / sum(pixels.values()):.0f} % of the pixels' in printed
    assert 'never occur (1): red [car]' in printed
    assert 'look: In 1 of 8 label maps every pixel is ignored' in printed
    assert '1 data set inspected: nothing is wrong' in printed


def test_the_rest_goes_on(tool, tmp_path, capsys):
    """Of three data sets the first is missing and the second is damaged."""
    for name in ('damaged', 'right'):
        for number in range(5):
            write_pair(tmp_path / name, str(number), np.full((20, 20), number % 4))
    for number in range(4):
        (tmp_path / 'damaged' / 'labels' / f'{number}.png').write_bytes(b'')
    config = write_config(
        tmp_path / 'own.py',
        train=dataset_cfg(tmp_path / 'missing'),
        val=dataset_cfg(tmp_path / 'damaged'),
        test=dataset_cfg(tmp_path / 'right'),
    )
    assert run(tool, tmp_path, config) == 1
    printed = capsys.readouterr().out
    parts = printed.split('== own.py: ')
    assert 'wrong: The data set of type BaseSegDataset cannot be built' in parts[1]
    assert 'wrong: 4 of 5 images cannot be read' in parts[2]
    assert '2.png cannot be decoded' in parts[2]
    assert '3.png' not in parts[2]
    assert 'and 1 more' in parts[2]
    assert 'wrong' not in parts[-1].split('3 data sets')[0]
    assert '3 data sets inspected: something is wrong with 2' in printed
    assert all(len(part.splitlines()) < 25 for part in parts), 'one screen for each'
    written = {path.name for path in (tmp_path / 'out').iterdir()}
    assert {'own_val.png', 'own_val.csv', 'own_test.png', 'own_test.csv'} == written
    assert run(tool, tmp_path, config, '--phase', 'test') == 0
    with pytest.raises(SystemExit):
        run(tool, tmp_path, config, '--phase', 'tset')


def test_nothing_can_be_read(tool, tmp_path, capsys):
    write_pair(tmp_path / 'set', 'a', [[0]])
    (tmp_path / 'set' / 'labels' / 'a.png').write_bytes(b'')
    config = write_config(tmp_path / 'own.py', test=dataset_cfg(tmp_path / 'set'))
    assert run(tool, tmp_path, config) == 1
    assert 'wrong: 1 of 1 images' in capsys.readouterr().out
    assert not (tmp_path / 'out' / 'own_test.png').exists()


def test_many_classes_are_those_at_both_ends(tool, tmp_path, capsys):
    names = tuple(f'thing {i}' for i in range(30))
    write_pair(tmp_path / 'set', 'a', [np.repeat(np.arange(30), np.arange(30))])
    config = write_config(tmp_path / 'own.py', test=dataset_cfg(tmp_path / 'set', names))
    assert run(tool, tmp_path, config) == 0
    printed = capsys.readouterr().out
    rows = [line.split('|')[1].strip() for line in printed.splitlines() if line.startswith('| ')]
    most, rarest = range(29, 21, -1), range(8, 0, -1)
    expected = [*(f'thing {i}' for i in most), '...', *(f'thing {i}' for i in rarest)]
    assert rows == ['class', *expected]
    assert 'never occur (1): thing 0' in printed


def test_contact_sheet(tool, tmp_path):
    """Left half a cat, right half trees; a strip of no class below, and an ignored one above."""
    from mmengine.registry import init_default_scope

    from mmseg_escnet.datasets.inspection import build_dataset, inspect_dataset

    init_default_scope('mmseg')
    ids = np.zeros((400, 480), np.uint8)
    ids[:, 240:] = 3
    ids[320:] = 9
    ids[:80] = 255
    write_pair(tmp_path, 'a', ids)
    write_pair(tmp_path, 'b', np.full((480, 300), 2))
    write_pair(tmp_path, 'c', np.zeros((30, 20)), size=(20, 20))  # cannot be drawn
    inspection = inspect_dataset(build_dataset(dataset_cfg(tmp_path)))
    sheet = np.asarray(tool.contact_sheet(inspection)).astype(int)
    assert not (sheet[:, -400:] == 255).all(), 'two columns'
    is_magenta = (sheet == (255, 0, 255)).all(axis=-1)
    assert is_magenta.sum() > 50, 'ids of no class are magenta in the legend'
    # the title is above the pictures: find the photograph by its one colour
    photo = (abs(sheet[:, :480] - (90, 120, 60)).max(axis=-1) < 8).mean(axis=1) > 0.9
    top = int(photo.argmax())
    assert photo[top : top + 400].all()
    label_map = sheet[top : top + 400, 487 : 487 + 480]
    photograph = np.array((90, 120, 60))
    colors = dict(zip(CLASSES, palette_of(CLASSES), strict=True))
    for column, name in ((0.25, 'cat'), (0.75, 'tree')):
        color = np.array(colors[name])
        pixel = label_map[150, round(column * 480)]
        expected = OPACITY * color + (1 - OPACITY) * photograph
        assert abs(pixel - expected).max() < 6, name
    magenta = label_map[380, 300]
    assert abs(magenta - (OPACITY * np.array((255, 0, 255)) + (1 - OPACITY) * photograph)).max() < 6
    assert np.ptp(label_map[10, 10:-10], axis=-1).max() < 10, 'ignored pixels are grey'


def test_shares_keep_the_digits_they_need(tool):
    shares = (0, 0.0004, 0.001, 0.0494, 0.0994, 0.0996, 0.5, 1)
    expected = ['0 %', '<0.1 %', '0.1 %', '4.9 %', '9.9 %', '10 %', '50 %', '100 %']
    assert [tool.format_share(share) for share in shares] == expected


def test_data_sets_are_found_once(tool, tmp_path):
    one, two, three = (dataset_cfg(tmp_path / name) for name in ('one', 'two', 'three'))
    first = write_config(
        tmp_path / 'first.py',
        train=dict(type='RepeatDataset', times=3, dataset=one),
        val=dict(two, test_mode=True),
        test=dict(two, pipeline=[]),
    )
    (tmp_path / 'sub').mkdir()
    second = write_config(
        tmp_path / 'sub' / 'first.py',
        train=dict(type='ConcatDataset', datasets=[one, three, dict(three, indices=1)]),
        val=two,
    )

    def names(*args):
        targets = tool.find_targets(tool.parse_args(list(args)))
        return [(target.name, Path(target.cfg['data_root']).name) for target in targets]

    assert names(first) == [('first_train', 'one'), ('first_val', 'two')]
    assert names(first, second) == [
        ('first_train', 'one'),
        ('first_val', 'two'),
        ('first_train_2', 'three'),
        ('first_train_3', 'three'),
    ]
    assert names(second, '--phase', 'val') == [('first_val', 'two')]
    targets = tool.find_targets(tool.parse_args([first]))
    assert targets[1].title == 'first.py: val, test'
    with pytest.raises(ESCNetError, match='has no data set for test'):
        names(second, '--phase', 'test')
    with pytest.raises(ESCNetError, match=r'nowhere\.py does not exist'):
        names('nowhere.py')


def test_background_of_several_words(tool, tmp_path, capsys):
    """PAS-20b: all classes from one on are evaluated as the background."""
    write_pair(tmp_path / 'set', 'a', [[0, 1, 2, 3, 3, 255]])
    config = write_config(tmp_path / 'own.py', val=dataset_cfg(tmp_path / 'set'))
    with open(config, 'a') as file:
        file.write("\nval_evaluator = [dict(type='IoUMetric'), dict(background_from=2)]\n")
    assert run(tool, tmp_path, config) == 0
    assert '3 of 3 occur' in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'out' / 'own_val.csv').read_text())))
    assert [(row['class'], row['pixels']) for row in rows] == [
        ('cat', '1'),
        ('dog', '1'),
        ('background', '3'),
    ]
    write_pair(tmp_path / 'set', 'a', [[0, 4]])
    assert run(tool, tmp_path, config) == 1
    assert 'the classes are 0 to 3' in capsys.readouterr().out


@pytest.mark.parametrize('option', [['--limit', '0'], ['--workers', '-1']])
def test_options_out_of_range(tool, option):
    with pytest.raises(ESCNetError, match='out of range'):
        tool.main(['configs/_base_/datasets/toyworld.py', *option])


def test_part_of_a_published_data_set(tool, tmp_path, capsys):
    write_pair(tmp_path, 'a', [[0]])
    os.rename(tmp_path / 'images', tmp_path / 'val2017')
    prefix = dict(img_path='val2017', seg_map_path='labels')
    cfg = dataset_cfg(tmp_path, seg_map_suffix='.png')
    cfg.update(type='COCOStuffDataset', data_prefix=prefix, metainfo=None)
    config = write_config(tmp_path / 'own.py', val=cfg)
    assert run(tool, tmp_path, config) == 1
    assert 'wrong: The number of images is 1, but 5000' in capsys.readouterr().out
    assert run(tool, tmp_path, config, '--allow-partial') == 0


def test_every_config_of_the_repository_has_data_sets(tool):
    configs = sorted((ROOT / 'configs').rglob('_base_/datasets/*.py'))
    assert len(configs) > 1
    for config in configs:
        assert tool.find_targets(tool.parse_args([str(config)])), config


def test_command_line(tmp_path):
    write_pair(tmp_path / 'set', 'a', [[0, 255]])
    config = write_config(tmp_path / 'own.py', test=dataset_cfg(tmp_path / 'set'))
    options = ['--cfg-options', 'test_dataloader.dataset.ignore_index=65535']
    done = run_tool(SCRIPT, config, '--out', tmp_path / 'out', *options)
    assert done.returncode == 1, done.stderr
    assert 'set ignore_index=255.' in done.stdout
    assert 'Traceback' not in done.stderr


def test_toy_world(tool, tmp_path, capsys):
    draw_scenes(tmp_path / 'scenes', train=40, val=12, size=48)
    config = str(ROOT / 'configs/_base_/datasets/toyworld.py')
    roots = [
        f'{phase}_dataloader.dataset.data_root={tmp_path / "scenes"}'
        for phase in ('train', 'val', 'test')
    ]
    capsys.readouterr()
    assert run(tool, tmp_path, config, '--cfg-options', *roots) == 0
    printed = capsys.readouterr().out
    assert '42 classes have 0 to 41' in printed
    assert '72 classes have 0 to 71' in printed
    assert '2 data sets inspected: nothing is wrong' in printed
    # the labels of the validation scenes read as if they were those of the training scenes
    wrong = 'train_dataloader.dataset.data_prefix.seg_map_path=annotations/val'
    more = 'train_dataloader.dataset.data_prefix.img_path=images/val'
    options = ('--phase', 'train', '--cfg-options', *roots, wrong, more)
    assert run(tool, tmp_path, config, *options) == 1
    assert 'contain ids that are not classes' in capsys.readouterr().out


def test_real_photograph(tool, tmp_path, real_samples, capsys):
    converter = load_tool('tools/dataset_converters/coco_stuff164k.py')
    raw, out = real_samples / 'coco_stuff164k', tmp_path / 'coco'
    converter.main([str(raw), '--out', str(out), '--allow-partial', '--workers', '1'])
    config = str(ROOT / 'configs/_base_/datasets/coco-stuff164k.py')
    options = ('--phase', 'val', '--cfg-options', f'val_dataloader.dataset.data_root={out}')
    capsys.readouterr()
    assert run(tool, tmp_path, config, *options) == 1
    printed = capsys.readouterr().out
    assert 'wrong: The number of images is 1, but 5000 were published' in printed
    assert '5 of 171 occur' in printed
    assert run(tool, tmp_path, config, *options, '--allow-partial') == 0
