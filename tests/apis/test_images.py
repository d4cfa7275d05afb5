"""Images from wherever people have them, and what is refused."""

import io
import os
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis.images import ImageReader
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


FORMATS = {
    'png': {},
    'tif': {},
    'webp': dict(lossless=True),
    'avif': dict(quality=100, subsampling='4:4:4'),
    'jp2': dict(irreversible=False),
    'gif': {},
    'bmp': {},
    'ppm': {},
    'jpg': dict(quality=100, subsampling=0),
}
MODES = ('RGB', 'RGBA', 'L', 'LA', 'P', '1', 'CMYK', 'I;16', 'LAB')


def painted(mode: str) -> Image.Image:
    """9 x 6 px, red and green at the left end, partly transparent if the mode can be."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (6, 9, 4), np.uint8)
    pixels[:, :3] = (250, 120, 10, 0)
    if mode == 'I;16':
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 256 + 200)
    if mode in ('CMYK', 'LAB'):
        return Image.frombytes(mode, (9, 6), pixels[..., : len(mode)].tobytes())
    return Image.fromarray(pixels).convert(mode)


def cases() -> Iterator[tuple[str, str, int]]:
    available = Image.registered_extensions()
    for suffix in (suffix for suffix in FORMATS if available.get('.' + suffix) in Image.OPEN):
        for mode in MODES:
            for orientation in (1, 3, 6, 7):
                yield suffix, mode, orientation


@pytest.mark.parametrize(('suffix', 'mode', 'orientation'), list(cases()))
def test_every_way_to_the_same_pixels(suffix, mode, orientation, tmp_path):
    """Path, bytes, Pillow image, array, and data set; lossless formats keep the drawn colours."""
    exif = Image.Exif()
    exif[0x112] = orientation
    options = FORMATS[suffix] | (dict(exif=exif) if orientation > 1 else {})
    drawn, path = painted(mode), tmp_path / f'a.{suffix}'
    try:
        drawn.save(path, **options)
    except (OSError, KeyError, ValueError):
        pytest.skip('the format has no such mode')
    found = read(path)
    # not the path: Pillow 12 maps some rotated TIFF files into memory with sides swapped
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        np.testing.assert_array_equal(read(opened), found)
    np.testing.assert_array_equal(read(path.read_bytes()), found)
    np.testing.assert_array_equal(read(found[..., ::-1]), found)
    results = LoadImage().transform(dict(img_path=str(path)))
    np.testing.assert_array_equal(results['img'], found)
    assert results['ori_shape'] == found.shape[:2]
    lossless = ('png', 'tif') if mode == 'I;16' else ('png', 'tif', 'webp')
    if suffix in lossless and mode in ('RGB', 'RGBA', 'L', 'LA', 'I;16'):
        stored = np.array(drawn) // (256 if mode == 'I;16' else 1)
        stored = stored if stored.ndim == 3 else stored[..., None]
        colors = stored[..., :3][..., ::-1] if stored.shape[2] > 2 else stored[..., [0, 0, 0]]
        if suffix == 'webp' and mode in ('RGBA', 'LA'):
            colors = np.where(stored[..., -1:] > 0, colors, found_upright(found, orientation))
        np.testing.assert_array_equal(found_upright(found, orientation), colors)


def found_upright(found: np.ndarray, orientation: int) -> np.ndarray:
    """The image as it is stored, from the upright one."""
    if orientation == 3:
        return found[::-1, ::-1]
    if orientation == 6:  # turned clockwise to be seen
        return np.rot90(found)
    if orientation == 7:
        return found.transpose(1, 0, 2)[::-1, ::-1]
    return found


@pytest.mark.parametrize('suffix', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize(
    ('exif', 'shape'),
    [
        (b'Exif\0\0no header', (6, 9, 3)),
        (b'nothing', (6, 9, 3)),
        (b'Exif\0\0II*\0\xff\xff\xff\x7f', (6, 9, 3)),
        (b'Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0', (9, 6, 3)),  # cut off
    ],
)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
def test_damaged_exif_data_do_not_damage_the_picture(suffix, exif, shape):
    content = encoded(Image.new('RGB', (9, 6), RGB), suffix, exif=exif)
    assert read(content).shape == shape


def test_a_loader_that_ignores_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (9, 6)).save(tmp_path / 'a.png', exif=exif)
    loader = LoadImage(color_type='color_ignore_orientation')
    assert loader.transform(dict(img_path=str(tmp_path / 'a.png')))['img'].shape == (6, 9, 3)
    reader = ImageReader(loader)
    for image in (tmp_path / 'a.png', Image.open(tmp_path / 'a.png')):
        assert reader.read(image, 'Image x').shape == (6, 9, 3)


def test_values_that_do_not_fit_are_refused(tmp_path):
    for value in (-1, 70_000):
        image = Image.fromarray(np.full((2, 3), value, np.int32))
        image.save(tmp_path / 'a.tif')
        for way in (image, tmp_path / 'a.tif'):
            with pytest.raises(ESCNetError, match=f'Image x has values from {value}'):
                read(way)


def test_formats_that_start_programs_are_refused():
    with pytest.raises(ESCNetError, match='not an image of a supported format'):
        read(encoded(Image.new('RGB', (3, 2)), 'EPS'))


@pytest.mark.parametrize('options', [dict(imdecode_backend='tifffile'), dict(color_type='grey')])
def test_loaders_that_read_otherwise_are_refused(options):
    with pytest.raises(ESCNetError, match=f'LoadImage has {next(iter(options))}='):
        LoadImage(**options)


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
        (b'hello' * 100, 'cannot be decoded .it is damaged or not an image'),
        (Image.new('F', (2, 2)), 'floating point'),
        ('a\0b', 'cannot be read'),
        (os.sep, 'is not a regular file'),
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
    [(9_001, '9001x9001 pixels'), (60_000, 'over .* pixels')],
)
def test_decompression_bombs_are_not_decoded(side, message, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda *_: pytest.fail('decoded'))
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
