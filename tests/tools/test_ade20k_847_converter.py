"""The ADE20K-full converter on a made tree, and on two real scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_escnet.datasets import load_benchmark
from mmseg_escnet.errors import ESCNetError

SCRIPT = 'tools/dataset_converters/ade20k_847.py'
CLASSES = load_benchmark('ade847')
PIPELINE = [dict(type='LoadImage'), dict(type='LoadLabelMap')]


@pytest.fixture(scope='module')
def converter():
    return load_tool(SCRIPT)


def write_scene(raw, stem, indices, split='validation', scene='urban/street', mode='RGB'):
    """As published: class in red and green, instance in blue, and files of no use beside them."""
    indices = np.asarray(indices)
    folder = raw / 'images' / 'ADE' / split / scene
    (folder / stem).mkdir(parents=True)
    blue = np.random.default_rng(0).integers(0, 256, indices.shape)
    pixels = np.stack([indices // 256 * 10, indices % 256, blue], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f'{stem}_seg.png')
    Image.fromarray(pixels).save(folder / f'{stem}_parts_1.png')
    Image.new('L', (4, 4)).save(folder / stem / f'instance_000_{stem}.png')
    (folder / f'{stem}.json').write_text('{}')
    Image.new(mode, indices.shape[::-1], 100).save(folder / f'{stem}.jpg')
    return folder / f'{stem}_seg.png'


LISTED = {CLASSES[i].raw_id: i for i in (0, 255, 256, 845, 846)}
UNLISTED = next(i for i in range(1, 3_689) if i not in {entry.raw_id for entry in CLASSES})


@pytest.fixture
def raw(tmp_path, converter, monkeypatch):
    monkeypatch.setattr(converter, 'NUM_IMAGES', {'training': 1, 'validation': 2})
    raw = tmp_path / 'ADE20K_2021_17_01'
    write_scene(raw, 'ADE_val_00000001', [[0, *LISTED], [*LISTED, UNLISTED]])
    write_scene(raw, 'ADE_val_00000002', np.full((30, 20), 3_688), scene='misc/x', mode='L')
    write_scene(raw, 'ADE_train_00000001', np.full((6, 7), CLASSES[7].raw_id), 'training')
    return raw


def run(converter, raw, *options):
    out = raw.parent / 'out'
    return converter.main([str(raw), '--out', str(out), '--workers', '1', *options]), out


def read(path):
    return np.array(Image.open(path))


def build(out, split='validation'):
    """The data set of the config, in OUT."""
    init_default_scope('mmseg')
    path = ROOT / 'configs/_base_/datasets/ade20k-847.py'
    config = Config.fromstring(path.read_text().replace('validation', split), '.py')
    dataset = config.test_dataloader.dataset
    return DATASETS.build(dict(dataset, data_root=str(out), pipeline=PIPELINE))


@pytest.mark.parametrize('size', [(30, 20), (600, 800)])
def test_corrected_labels_and_photographs(converter, raw, capsys, size):
    """In their size, or shrunk."""
    path = write_scene(raw, 'ADE_val_00000003', np.full(size, CLASSES[7].raw_id))
    _, out = run(converter, raw, '--allow-partial')
    Image.new('RGB', size[::-1], 200).save(path.with_name('ADE_val_00000003.jpg'))
    assert run(converter, raw, '--allow-partial')[0] == 0
    sample = build(out)[2]
    assert (sample['gt_seg_map'] == 7).all()
    assert (sample['img'][..., 2] == 200).all()
    index = CLASSES[300].raw_id
    Image.new('RGB', size[::-1], (index // 256 * 10, index % 256, 0)).save(path)
    capsys.readouterr()
    assert run(converter, raw, '--allow-partial')[0] == 0
    assert 'A-847: 0 label maps converted, 2 unchanged, 1 updated' in capsys.readouterr().out
    assert (build(out)[2]['gt_seg_map'] == 300).all()


def test_converts(converter, raw, capsys):
    status, out = run(converter, raw)
    assert status == 0
    label = read(out / 'annotations_847' / 'validation' / 'ADE_val_00000001.png')
    assert label.dtype == np.uint16
    ids = list(LISTED.values())
    np.testing.assert_array_equal(label, [[65_535, *ids], [*ids, 65_535]])
    assert {0, 255, 846} <= set(ids)
    printed = capsys.readouterr().out
    assert 'A-847: 2 label maps converted, 0 unchanged, 0 updated, 0 failed' in printed
    assert '98.4% of the pixels are ignored, 842 of 847 classes never occur: ' in printed
    dataset = build(out)
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], label)
    assert dataset[1]['img'].shape == (30, 20, 3)  # the grey photograph
    assert not (out / 'annotations_847' / 'training').exists()
    assert run(converter, raw, '--splits', 'training', 'validation')[0] == 0
    assert (build(out, 'training')[0]['gt_seg_map'] == 7).all()


@pytest.mark.parametrize(
    ('size', 'short_side', 'expected'),
    [
        ((1536, 2048), 512, (512, 683)),
        ((2048, 1536), 512, (683, 512)),
        ((600, 600), 512, (512, 512)),
        ((512, 2000), 512, (512, 2000)),
        ((300, 4000), 512, (300, 4000)),
        ((1536, 2048), 0, (1536, 2048)),
    ],
)
def test_shrunk_size(converter, size, short_side, expected):
    assert converter.shrunk_size(size, short_side) == expected


def test_shrinks_image_and_label_together(converter, raw, capsys):
    blocks = np.kron(
        np.array([[*LISTED][:4], [*LISTED][1:]]), np.ones((300, 200), int)
    )  # 600 x 800
    write_scene(raw, 'ADE_val_00000003', blocks)
    options = ('--allow-partial',)
    expected = np.kron([[*LISTED.values()][:4], [*LISTED.values()][1:]], np.ones((300, 200)))
    for short_side, shape in (('512', (512, 683)), ('300', (300, 400)), ('0', (600, 800))):
        status, out = run(converter, raw, *options, '--short-side', short_side)
        assert status == 0
        sample = build(out)[2]
        label = sample['gt_seg_map']
        assert sample['img'].shape[:2] == label.shape == shape
        rows = np.arange(shape[0]) * 600 // shape[0]
        columns = np.arange(shape[1]) * 800 // shape[1]
        nearest = expected[rows][:, columns]
        assert (label == nearest).mean() > 0.99
        assert set(np.unique(label)) == set(np.unique(expected))
        image = out / 'images_847' / 'validation' / 'ADE_val_00000003.jpg'
        assert image.is_symlink() == (short_side == '0')
    assert run(converter, raw, *options)[0] == 0
    content = image.read_bytes()
    image.write_bytes(content[:-100])
    capsys.readouterr()
    assert run(converter, raw, *options)[0] == 0
    assert image.read_bytes() == content
    # the raw image was never written through the link
    raw_image = next(raw.rglob('ADE_val_00000003.jpg'))
    assert Image.open(raw_image).size == (800, 600)


def test_shrunk_photograph_looks_the_same(converter, raw):
    path = write_scene(raw, 'ADE_val_00000003', np.zeros((600, 800), int))
    photograph = np.zeros((600, 800, 3), np.uint8)
    photograph[:300] = 200, 60, 20
    photograph[300:] = 10, 90, 220
    Image.fromarray(photograph).save(path.with_name('ADE_val_00000003.jpg'), quality=95)
    _, out = run(converter, raw, '--allow-partial')
    shrunk = read(out / 'images_847' / 'validation' / 'ADE_val_00000003.jpg').astype(int)
    assert np.abs(shrunk[:250] - [200, 60, 20]).max() < 10
    assert np.abs(shrunk[262:] - [10, 90, 220]).max() < 10


def test_index_beyond_the_full_list(converter, raw, capsys):
    write_scene(raw, 'ADE_val_00000003', [[3_689, 0]])
    status, out = run(converter, raw, '--allow-partial')
    assert status == 1
    assert 'ADE_val_00000003_seg.png holds id 3689, which no' in capsys.readouterr().err
    assert not (out / 'annotations_847' / 'validation' / 'ADE_val_00000003.png').exists()
    with pytest.raises(ESCNetError, match='1 of 3 images have no label map'):
        build(out)


def test_damaged_and_foreign_files(converter, raw, capsys):
    folder = raw / 'images' / 'ADE' / 'validation' / 'urban' / 'street'
    label = folder / 'ADE_val_00000001_seg.png'
    content = label.read_bytes()
    label.write_bytes(content[: len(content) // 2])
    assert run(converter, raw)[0] == 1
    assert '00000001_seg.png cannot be read' in capsys.readouterr().err
    Image.fromarray(np.zeros((2, 6), np.uint8)).save(label)
    assert run(converter, raw)[0] == 1
    assert "is of Pillow mode 'L': a _seg.png of ADE20K-full is RGB" in capsys.readouterr().err
    Image.new('RGB', (7, 2)).save(label)
    assert run(converter, raw)[0] == 1
    assert '_seg.png is 7x2 pixels but its image' in capsys.readouterr().err
    Image.new('RGB', (600, 600)).save(label)  # both would be 512x512
    Image.new('RGB', (700, 700)).save(folder / 'ADE_val_00000001.jpg')
    assert run(converter, raw)[0] == 1
    assert '_seg.png is 600x600 pixels but its image' in capsys.readouterr().err
    label.write_bytes(content)
    write_scene(raw, 'ADE_val_00000003', np.ones((600, 800), int))
    image = folder / 'ADE_val_00000003.jpg'
    image.write_bytes(image.read_bytes()[:700])
    assert run(converter, raw, '--allow-partial')[0] == 1
    assert 'ADE_val_00000003.jpg cannot be read' in capsys.readouterr().err


def test_counts_are_checked_before_anything_is_written(converter, raw):
    label = next(raw.rglob('ADE_val_00000002_seg.png'))
    label.rename(label.with_name('._ADE_val_00000002_seg.png'))  # as macOS leaves them
    with pytest.raises(ESCNetError, match=r'holds 1 of 2 label maps \*_seg\.png of validation.*ht'):
        run(converter, raw)
    assert not (raw.parent / 'out').exists()
    assert run(converter, raw, '--allow-partial')[0] == 0
    assert len(build(raw.parent / 'out')) == 1


def test_missing_image_is_named(converter, raw, capsys):
    next(raw.rglob('ADE_val_00000002.jpg')).unlink()
    with pytest.raises(ESCNetError, match=r'1 of 2 .* no image .*\(ADE_val_00000002\.jpg'):
        run(converter, raw)
    assert run(converter, raw, '--allow-partial')[0] == 0
    assert '1 without image left out' in capsys.readouterr().out


def test_two_files_of_one_name(converter, raw):
    write_scene(raw, 'ADE_val_00000001', [[0]], scene='other/place')
    with pytest.raises(ESCNetError, match='have the same name'):
        run(converter, raw)


def test_wrong_folders(converter, raw, tmp_path):
    with pytest.raises(ESCNetError, match=r'nowhere does not exist.*groups\.csail\.mit\.edu'):
        converter.main([str(tmp_path / 'nowhere')])
    with pytest.raises(ESCNetError, match='has no images/ADE: give the path of ADE20K_2021_17_01'):
        converter.main([str(tmp_path / 'ADE20K_2021_17_01' / 'images')])
    (tmp_path / 'empty' / 'images' / 'ADE').mkdir(parents=True)
    with pytest.raises(ESCNetError, match='holds no label map'):
        converter.main([str(tmp_path / 'empty'), '--allow-partial'])
    assert run(converter, raw.parent)[0] == 0  # the folder above


def test_into_the_raw_folder_itself(converter, raw, capsys):
    before = {path for path in (raw / 'images').rglob('*') if path.is_file()}
    for expected in ('2 label maps converted, 0 unchanged', '0 label maps converted, 2 unchanged'):
        assert converter.main([str(raw), '--out', str(raw), '--workers', '1']) == 0
        assert expected in capsys.readouterr().out
    assert {path for path in (raw / 'images').rglob('*') if path.is_file()} == before
    assert len(build(raw)) == 2


@pytest.mark.parametrize('short_side', ['0', '512'])
def test_real_scenes(converter, tmp_path, real_samples, short_side):
    """Every labelled pixel has the name that the scene's own list of objects gives its index."""
    raw = real_samples / 'ADE20K_2021_17_01'
    options = ['--splits', 'training', '--allow-partial', '--workers', '1']
    out = tmp_path / 'out'
    assert converter.main([str(raw), '--out', str(out), '--short-side', short_side, *options]) == 0
    dataset = build(out, 'training')
    assert len(dataset) == 2
    for sample, num_classes in zip(dataset, (13, 16), strict=True):
        stem = Path(sample['img_path']).stem
        source = next(raw.rglob(f'{stem}.json'))
        annotation = json.loads(source.read_text(encoding='latin-1'))['annotation']
        objects = annotation['object']
        wholes = {o['name_ndx']: o['name'] for o in objects if o['parts']['part_level'] == 0}
        label = sample['gt_seg_map']
        names = {dataset.metainfo['classes'][i] for i in np.unique(label) if i != 65_535}
        assert names == set(wholes.values())
        assert len(names) == num_classes
        if short_side == '0':
            assert list(label.shape) == annotation['imsize'][:2]
            pixels = read(source.with_name(f'{stem}_seg.png')).astype(int)
            indices = pixels[..., 0] // 10 * 256 + pixels[..., 1]
            for index, name in wholes.items():
                class_id = dataset.metainfo['classes'].index(name)
                np.testing.assert_array_equal(label == class_id, indices == index)
        else:
            assert min(label.shape) == 512
        assert 0.005 < (label == 65_535).mean() < 0.05
