"""Label maps in MATLAB files: as SciPy reads them, and one sentence for everything else."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from mmseg_escnet.datasets import mat_files
from mmseg_escnet.datasets.mat_files import read_mat_ids
from mmseg_escnet.errors import ESCNetError

IDS = np.random.default_rng(0).integers(0, 460, (7, 5))


def mat(compressed=False, **variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


def read(content):
    return read_mat_ids(content, 'LabelMap', 'a.mat')


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('dtype', ['u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8'])
def test_same_as_scipy(dtype, compressed):
    ids = (IDS % 200 if dtype == 'u1' else IDS).astype(dtype)
    content = mat(compressed, LabelMap=ids)
    found = read(content)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, scipy.io.loadmat(io.BytesIO(content))['LabelMap'])
    np.testing.assert_array_equal(found, IDS % 200 if dtype == 'u1' else IDS)


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (2, 1), (3, 2)])
def test_small_maps_whose_numbers_fit_a_tag(shape):
    ids = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    np.testing.assert_array_equal(read(mat(LabelMap=ids)), ids)


def test_other_variables_are_passed_over():
    others = dict(LabelMap2=np.eye(3), name='bottle', record=dict(a=1), cell=np.array([1], object))
    for compressed in (False, True):
        content = mat(compressed, **others, LabelMap=IDS, last='x')
        np.testing.assert_array_equal(read(content), IDS)


def test_big_endian():
    name = b'LabelMap'
    flags = struct.pack('>IIII', 6, 8, 11, 0)  # class uint16
    dimensions = struct.pack('>IIii', 5, 8, 2, 3)
    numbers = struct.pack('>II6H4x', 4, 12, 1, 300, 2, 301, 459, 303)
    body = flags + dimensions + struct.pack('>II', 1, 8) + name + numbers
    content = b' ' * 124 + b'\x01\x00MI' + struct.pack('>II', 14, len(body)) + body
    np.testing.assert_array_equal(read(content), [[1, 2, 459], [300, 301, 303]])
    np.testing.assert_array_equal(scipy.io.loadmat(io.BytesIO(content))['LabelMap'], read(content))


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (np.array([[{'a': 1}]], object), 'is a cell array and no matrix'),
        (dict(a=1), 'is a struct and no'),
        ('text', 'is a text and no'),
        (scipy.sparse.eye(3), 'is a sparse matrix and no'),
        (IDS + 1j, 'is a complex matrix and no'),
        (IDS + 0.5, 'numbers that are no ids'),
        (np.full((2, 2), np.nan), 'numbers that are no ids'),
        (np.full((2, 2), 65_536), 'numbers that are no ids'),
        (np.full((2, 2), -1), 'numbers that are no ids'),
        (np.zeros((2, 3, 4)), r'must be \(height, width\)'),
        (np.zeros((0, 4)), r'must be \(height, width\)'),
    ],
)
def test_other_contents(value, message):
    for compressed in (False, True):
        with pytest.raises(ESCNetError, match=message) as error:
            read(mat(compressed, LabelMap=value))
        assert 'a.mat' in str(error.value)


def test_functions_and_objects_are_not_touched():
    """No class that holds code is parsed: the number of the class is all that is read of it."""
    content = bytearray(mat(LabelMap=IDS.astype(np.uint16)))
    for number, name in ((3, 'object'), (16, 'function'), (17, 'object'), (99, 'class 99')):
        content[144] = number  # first byte of the flags
        with pytest.raises(ESCNetError, match=f'{name} and no matrix'):
            read(bytes(content))


def test_no_such_variable():
    with pytest.raises(ESCNetError, match="no variable 'LabelMap' but 'labelmap', 'b'"):
        read(mat(labelmap=IDS, b=1))
    with pytest.raises(ESCNetError, match='but nothing'):
        read(mat())


@pytest.mark.parametrize('compressed', [False, True])
def test_cut_short_anywhere(compressed):
    content = mat(compressed, LabelMap=IDS.astype(np.uint16))
    for length in range(len(content)):
        with pytest.raises(ESCNetError):
            read(content[:length])


@pytest.mark.parametrize('compressed', [False, True])
def test_random_damage_is_an_error_or_other_numbers(compressed):
    """Never another exception, never a crash of the process, as SciPy's reader has."""
    content = mat(compressed, LabelMap=IDS.astype(np.uint16))
    rng = np.random.default_rng(1)
    num_errors = 0
    for _ in range(3000):
        damaged = bytearray(content)
        for place in rng.integers(124, min(len(content), 230), 2):
            damaged[place] = rng.integers(256)
        try:
            assert read(bytes(damaged)).dtype == np.uint16
        except ESCNetError:
            num_errors += 1
    assert num_errors > 1000


@pytest.mark.parametrize('number', [0, 8, 14, 19, 99])
def test_wrong_type_of_numbers_which_crashes_scipy(number):
    content = bytearray(mat(LabelMap=IDS.astype(np.uint16)))
    content[184:188] = struct.pack('<I', number)
    with pytest.raises(ESCNetError, match=f'numbers have type {number}'):
        read(bytes(content))


def test_packed_bomb(monkeypatch):
    monkeypatch.setattr(mat_files, 'MAX_BYTES', 2**20)
    bomb = zlib.compress(bytes(2**22))
    content = mat()[:128] + struct.pack('<II', 15, len(bomb)) + bomb
    with pytest.raises(ESCNetError, match='unpacks to more than 1 MiB'):
        read(content)


def test_other_files():
    for content in (b'', b'\x89PNG', b'x' * 500):
        with pytest.raises(ESCNetError, match='no header of a MATLAB 5 file'):
            read(content)
    with pytest.raises(ESCNetError, match='HDF5 file of MATLAB 7'):
        read(b'MATLAB 7.3 MAT-file' + b' ' * 200)
