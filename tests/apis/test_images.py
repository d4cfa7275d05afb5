"""Images from wherever people have them, and what is refused."""

import io
import os
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis.images import ImageReader, find_images, printable
from mmseg_escnet.datasets import LoadImage

RGB = (250, 100, 20)


def read(image, **kwargs):
    pixels = ImageReader(LoadImage(), **kwargs).read(image, 'Image x')
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    return pixels


def encoded(image: Image.Image, kind: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


# -- reading -----------------------------------------------------------------------------------


def palette_image() -> Image.Image:
    image = Image.new('P', (3, 2), 1)
    image.putpalette([0, 0, 0, *RGB])
    return image


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (Image.new('RGB', (3, 2), RGB), RGB),
        (Image.new('RGBA', (3, 2), (*RGB, 0)), RGB),
        (Image.new('L', (3, 2), 77), (77, 77, 77)),
        (Image.new('LA', (3, 2), (77, 0)), (77, 77, 77)),
        (Image.new('1', (3, 2), 1), (255, 255, 255)),
        (palette_image(), RGB),
        (Image.fromarray(np.full((2, 3), 40_000, np.uint16)), (156, 156, 156)),
        (Image.new('CMYK', (3, 2), (0, 255, 255, 0)), (255, 0, 0)),
    ],
    ids=lambda value: getattr(value, 'mode', None),
)
def test_every_mode(image, expected):
    """As a Pillow image and as a file; CMYK as a JPEG, which may change it a little."""
    kind, tolerance = ('JPEG', 8) if image.mode == 'CMYK' else ('PNG', 1)
    for way in (image, encoded(image, kind)):
        pixels = read(way)
        assert pixels.shape == (2, 3, 3)
        assert np.abs(pixels.astype(int) - expected[::-1]).max() < tolerance


def test_arrays():
    color = np.zeros((2, 3, 3), np.uint8)
    color[:] = RGB
    assert (read(color) == RGB[::-1]).all()
    assert (read(np.dstack([color, color[..., :1]])) == RGB[::-1]).all()
    assert (read(color.astype(np.uint16) * 256 + 3) == RGB[::-1]).all()
    assert (read(color[..., 0]) == 250).all()
    assert (read(color[..., :1]) == 250).all()
    assert (read(color[:, ::-1][::-1]) == RGB[::-1]).all()  # not contiguous


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((2, 3, 3)), 'array of float64: give uint8'),
        (np.zeros((2, 3, 2), np.uint8), r'shape \(2, 3, 2\)'),
        (np.zeros((0, 3, 3), np.uint8), r'shape \(0, 3, 3\)'),
        (np.zeros((1, 2, 3, 3), np.uint8), r'shape \(1, 2, 3, 3\)'),
        (None, 'is a NoneType: give a path'),
        (7, 'is a int: give a path'),
        (b'', 'cannot be decoded .it is empty'),
        (b'hello' * 100, 'cannot be decoded .it is damaged or no image'),
        (Image.new('F', (2, 2)), 'floating point'),
        ('a\0b', 'cannot be read'),
        (os.sep, 'is no file'),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image(image, message):
    with pytest.raises(ESCNetError, match=f'Image x .*{message}'):
        read(image)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM'])
def test_damaged_files(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8))
    content = encoded(noise, kind)
    assert read(content).shape == (64, 48, 3)
    for share in (0.02, 0.5, 0.97):
        with pytest.raises(ESCNetError, match='cannot be decoded'):
            read(content[: int(share * len(content))])


def test_a_lazy_pillow_image_whose_end_is_missing():
    content = encoded(Image.fromarray(np.zeros((64, 48, 3), np.uint8)), 'PNG')
    image = Image.open(io.BytesIO(content[:-40]))
    with pytest.raises(ESCNetError, match='cannot be decoded'):
        read(image)


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that becomes width x height pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data).to_bytes(4, 'big')
        return len(data).to_bytes(4, 'big') + kind + data + checksum

    header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([8, 0, 0, 0, 0])
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0'))


@pytest.mark.parametrize(
    ('side', 'message'),
    [(9_001, '9001x9001 pixels'), (60_000, 'more than .* pixels')],
)
def test_decompression_bombs_are_not_decoded(side, message, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('decoded'))
    with pytest.raises(ESCNetError, match=f'Image x has {message}'):
        read(bomb(side, side))


def test_the_limit_is_an_argument():
    image = Image.new('RGB', (30, 20), RGB)
    for way in (image, np.array(image), encoded(image, 'PNG')):
        assert read(way, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(ESCNetError, match='30x20 pixels, and images of up to 599 pixels'):
            read(way, max_pixels=599)


def test_files_larger_than_any_image_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / 'huge.png'
    with open(path, 'wb') as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(ESCNetError, match=f'{1 << 40} bytes'):
        read(path)


# -- finding -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """photos/{b.JPG, a.png, sub/a.png, sub/deep/c.tif}, and files that are no photographs."""
    root = tmp_path / 'photos'
    (root / 'sub/deep').mkdir(parents=True)
    (root / '.cache').mkdir()
    files = ['b.JPG', 'a.png', 'sub/a.png', 'sub/deep/c.tif']
    for name in (*files, 'notes.txt', '._a.png', '.cache/d.png', 'list.png.txt'):
        (root / name).touch()
    return root


def names(inputs, **kwargs):
    return [image.name for image in find_images(inputs, **kwargs)]


def test_folders(folder):
    assert names(folder) == ['a.png', 'b.JPG', 'sub/a.png', 'sub/deep/c.tif']
    assert names(f'{folder}/sub') == ['a.png', 'deep/c.tif']
    assert names(folder, leave_out=[folder / 'sub/deep']) == ['a.png', 'b.JPG', 'sub/a.png']
    assert all(image.path.is_file() for image in find_images(folder))


def test_files_and_globs(folder, monkeypatch):
    assert names(folder / 'sub/a.png') == ['a.png']
    assert names(folder / 'notes.txt') == ['notes.txt'], 'who names a file wants it'
    assert names(f'{folder}/*') == ['a.png', 'b.JPG']
    assert names(f'{folder}/**/*.png') == ['a.png', 'sub/a.png']
    assert names(f'{folder}/*/a.png') == ['sub/a.png'], 'whatever else matches, names are the same'
    assert names(f'{folder}/**/*', leave_out=[folder / 'sub']) == ['a.png', 'b.JPG']
    (folder / 'c[1].png').touch()
    assert names(folder / 'c[1].png') == ['c[1].png']
    monkeypatch.chdir(folder)
    assert names('*.png') == ['a.png', 'c[1].png']
    assert names('sub/../a.png') == ['a.png']


def test_names_never_leave_and_never_collide(folder):
    """Several inputs, with parts in common and without; two dots in paths."""
    (folder.parent / 'other').mkdir()
    (folder.parent / 'other/a.png').touch()
    found = names([folder, folder / 'a.png', folder / 'sub', folder.parent / 'other/a.png'])
    expected = ['other/a.png', 'photos/a.png', 'photos/b.JPG', 'photos/sub/a.png']
    assert found == [*expected, 'photos/sub/deep/c.tif']
    found = names(f'{folder}/*/../../other/*.png')
    assert found == ['other/a.png']


def test_links_to_folders_are_not_followed(folder):
    (folder / 'sub/again').symlink_to(folder)
    (folder / 'link.png').symlink_to(folder / 'a.png')
    assert names(folder) == ['a.png', 'b.JPG', 'link.png', 'sub/a.png', 'sub/deep/c.tif']


def test_nothing_found(folder):
    with pytest.raises(ESCNetError, match=r'photos/none\.png does not exist'):
        find_images([folder, folder / 'none.png'])
    with pytest.raises(ESCNetError, match=r'No image found in .*\*\.gif: give a file'):
        find_images(f'{folder}/*.gif')
    (folder / 'empty').mkdir()
    with pytest.raises(ESCNetError, match=r'No image found in .*empty'):
        find_images(folder / 'empty')


def test_folders_that_cannot_be_read(folder, monkeypatch):
    """As it is for everybody but root."""
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith('deep'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', guarded)
    messages = []
    assert names(folder, report=messages.append) == ['a.png', 'b.JPG', 'sub/a.png']
    assert len(messages) == 1
    assert 'sub/deep cannot be read (Permission denied)' in messages[0]
    with pytest.raises(ESCNetError, match='sub/deep cannot be read'):
        find_images(folder)


def test_names_that_a_terminal_would_obey():
    assert printable('a\x1b[31m\n.png') == 'a?[31m?.png'
    assert printable(os.fsdecode(b'caf\xe9.png')) == 'caf?.png'
    assert printable('café 北.png') == 'café 北.png'
    assert printable('') == "''"
