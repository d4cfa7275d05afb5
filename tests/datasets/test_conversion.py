"""What the converters share, on synthetic files."""

import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mmseg_escnet.datasets.conversion import Job, place, read_label, run, write_list
from mmseg_escnet.datasets.label_sets import (
    NO_SUCH_ID,
    LabelSet,
    count_file,
    count_ids,
    describe,
    to_file_ids,
)
from mmseg_escnet.datasets.raw_folders import find_folder, read_stems
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import encode_label_map

# raw 0: none, 1..3: classes (2 before 1), 4: no such id, 5: none
TABLE = np.array([65_535, 300, 0, 255, NO_SUCH_ID, 65_535])
WIDE = LabelSet('wide', 'wide', TABLE, tuple(f'class {i}' for i in range(301)), ignored=65_535)
NARROW = LabelSet(
    'narrow', 'narrow', np.array([0, 2, 1, 0, 0, 0]), ('a', 'b'), ignored=0, first_id=1
)
RAW = np.array([[0, 1, 2], [3, 5, 1]], np.uint16)


def make_jobs(root, count=3, sets=(WIDE, NARROW)):
    jobs = []
    for folder in ('raw', 'jpg'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        job = Job(
            raw_label=root / 'raw' / f'{i}.png',
            raw_image=root / 'jpg' / f'{i}.jpg',
            image=root / 'out' / 'jpg' / f'{i}.jpg',
            labels=tuple(root / 'out' / label_set.folder / f'{i}.png' for label_set in sets),
        )
        Image.fromarray(RAW).save(job.raw_label)
        Image.new('RGB', (3, 2)).save(job.raw_image)
        jobs.append(job)
    return jobs


def run_all(root, jobs, sets=(WIDE, NARROW)):
    return run(
        jobs,
        out=root / 'out',
        read=read_label,
        sets=sets,
        put_image=partial(place, link='symlink'),
        workers=1,
        description='made',
    )


def test_ids_and_widths():
    wide = to_file_ids(RAW, WIDE, 'a.png')
    assert wide.dtype == WIDE.dtype == np.uint16
    np.testing.assert_array_equal(wide, [[65_535, 300, 0], [255, 65_535, 300]])
    narrow = to_file_ids(RAW, NARROW, 'a.png')
    assert narrow.dtype == NARROW.dtype == np.uint8
    np.testing.assert_array_equal(narrow, [[0, 2, 1], [0, 0, 2]])
    for raw_id in (4, 6, 65_535):
        with pytest.raises(ESCNetError, match=rf'a\.png holds id {raw_id}, which no .* wide has'):
            to_file_ids(np.array([[raw_id, 1]], np.uint16), WIDE, 'a.png')


def test_counts():
    counts = count_ids(to_file_ids(RAW, WIDE, 'a.png'), WIDE)
    assert (len(counts), counts[0], counts[255], counts[300], counts[-1]) == (302, 1, 1, 2, 2)
    assert count_ids(to_file_ids(RAW, NARROW, 'a.png'), NARROW).tolist() == [1, 2, 3]
    assert count_ids(np.array([[301]], np.uint16), WIDE) is None
    assert count_ids(np.array([[3]], np.uint8), NARROW) is None
    assert count_ids(np.array([[255]], np.uint8), NARROW) is None


def test_summary_line():
    assert describe(np.array([1, 2, 1]), NARROW) == (
        '25.0% of the pixels are ignored, 0 of 2 classes never occur'
    )
    assert describe(np.array([0, 2, 2]), NARROW).endswith("1 of 2 classes never occur: 'a'")
    line = describe(count_ids(to_file_ids(RAW, WIDE, 'a.png'), WIDE), WIDE)
    assert '298 of 301' in line
    assert line.endswith("'class 1', 'class 2', 'class 3', 'class 4', 'class 5' and 293 more")


def test_converts_and_keeps_valid_files(tmp_path, capsys):
    jobs = make_jobs(tmp_path)
    assert run_all(tmp_path, jobs) == 0
    printed = capsys.readouterr().out
    assert 'wide: 3 label maps converted, 0 unchanged, 0 updated, 0 failed' in printed
    assert '33.3% of the pixels are ignored, 298 of 301 classes never occur' in printed
    assert 'narrow: 50.0% of the pixels are ignored, 0 of 2' in printed
    contents = {path: path.read_bytes() for job in jobs for path in job.labels}
    times = {path: path.stat().st_mtime_ns for path in contents}
    assert run_all(tmp_path, jobs) == 0
    # the files that were kept are counted too
    assert '33.3% of the pixels are ignored' in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in contents}


@pytest.mark.parametrize('damage', ['gone', 'cut', 'bits', 'id', 'size', 'other', 'text'])
def test_replaces_invalid_files(tmp_path, capsys, damage):
    jobs = make_jobs(tmp_path)
    run_all(tmp_path, jobs)
    path, other = jobs[1].labels
    right, time = path.read_bytes(), other.stat().st_mtime_ns
    wrong = {
        'cut': right[: len(right) // 2],
        'bits': encode_label_map(np.zeros((2, 3), np.uint8)),
        'id': encode_label_map(np.full((2, 3), 301, np.uint16)),
        'size': encode_label_map(np.zeros((3, 2), np.uint16)),
        'other': jobs[1].raw_image.read_bytes(),
        'text': b'text',
    }
    path.unlink() if damage == 'gone' else path.write_bytes(wrong[damage])
    capsys.readouterr()
    assert run_all(tmp_path, jobs) == 0
    printed = capsys.readouterr().out
    made = '1 label maps converted, 2 unchanged, 0 updated'
    if damage != 'gone':
        made = '0 label maps converted, 2 unchanged, 1 updated'
    assert f'wide: {made}, 0 failed' in printed
    assert 'narrow: 0 label maps converted, 3 unchanged, 0 updated, 0 failed' in printed
    assert path.read_bytes() == right
    assert other.stat().st_mtime_ns == time
    assert not list(tmp_path.rglob('*.part'))


def test_corrected_labels(tmp_path, capsys):
    """Of the same size and date."""
    jobs = make_jobs(tmp_path)
    run_all(tmp_path, jobs)
    raw_label = jobs[1].raw_label
    before = raw_label.stat()
    kept = jobs[0].labels[0].stat().st_mtime_ns
    Image.fromarray(RAW[:, ::-1]).save(raw_label)
    assert raw_label.stat().st_size == before.st_size
    os.utime(raw_label, ns=(before.st_atime_ns, before.st_mtime_ns))
    capsys.readouterr()
    for outcome in ('2 unchanged, 1 updated', '3 unchanged, 0 updated'):
        assert run_all(tmp_path, jobs) == 0
        assert f'wide: 0 label maps converted, {outcome}, 0 failed' in capsys.readouterr().out
        wide, narrow = (np.array(Image.open(path)) for path in jobs[1].labels)
        np.testing.assert_array_equal(wide, [[0, 300, 65_535], [300, 65_535, 255]])
        np.testing.assert_array_equal(narrow, [[1, 2, 0], [2, 0, 0]])
    assert jobs[0].labels[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    'change',
    [
        dict(table=np.array([0, 1, 2, 0, 0, 0])),
        dict(table=np.array([9, 2, 1, 9, 9, 9]), ignored=9),
        dict(table=np.array([9, 1, 0, 9, 9, 9]), ignored=9, first_id=0),
    ],
)
def test_another_mapping(tmp_path, capsys, change):
    jobs = make_jobs(tmp_path)
    run_all(tmp_path, jobs)
    other = NARROW._replace(**change)
    capsys.readouterr()
    sets = (WIDE, other)
    assert run_all(tmp_path, jobs, sets) == 0
    printed = capsys.readouterr().out
    assert 'wide: 0 label maps converted, 3 unchanged, 0 updated' in printed
    assert 'narrow: 0 label maps converted, 0 unchanged, 3 updated' in printed
    fresh = make_jobs(tmp_path / 'new')
    assert run_all(tmp_path / 'new', fresh, sets) == 0
    for job, expected in zip(jobs, fresh, strict=True):
        assert job.labels[1].read_bytes() == expected.labels[1].read_bytes()


def test_a_correction_that_is_invalid_leaves_no_old_label_map(tmp_path, capsys):
    jobs = make_jobs(tmp_path)
    run_all(tmp_path, jobs)
    Image.fromarray(np.full((2, 3), 4, np.uint16)).save(jobs[0].raw_label)
    Image.fromarray(RAW.T).save(jobs[1].raw_label)
    assert run_all(tmp_path, jobs) == 1
    assert '1 unchanged, 0 updated, 2 failed' in capsys.readouterr().out
    assert [path.exists() for job in jobs for path in job.labels] == [False] * 4 + [True] * 2


def test_bad_files_are_reported_and_the_others_converted(tmp_path, capsys):
    jobs = make_jobs(tmp_path)
    Image.fromarray(np.full((2, 3), 4, np.uint16)).save(jobs[0].raw_label)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(jobs[1].raw_label)
    assert run_all(tmp_path, jobs) == 1
    captured = capsys.readouterr()
    assert 'wide: 1 label maps converted, 0 unchanged, 0 updated, 2 failed' in captured.out
    assert '0.png holds id 4, which no class' in captured.err
    assert '1.png is 9x9 pixels but its image' in captured.err
    assert not jobs[0].labels[0].exists()
    jobs[2].raw_image.write_bytes(b'no picture')
    assert run_all(tmp_path, jobs) == 1
    assert '2.jpg cannot be read' in capsys.readouterr().err


def test_no_class_at_all_is_an_error(tmp_path, capsys):
    jobs = make_jobs(tmp_path)
    for job in jobs:
        Image.fromarray(np.full((2, 3), 5, np.uint16)).save(job.raw_label)
    assert run_all(tmp_path, jobs) == 1
    assert 'error: no pixel of wide has a class' in capsys.readouterr().err


def test_interrupted_while_writing(tmp_path, monkeypatch):
    jobs = make_jobs(tmp_path)
    replaced = []

    def stop_at_third(source, target, replace=os.replace):
        if len(replaced) == 2:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path, jobs)
    monkeypatch.undo()
    labels = [path for job in jobs for path in job.labels if path.exists()]
    assert labels == [*jobs[0].labels]
    for path, label_set in zip(labels, (WIDE, NARROW), strict=True):
        assert count_file(path, (2, 3), label_set) is not None
    assert not list(tmp_path.rglob('*.part'))
    assert run_all(tmp_path, jobs) == 0


def test_images_of_another_data_set_are_left_alone(tmp_path, capsys):
    first, second = make_jobs(tmp_path / 'a'), make_jobs(tmp_path / 'b')
    images = [job.image for job in first]
    second = [job._replace(image=image) for job, image in zip(second, images, strict=True)]
    for job in second:
        Image.effect_noise((3, 2), 90).save(job.raw_image)
    images[0].parent.mkdir(parents=True)
    images[0].write_bytes(first[0].raw_image.read_bytes())  # a copy, and two links
    assert run_all(tmp_path / 'a', first) == 0
    before = [image.read_bytes() for image in images]
    assert run_all(tmp_path / 'b', second) == 1
    assert 'the folder belongs to another data set' in capsys.readouterr().err
    assert [image.read_bytes() for image in images] == before


def test_an_image_that_was_replaced_by_one_of_the_same_size(tmp_path):
    (job,) = make_jobs(tmp_path, 1)
    job.image.parent.mkdir(parents=True)
    place(job, link='copy')
    content = job.raw_image.read_bytes()
    job.raw_image.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(ESCNetError, match=r'differs from .* remove the file if its source was'):
        place(job, link='copy')


@pytest.mark.parametrize('link', ['symlink', 'copy'])
def test_place(tmp_path, link):
    (job,) = make_jobs(tmp_path, 1)
    job.image.parent.mkdir(parents=True)
    job.image.symlink_to(tmp_path / 'gone.jpg')  # a broken link is replaced
    for _ in range(2):
        place(job, link=link)
        assert job.image.is_symlink() == (link == 'symlink')
        assert job.image.read_bytes() == job.raw_image.read_bytes()
    place(job._replace(image=job.raw_image), link=link)  # OUT is RAW
    assert not job.raw_image.is_symlink()
    place(job._replace(image=None), link=link)  # label maps alone
    assert not list(tmp_path.rglob('*.part'))


def test_list_of_images(tmp_path, capsys):
    path = tmp_path / 'lists' / 'val.txt'
    write_list(path, ['a', 'b'])
    assert path.read_text() == 'a\nb\n'
    capsys.readouterr()
    write_list(path, ['a', 'b'])
    assert capsys.readouterr().out == ''
    write_list(path, ['a', 'b', 'c'])
    assert 'replacing a list of 2 images' in capsys.readouterr().out
    assert read_stems(path, 'get it') == ['a', 'b', 'c']


@pytest.mark.parametrize('line', ['../../etc/passwd', 'a -1', '/a', 'a.jpg', 'a\tb'])
def test_invalid_lists(tmp_path, line):
    (tmp_path / 'val.txt').write_text(f'2008_000001\n\n{line}\n')
    with pytest.raises(ESCNetError, match='not a name of an image: get it'):
        read_stems(tmp_path / 'val.txt', 'get it')


def test_unreadable_lists(tmp_path):
    with pytest.raises(ESCNetError, match=r'val\.txt cannot be read \(No such file.*: get it\.'):
        read_stems(tmp_path / 'val.txt', 'get it')
    (tmp_path / 'val.txt').write_bytes(b'\xff\xfe\xff')
    with pytest.raises(ESCNetError, match=r'cannot be read .*: get it\.'):
        read_stems(tmp_path / 'val.txt', 'get it')


def test_find_folder(tmp_path):
    folder = tmp_path / 'VOCdevkit' / 'VOC2012'
    (folder / 'JPEGImages').mkdir(parents=True)
    find = partial(find_folder, inside=['JPEGImages'], what='VOCdevkit/VOC2012', remedy='by post')
    for raw in (folder, folder.parent, tmp_path):
        assert find(raw) == folder
    with pytest.raises(ESCNetError, match=r'has no JPEGImages: give the path of .* comes by post'):
        find(folder / 'JPEGImages')
    with pytest.raises(ESCNetError, match='nowhere does not exist: give the path'):
        find(tmp_path / 'nowhere')
