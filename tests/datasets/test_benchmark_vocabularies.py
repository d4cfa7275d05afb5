"""The class lists of the benchmarks."""

import pytest
from mmseg.datasets import ADE20KDataset, COCOStuffDataset

from mmseg_escnet.datasets import load_benchmark, vocabulary_names
from mmseg_escnet.errors import ESCNetError

SIZES = dict(ade150=150, ade847=847, coco_stuff171=171, pc59=59, pc459=459, voc20=20, voc20b=59)


@pytest.mark.parametrize(('name', 'size'), SIZES.items())
def test_sizes_and_names(name, size):
    classes = load_benchmark(name)
    assert len(classes) == len({entry.name for entry in classes}) == size
    assert all(entry.name == entry.name.strip() != '' for entry in classes)
    raw_ids = [entry.raw_id for entry in classes if entry.raw_id is not None]
    assert len(raw_ids) == len(set(raw_ids)) == (0 if name in ('pc59', 'voc20b') else size)
    assert vocabulary_names(name) == tuple(entry.name for entry in classes)


def test_agree_with_mmseg():
    assert vocabulary_names('coco_stuff171') == COCOStuffDataset.METAINFO['classes']
    ade = [name.strip() for name in ADE20KDataset.METAINFO['classes']]
    assert list(vocabulary_names('ade150')) == ade
    assert load_benchmark('ade150')[7] == ('bed', 8)


def test_coco_stuff_ids_have_the_published_gaps():
    ids = {entry.raw_id for entry in load_benchmark('coco_stuff171')}
    # Ids 1-based in the publication: things never used, and 'other' of things at 183.
    never_used = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    assert ids == {i - 1 for i in range(1, 183)} - {i - 1 for i in never_used}


def test_voc20b_begins_with_voc20_and_holds_pc59():
    assert vocabulary_names('voc20b')[:20] == vocabulary_names('voc20')
    assert set(vocabulary_names('voc20b')[20:]) <= set(vocabulary_names('pc59'))


def test_unknown_name():
    for read in (load_benchmark, vocabulary_names):
        with pytest.raises(
            ESCNetError, match="no vocabulary 'fruits': choose one of ade150"
        ) as caught:
            read('fruits')
        assert 'toyworld_unseen_combination' in str(caught.value)
