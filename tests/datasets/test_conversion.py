"""Shared pieces of the converters."""

import pytest

from mmseg_escnet.datasets.conversion import check_count, parallel_map, place_image
from mmseg_escnet.errors import ESCNetError


def square_or_fail(number):
    if number % 10 == 3:
        raise ESCNetError(f'number {number} is odd in a bad way')
    return number**2


def crash(number):
    raise ZeroDivisionError


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('count', [0, 1, 100])
def test_parallel_map_reports_every_item(workers, count):
    outcomes = list(
        parallel_map(square_or_fail, list(range(count)), workers=workers, description='x')
    )
    assert sorted(outcome.item for outcome in outcomes) == list(range(count))
    for item, result, error in outcomes:
        if item % 10 == 3:
            assert result is None
            assert f'number {item}' in error
        else:
            assert (result, error) == (item**2, None)


@pytest.mark.parametrize('workers', [1, 2])
def test_parallel_map_does_not_swallow_mistakes(workers):
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(crash, [1, 2], workers=workers, description='x'))


@pytest.mark.parametrize('how', ['symlink', 'copy'])
def test_place_image(tmp_path, how):
    source, target = tmp_path / 'a.jpg', tmp_path / 'out.jpg'
    source.write_bytes(b'picture')
    assert place_image(source, target, how)
    assert target.read_bytes() == b'picture'
    assert target.is_symlink() == (how == 'symlink')
    assert not place_image(source, target, how)
    assert not place_image(source, source, how)
    target.unlink()
    target.symlink_to(tmp_path / 'gone.jpg')  # a broken link is replaced
    assert place_image(source, target, how)
    assert target.read_bytes() == b'picture'
    assert not place_image(source, tmp_path / 'none.jpg', 'none')
    assert not (tmp_path / 'none.jpg').exists()


def test_check_count(tmp_path):
    check_count(what='files', folder=tmp_path, found=3, expected=3, remedy='get them')
    with pytest.raises(ESCNetError, match='holds 2 of 3 files: get them, or pass --allow-partial'):
        check_count(what='files', folder=tmp_path, found=2, expected=3, remedy='get them')
