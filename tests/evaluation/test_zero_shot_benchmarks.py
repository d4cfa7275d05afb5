"""The table of benchmarks: what the papers say, and which there are."""

import pytest

from mmseg_escnet import ESCNetError
from mmseg_escnet.config import config_folder
from mmseg_escnet.datasets import vocabulary_names
from mmseg_escnet.evaluation.zero_shot_benchmarks import (
    BENCHMARKS,
    PUBLISHED,
    format_table,
    published_row,
    select_benchmarks,
)

KEYS = ['A-847', 'PC-459', 'A-150', 'PC-59', 'PAS-20', 'PAS-20b']
# in the order of KEYS, as the papers print them; - is not in our sources
PRINTED = {
    ('ViT-L/14', 'ESC-Net'): '18.1 27.0 41.8 65.6 98.3 -',
    ('ViT-B/16', 'ESC-Net'): '- - 35.6 59.0 97.3 80.1',
    ('ViT-L/14', 'CAT-Seg'): '16.0 23.8 37.9 63.3 97.0 82.5',
    ('ViT-B/16', 'CAT-Seg'): '12.0 19.0 31.8 57.5 94.6 77.3',
}


def test_published_figures():
    found = {
        (backbone, method): ' '.join('-' if row[key] is None else f'{row[key]:.1f}' for key in KEYS)
        for backbone, methods in PUBLISHED.items()
        for method, row in methods.items()
    }
    assert found == PRINTED


def test_there_are_six_with_a_config_and_words():
    assert [benchmark.key for benchmark in BENCHMARKS] == KEYS
    for benchmark in BENCHMARKS:
        assert (config_folder() / '_base_' / 'datasets' / benchmark.config).is_file()
    vocabularies = ['ade847', 'pc459', 'ade150', 'pc59', 'voc20', 'voc20b']
    assert [b.num_words for b in BENCHMARKS] == [len(vocabulary_names(v)) for v in vocabularies]


def test_select_benchmarks():
    assert select_benchmarks(['all']) == BENCHMARKS
    assert [b.key for b in select_benchmarks(['PAS-20', 'A-847'])] == ['PAS-20', 'A-847']


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (['A-848'], "no benchmark 'A-848': give all alone, or some of A-847, PC-459"),
        (['all', 'A-847'], "no benchmark 'all': give all alone"),
        (['A-150', 'PC-59', 'A-150'], 'Benchmark A-150 is listed twice'),
        (['a-150'], "no benchmark 'a-150'"),
    ],
)
def test_wrong_keys(keys, message):
    with pytest.raises(ESCNetError, match=message):
        select_benchmarks(keys)


@pytest.mark.parametrize(
    ('model_name', 'backbone'),
    [
        ('ViT-L-14-336', 'ViT-L/14'),
        ('ViT-L-14-336-quickgelu', 'ViT-L/14'),
        ('ViT-B-16', 'ViT-B/16'),
        ('ViT-B-16-SigLIP', None),
        ('ViT-H-14', None),
        (None, None),
    ],
)
def test_row_of_the_model(model_name, backbone):
    found, rows = published_row(model_name)
    assert found == backbone
    assert list(rows) == ['ESC-Net', 'CAT-Seg']
    assert rows['CAT-Seg'].get('A-847') == {'ViT-L/14': 16.0, 'ViT-B/16': 12.0}.get(backbone)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_table():
    results = {
        'A-847': dict(mIoU=15.25, mIoU_gt=17.5, fwIoU=40.0, aAcc=60.5, mIoU_seen=None),
        'PAS-20b': dict(mIoU=82.0, mIoU_gt=83.5),
    }
    lines = format_table(results, 'ViT-L-14-336').splitlines()
    assert cells(lines[0])[:6] == (
        ['benchmark', 'mIoU_gt', 'ESC-Net paper', 'difference to ESC-Net', 'CAT-Seg paper']
        + ['difference to CAT-Seg']
    )
    assert cells(lines[2]) == (
        ['A-847', '17.50', '18.1', '-0.60', '16.0', '+1.50', '15.25', '40.00', '60.50', '-', '-']
        + ['-']
    )
    assert cells(lines[3])[:7] == ['PAS-20b', '83.50', '-', '-', '82.5', '+1.00', '82.00']
    assert set(lines[1]) == set('|-: ')
    assert len({len(line) for line in lines[:4]}) == 1
    assert 'own figures for ViT-L/14, not measured here' in lines[5]


def test_table_of_a_model_without_published_figures():
    text = format_table({'A-847': dict(mIoU_gt=17.5)}, 'ViT-H-14')
    assert cells(text.splitlines()[2])[:6] == ['A-847', '17.50', '-', '-', '-', '-']
    assert 'The papers have no figures for this model (CLIP: ViT-H-14)' in text
