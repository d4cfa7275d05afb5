"""Image files that are found, and what is refused."""

import os

import pytest

from mmseg_escnet import ESCNetError
from mmseg_escnet.image_files import IMAGE_SUFFIXES, find_images, is_glob, printable


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


@pytest.mark.parametrize('name', ['run[1]', 'a[!b]c', 'what?', '[x', 'all * of [them]'])
def test_brackets_in_the_name_of_a_folder(tmp_path, monkeypatch, name):
    folder = tmp_path / name / 'deep[2]'
    folder.mkdir(parents=True)
    for decoy in ('run1', 'aXc', 'whatX'):  # what the name matches as a pattern
        (tmp_path / decoy / 'deep2').mkdir(parents=True)
        (tmp_path / decoy / 'deep2/wrong.png').touch()
    for file in ('b.png', 'c[1].png', 'c1.png', 'd.jpg'):
        (folder / file).touch()
    assert names(f'{folder}/*.png') == ['b.png', 'c1.png', 'c[1].png']
    assert names(f'{folder}/c[1].png') == ['c[1].png']
    assert names(f'{folder}/[a-c].*') == ['b.png']
    assert names(f'{tmp_path}/{name}/**/*.jpg') == ['deep[2]/d.jpg']
    assert names(f'{tmp_path}/{name}/*/c?.png') == ['deep[2]/c1.png']
    assert not is_glob(f'{folder}/none.png')
    with pytest.raises(ESCNetError, match='does not exist'):
        find_images(f'{folder}/none.png')
    monkeypatch.chdir(tmp_path)
    assert names(f'{name}/deep[2]/*.png') == ['b.png', 'c1.png', 'c[1].png']


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


def test_suffixes_in_any_case(tmp_path):
    files = {f'{number}{suffix.title()}' for number, suffix in enumerate(IMAGE_SUFFIXES)}
    files |= {'a.JFIF', 'b.gif', 'c.AvIf'}
    for name in files:
        (tmp_path / name).touch()
    assert set(names(tmp_path)) == files == set(names(f'{tmp_path}/*'))
