"""Label maps in colours to ids, against plain loops over pixels, and what is refused."""

from collections import Counter

import cv2
import numpy as np
import pytest
from conftest import ROOT, load_tool
from mmengine.registry import init_default_scope
from mmseg.datasets import COCOStuffDataset
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_escnet.errors import ESCNetError

WIDTH, HEIGHT = 8, 6
ROAD, SOFA, VOID = (128, 64, 128), (0, 0, 250), (0, 0, 0)
CLASSES = 'name,r,g,b\nroad,128,64,128\nsofa | couch,0,0,250\nVoid,0,0,0\n'
CONFIG = str(ROOT / 'configs/own_data/escnet_toy_few-shot.py')


@pytest.fixture(scope='module')
def main():
    return load_tool('tools/dataset_converters/colours.py').main


class Raw:
    """Photographs of 8 x 6 pixels with label maps: road on the left, Void below."""

    def __init__(self, folder, main):
        self.folder, self.main, self.out = folder, main, folder / 'out'
        self.classes = folder / 'classes.csv'
        self.classes.write_text(CLASSES)
        self.pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self.pixels[:] = SOFA
        self.pixels[:, :4], self.pixels[5] = ROAD, VOID
        self.ids = np.full((HEIGHT, WIDTH), 1)
        self.ids[:, :4], self.ids[5] = 0, 255

    def add(self, *stems, label='.png', pixels=None, mode=None, **options):
        pixels = self.pixels if pixels is None else pixels
        for stem in stems:
            image, path = self.folder / f'images/{stem}.jpg', self.folder / f'labels/{stem}{label}'
            for parent in (image.parent, path.parent):
                parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise(pixels.shape[1::-1], 90).save(image)  # each is another one
            label_map = Image.fromarray(pixels)
            if mode:
                label_map = label_map.quantize(8) if mode == 'P' else label_map.convert(mode)
            label_map.save(path, **options)
        return self

    def convert(self, *options):
        folders = [self.classes, '--images', self.folder / 'images']
        folders += ['--labels', self.folder / 'labels', '--out', self.out]
        default = () if '--ignore' in options else ('--ignore', 'void')
        return self.main([*map(str, folders), '--workers', '0', *default, *options])

    def refused(self, message, *options):
        with pytest.raises(ESCNetError, match=message) as caught:
            self.convert(*options)
        assert not self.out.exists(), 'refused before anything is written'
        return str(caught.value)

    def labels(self, stem='a', split='train'):
        with Image.open(self.out / f'labels/{split}/{stem}.png') as image:
            return np.array(image)

    def splits(self):
        folders = sorted((self.out / 'labels').iterdir())
        return {path.name: {p.stem for p in path.rglob('*.png')} for path in folders}

    def dataset(self, split='train'):
        init_default_scope('mmseg')
        return DATASETS.build(
            dict(
                type='FolderDataset',
                names='names.txt',
                data_root=str(self.out),
                data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
                pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
            )
        )


@pytest.fixture
def raw(tmp_path, main):
    return Raw(tmp_path, main)


def nearest(pixels, colors, tolerance):
    """Positions in the list of colours by a plain loop; 255 for none, the last one or a tie."""
    found = np.full(pixels.shape[:2], 255)
    for place in np.ndindex(found.shape):
        away = [max(abs(int(a) - b) for a, b in zip(pixels[place], c, strict=True)) for c in colors]
        best = min(away)
        if best <= tolerance and away.count(best) == 1 and away.index(best) < len(colors) - 1:
            found[place] = away.index(best)
    return found


# -- what is made --------------------------------------------------------------------------------


def test_a_data_set_in_which_nothing_is_wrong(raw, capsys):
    raw.add('a', 'deep/b.c', 'd', 'e')
    (raw.folder / 'val.txt').write_text('deep/b.c\ne.jpg\n')
    assert raw.convert('--val', str(raw.folder / 'val.txt')) == 0
    assert 'train: 2 images, val: 2 images' in capsys.readouterr().out
    assert raw.splits() == {'train': {'a', 'd'}, 'val': {'b.c', 'e'}}
    assert (raw.out / 'names.txt').read_text() == 'road\nsofa | couch\n'
    for stem, split in (('a', 'train'), ('deep/b.c', 'val')):
        np.testing.assert_array_equal(raw.labels(stem, split), raw.ids)
    assert raw.dataset().vocabulary.synonyms == (('road',), ('sofa', 'couch'))
    roots = [
        f'{phase}_dataloader.dataset.data_root={raw.out}/' for phase in ('train', 'val', 'test')
    ]
    check = load_tool('tools/check_dataset.py').main
    out = str(raw.folder / 'checked')
    assert check([CONFIG, '--out', out, '--workers', '0', '--cfg-options', *roots]) == 0
    assert 'nothing is wrong' in capsys.readouterr().out


def test_refusals_elsewhere_name_the_command(raw, capsys):
    raw.add('a').convert()
    raw.add('a')
    (raw.folder / 'labels/a.png').replace(raw.out / 'labels/train/a.png')
    check = load_tool('tools/check_dataset.py').main
    options = ['--phase', 'train', '--out', str(raw.folder / 'checked'), '--workers', '0']
    root = f'train_dataloader.dataset.data_root={raw.out}/'
    assert check([CONFIG, *options, '--cfg-options', root]) == 1
    assert 'convert its colours to ids first, with `mmseg-escnet convert' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('label', 'mode', 'options'),
    [
        ('.png', 'RGBA', {}),
        ('.png', 'P', {}),
        ('.png', 'P', dict(transparency=200)),
        ('.tif', None, {}),
        ('.bmp', None, {}),
        ('.webp', None, dict(lossless=True)),
    ],
)
def test_kinds_of_label_maps(raw, label, mode, options):
    assert raw.add('a', label=label, mode=mode, **options).convert() == 0
    np.testing.assert_array_equal(raw.labels(), raw.ids)


@pytest.mark.parametrize('mode', ['L', '1'])
def test_black_and_white(raw, mode):
    pixels = np.where(raw.ids == 0, 255, 0).astype(np.uint8)
    raw.classes.write_text('background #000000\npolyp #FFFFFF\n')
    raw.add('a', pixels=pixels, mode=mode)
    assert raw.convert('--ignore', '1,2,3') == 0
    np.testing.assert_array_equal(raw.labels(), pixels // 255)


@pytest.mark.parametrize(
    ('text', 'lines'),
    [
        ('road #804080\n\n# a comment\nsofa|couch\t0 0 250', ['road', 'sofa|couch']),
        (
            'Name, Red, Green, Blue\nroad, 128, 64, 128\n"door, open",0,0,250',
            ['road', '"door, open"'],
        ),
        ('# label:color_rgb:parts:actions\nroad:128,64,128::\nsofa:0,0,250::', ['road', 'sofa']),
        (
            'route 66 128 64 128\n"#1 sofa": a red one  #0000FA',
            ['route 66', '"#1 sofa": a red one'],
        ),
    ],
)
def test_files_of_classes(raw, text, lines):
    raw.classes.write_text(text)
    assert raw.add('a').convert('--ignore', '0,0,0') == 0
    assert (raw.out / 'names.txt').read_text().splitlines() == lines
    np.testing.assert_array_equal(raw.labels(), raw.ids)


def test_more_classes_than_8_bits_hold(raw):
    colors = [(i % 256, i // 256, 77) for i in range(300)]
    lines = [f'c{i} {r} {g} {b}' for i, (r, g, b) in enumerate(colors)]
    raw.classes.write_text('\n'.join(lines))
    raw.add('a', pixels=np.array([[colors[299], colors[255], VOID]], np.uint8))
    assert raw.convert('--ignore', '#000000', 'c7') == 0
    assert raw.labels().tolist() == [[298, 254, 65535]]


def test_a_turned_photograph(raw):
    """The label map shows it upright, as the data set loads it."""
    raw.add('a')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (HEIGHT, WIDTH)).save(raw.folder / 'images/a.jpg', exif=exif.tobytes())
    assert raw.convert() == 0
    (item,) = raw.dataset()
    assert item['img'].shape[:2] == item['gt_seg_map'].shape == (HEIGHT, WIDTH)


def test_names_of_label_maps_that_end_differently(raw):
    raw.add('a', label='_L.png')
    raw.refused(r'1 of 1 images have no file of their name .*give --label-suffix')
    assert raw.convert('--label-suffix', '_L') == 0
    np.testing.assert_array_equal(raw.labels(), raw.ids)


@pytest.mark.parametrize('place', ['images', 'images/labels'])
def test_label_maps_in_the_folder_of_the_images(raw, place):
    raw.add('a', 'deep/b', label='_L.png')
    for path in (raw.folder / 'labels').rglob('*.png'):
        target = raw.folder / place / path.relative_to(raw.folder / 'labels')
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert raw.convert('--label-suffix', '_L', '--labels', str(raw.folder / place)) == 0
    assert raw.splits() == {'train': {'a', 'b'}}
    np.testing.assert_array_equal(raw.labels('deep/b'), raw.ids)


# -- other colours -------------------------------------------------------------------------------


def test_unknown_colours_of_all_files(raw):
    pixels = raw.pixels.copy()
    pixels[0, :3], pixels[1, 0] = (128, 64, 120), (9, 9, 9)
    raw.add('a').add('b', 'c', pixels=pixels)
    message = raw.refused('2 of 3 label maps have 2 colours of no class: .*--tolerance N')
    often, seldom = message.splitlines()[2:]
    assert '#804078 has 6 pixels in 2 label maps' in often
    assert "labels/b.png; the nearest colour, 'road', is 8 away" in often
    assert '#090909 has 2 pixels in 2 label maps' in seldom
    assert "'Void', is 9 away" in seldom
    assert '2 of 3 label maps have 1 colours' in raw.refused('colours', '--tolerance', '8')
    assert raw.convert('--tolerance', '9') == 0
    expected = nearest(pixels, [ROAD, SOFA, VOID], 9)
    np.testing.assert_array_equal(raw.labels('b'), expected)
    assert expected[0, 0] == 0
    assert expected[1, 0] == 255


def test_many_unknown_colours(raw):
    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    message = raw.add('a', pixels=pixels).refused('have 48 colours')
    assert len(message.splitlines()) == 13
    assert '38 more colours' in message


def test_lossy_label_maps(raw, capsys):
    raw.pixels = np.kron(raw.pixels, np.ones((9, 7, 1), np.uint8))
    raw.add('a', label='.jpg', quality=60)
    raw.refused(r'colours of no class: .* lossy compression')
    with Image.open(raw.folder / 'labels/a.jpg') as image:
        pixels = np.array(image)
    assert raw.convert('--tolerance', '255') == 0
    expected = nearest(pixels, [ROAD, SOFA, VOID], 255)
    np.testing.assert_array_equal(raw.labels(), expected)
    assert (expected == np.kron(raw.ids, np.ones((9, 7)))).mean() > 0.9
    exact = [(pixels == color).all(axis=2) for color in (ROAD, SOFA, VOID)]
    others = int((~np.any(exact, axis=0)).sum())
    assert (
        f'{others} pixels in 1 label maps have other colours and the near'
        in capsys.readouterr().out
    )


def test_halfway_between_two_classes(raw):
    raw.classes.write_text('a 0 0 0\nb 0 0 8\nc 0 0 18')
    colors = [[0, 0, 3], [0, 0, 4], [0, 0, 13], [0, 0, 14], [0, 5, 0]]
    raw.add('a', pixels=np.array([colors], np.uint8))
    message = raw.refused(
        '#000004 .* nearest colour, that of several classes, is 4', '--ignore', 'c'
    )
    assert "'a', is 3" in message
    assert raw.convert('--tolerance', '5', '--ignore', 'c') == 0
    assert raw.labels().tolist() == [[0, 255, 255, 255, 0]]


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('tree', "line 5, 'tree', does not end with a colour"),
        ('#00ff00 tree', "line 5, '#00ff00 tree', does not end with a colour"),
        ('#00ff00 tree #00ff01', "line 5, '#00ff00 tree #00ff01', does not end"),
        ('tree 1 2', 'does not end with a colour'),
        ('tree #00ff0', 'does not end with a colour'),
        ('tree 0 256 0', 'colour 0 256 0 is out of range'),
        ('tree 0 -1 0', 'colour 0 -1 0 is out of range'),
        ('tree #804080', "line 5, 'tree #804080', has the colour of 'road'"),
        ('Road 1 2 3', r"classes\.csv cannot be used: Class name 'Road' is listed twice"),
        ('road 1 2 3', "'road' is listed twice"),
    ],
)
def test_invalid_classes(raw, line, message):
    raw.add('a')
    raw.classes.write_text(f'{CLASSES}{line}\n')
    raw.refused(message)


def test_all_invalid_lines_are_named(raw):
    raw.classes.write_text('road\nsofa 0 0 999\n')
    assert raw.add('a').refused('2 problems').count('\n') == 2


def test_a_name_that_is_not_ignored(raw, capsys):
    raw.add('a').refused("no class 'viod': did you mean 'Void'", '--ignore', 'viod')
    raw.refused('leaves no class', '--ignore', 'road', 'couch', 'void')
    raw.refused('--tolerance 256 is out of range', '--tolerance', '256')
    assert raw.convert('--ignore', '1,2,3') == 0
    assert "note: 'Void' is a class" in capsys.readouterr().out
    assert raw.labels().max() == 2


def sixteen_bits(path):
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 257, np.uint16))


def transparent(path):
    pixels = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    pixels[..., :3], pixels[0, 0, 3] = ROAD, 254
    Image.fromarray(pixels).save(path)


def transparent_palette(path):
    image = Image.new('P', (WIDTH, HEIGHT))
    image.putpalette([*ROAD, *SOFA])
    image.save(path, transparency=0)


def turned(path):
    Image.new('RGB', (HEIGHT, WIDTH), ROAD).save(path)


@pytest.mark.parametrize(
    ('write', 'suffix', 'message'),
    [
        (sixteen_bits, '.png', 'has 16 bits per channel'),
        (sixteen_bits, '.tif', 'has 16 bits per channel'),
        (lambda path: Image.new('I;16', (WIDTH, HEIGHT)).save(path), '.png', 'has 16 bits per'),
        (lambda path: Image.new('CMYK', (WIDTH, HEIGHT)).save(path), '.tif', "mode 'CMYK'"),
        (transparent, '.png', 'has 1 pixels that are transparent'),
        (transparent_palette, '.png', 'has 48 pixels that are transparent'),
        (turned, '.png', 'is 6x8 pixels but its image .* is 8x6 when upright: turn it, or'),
        (lambda path: Image.new('RGB', (9, 9), ROAD).save(path), '.png', 'is 9x9 pixels but'),
        (lambda path: path.write_bytes(b'no picture'), '.png', 'Label map .* cannot be read'),
    ],
)
def test_invalid_label_maps(raw, write, suffix, message):
    """Named together with unknown colours elsewhere."""
    raw.add('a', label=suffix).add('b', pixels=raw.pixels + 1)
    write(raw.folder / f'labels/a{suffix}')
    text = raw.refused(message)
    assert 'labels/a' in text
    assert '1 of 2 label maps have 3 colours' in text


def test_alone(raw):
    raw.add('a', 'b', 'c')
    (raw.folder / 'images/a.jpg').unlink()
    (raw.folder / 'labels/b.png').unlink()
    message = raw.refused('2 problems')
    assert '1 of 2 images have no file of their name' in message
    assert 'images/b.jpg' in message
    assert '1 of 2 label maps have no file' in message
    assert 'labels/a.png' in message


@pytest.mark.parametrize('folder', ['images', 'labels'])
def test_two_of_one_name(raw, folder):
    raw.add('a')
    Image.new('RGB', (WIDTH, HEIGHT)).save(raw.folder / folder / 'a.bmp')
    raw.refused('differ only in their ending')


# -- splits --------------------------------------------------------------------------------------


def test_an_image_keeps_its_split(raw, capsys):
    stems = [f'{i:03}' for i in range(40)]
    assert raw.add(*stems[::2]).convert('--val', '0.3') == 0
    before = raw.splits()
    assert raw.add(*stems[1::2]).convert('--val', '0.3') == 0
    after = raw.splits()
    assert not after['train'] & after['val']
    assert all(before[split] < after[split] for split in ('train', 'val'))
    assert 5 <= len(after['val']) <= 19
    assert (
        f'train: {len(after["train"])} images, val: {len(after["val"])}' in capsys.readouterr().out
    )


def test_no_image_gets_into_another_split(raw):
    raw.add(*map(str, range(12))).convert('--val', '0.5', '--seed', '1')
    before = raw.splits()
    for options in (
        ('--val', '0.5', '--seed', '2'),
        ('--val', '0.2', '--seed', '1'),
        ('--split', 'x'),
    ):
        with pytest.raises(ESCNetError, match=r'images are in another split of .* already'):
            raw.convert(*options)
        assert raw.splits() == before
    raw.convert('--val', '0.5', '--seed', '1')
    assert raw.splits() == before


def test_folders_of_splits(raw):
    """Files of one name in two splits are different images."""
    raw.add('a', 'b').convert('--link', 'copy')
    assert raw.add('a', 'b').convert('--split', 'val') == 0
    assert raw.splits() == {'train': {'a', 'b'}, 'val': {'a', 'b'}}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--val', '1.5'), 'a share between 0 and 1'),
        (('--val', 'nan'), 'a share between 0 and 1'),
        (('--val', '0.000001'), 'leaves none of 2 images for val'),
        (('--val', '0.999999'), 'leaves none of 2 images for train'),
        (('--val', 'nowhere.txt'), 'neither a share .* nor a list'),
        (('--val', '0.5', '--split', 'val'), 'leaves no other split'),
        (('--split', '../x'), 'must be a plain name'),
    ],
)
def test_invalid_splits(raw, options, message):
    raw.add('a', 'b').refused(message, *options)


def test_a_list_of_other_images(raw):
    (raw.folder / 'val.txt').write_text('a\nz.jpg\n')
    raw.add('a', 'b').refused(
        r'1 of 2 names in .*val\.txt are of no image \(z\.jpg\)',
        '--val',
        str(raw.folder / 'val.txt'),
    )


# -- again ---------------------------------------------------------------------------------------


def test_corrected_label_maps(raw, capsys):
    raw.add('a', 'b').convert()
    kept = (raw.out / 'labels/train/b.png').stat().st_mtime_ns
    Image.fromarray(raw.pixels[:, ::-1]).save(raw.folder / 'labels/a.png')
    for outcome in ('1 unchanged, 1 updated', '2 unchanged, 0 updated'):
        capsys.readouterr()
        assert raw.convert() == 0
        assert f'train: 0 label maps converted, {outcome}' in capsys.readouterr().out
        np.testing.assert_array_equal(raw.labels(), raw.ids[:, ::-1])
    assert (raw.out / 'labels/train/b.png').stat().st_mtime_ns == kept


def test_what_is_made_is_not_read_again(raw, monkeypatch):
    raw.add('a').convert()
    monkeypatch.setattr('mmseg_escnet.datasets.label_colors.decode_image', None)
    assert raw.convert() == 0


def test_other_options(raw, capsys):
    """Equal to a conversion from nothing."""
    raw.pixels[0, 0] = (0, 0, 249)
    raw.add('a').convert('--tolerance', '255')
    before = raw.labels()
    raw.classes.write_text(CLASSES.replace('0,0,250', '0,0,240').replace('0,0,0', '0,0,248'))
    capsys.readouterr()
    assert raw.convert('--tolerance', '255') == 0
    assert '1 updated' in capsys.readouterr().out
    assert before[0, 0] == 1
    assert raw.labels()[0, 0] == 255
    raw.classes.write_text(CLASSES.replace('road', 'street'))
    (raw.folder / 'labels/a.png').unlink()  # the names are compared first
    with pytest.raises(ESCNetError, match='exists with other names'):
        raw.convert('--tolerance', '255')


def test_an_image_that_was_removed(raw, capsys):
    raw.add('a', 'b').convert()
    for path in ('images/b.jpg', 'labels/b.png'):
        (raw.folder / path).unlink()
    assert raw.convert() == 0
    assert '1 label maps in' in capsys.readouterr().err


# -- real label maps -----------------------------------------------------------------------------


def test_real_photographs(raw, real_samples):
    """PASCAL VOC in the colours of its own palette."""
    voc = real_samples / 'VOCdevkit/VOC2012'
    labels = sorted((voc / 'SegmentationClass').glob('*.png'))
    (raw.folder / 'labels').mkdir()
    (raw.folder / 'images').symlink_to(voc / 'JPEGImages')
    for path in labels:
        with Image.open(path) as image:
            palette = np.reshape(image.getpalette(), (-1, 3))
            image.convert('RGB').save(raw.folder / 'labels' / path.name)
    lines = [f'object {i} {" ".join(map(str, palette[i]))}' for i in range(21)]
    raw.classes.write_text('\n'.join([*lines, 'border #e0e0c0']))
    assert raw.convert('--ignore', 'border') == 0
    found = Counter()
    for path in labels:
        with Image.open(path) as image:
            expected = np.array(image)
        np.testing.assert_array_equal(raw.labels(path.stem), expected)
        found.update(np.unique(expected).tolist())
    assert len(labels) == 2
    assert set(found) == {0, 5, 9, 15, 18, 255}


def test_a_real_photograph_of_many_classes(raw, real_samples):
    """COCO-Stuff's 171 classes in MMSegmentation's palette, split by folder."""
    coco = real_samples / 'coco_stuff164k'
    (path,) = (coco / 'annotations/val2017').glob('*.png')
    with Image.open(path) as image:
        ids = np.array(image)
    palette = {tuple(color) for color in COCOStuffDataset.METAINFO['palette']}
    palette = np.array([*sorted(palette), (1, 1, 1)], np.uint8)
    (raw.folder / 'images').symlink_to(coco / 'images/val2017')
    (raw.folder / 'labels').mkdir()
    present = np.unique(ids[ids < 255])
    rows = np.full(256, len(palette) - 1)
    rows[present] = np.arange(0, 3 * len(present), 3)
    Image.fromarray(palette[rows[ids]]).save(raw.folder / 'labels' / path.name)
    text = [f'stuff {i}, {r}, {g}, {b}' for i, (r, g, b) in enumerate(palette[:-1])]
    raw.classes.write_text('\n'.join(text))
    assert raw.convert('--ignore', '1,1,1', '--split', 'val') == 0
    expected = np.where(ids == 255, 255, rows[ids])
    np.testing.assert_array_equal(raw.labels(path.stem, 'val'), expected)
