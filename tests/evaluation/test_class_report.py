"""The report of single classes against scikit-learn's confusion matrix and counts by hand."""

import json

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from PIL import Image
from sklearn.metrics import confusion_matrix

from mmseg_escnet.evaluation import OpenVocabIoUMetric
from mmseg_escnet.evaluation.class_report import class_records, confusion_figure, write_report

NAMES = ['sea', 'beach | sand', 'sky', 'ship', 'kite']


def evaluated(label, prediction, names=NAMES, **options) -> tuple[Evaluator, dict]:
    """After one image, and its metrics."""
    MMLogger.get_instance('test_class_report')
    evaluator = Evaluator([OpenVocabIoUMetric(**options)])
    evaluator.dataset_meta = dict(classes=names)
    maps = [torch.as_tensor(np.atleast_2d(ids))[None] for ids in (label, prediction)]
    sample = dict(gt_sem_seg=dict(data=maps[0]), pred_sem_seg=dict(data=maps[1]))
    evaluator.process([sample])
    return evaluator, evaluator.evaluate(1)


def by_hand() -> Evaluator:
    """Sea: 6 of 10 right, 3 as sky, 1 no class. Beach: 4 of 4. Sky: 0 of 5, 3 as sea. No ship."""
    label = [0] * 10 + [1] * 4 + [2] * 5 + [255] * 3
    prediction = [0] * 6 + [2] * 3 + [255] + [1] * 4 + [0] * 3 + [3] * 2 + [0] * 3
    return evaluated(label, prediction, seen=['sea', 'sand'])[0]


@pytest.mark.parametrize(('num_classes', 'background_from'), [(9, None), (9, 4), (847, None)])
def test_the_matrix_is_that_of_scikit_learn(num_classes, background_from):
    rng = np.random.default_rng(0)
    label = rng.choice(np.arange(0, num_classes, 2), (60, 70))  # odd ones are only predicted
    prediction = np.where(rng.random(label.shape) < 0.5, label, rng.integers(0, num_classes))
    prediction = np.where(rng.random(label.shape) < 0.3, prediction.T.reshape(60, 70), prediction)
    prediction[:3] = label[5:9] = 65535  # no class; not labelled
    names = [f'class {i}' for i in range(num_classes)]
    evaluator, metrics = evaluated(
        label,
        prediction,
        names,
        ignore_index=65535,
        background_from=background_from,
        seen=['class 1'],
    )
    (metric,) = evaluator.metrics
    counted = label != 65535
    last = num_classes if background_from is None else background_from + 1
    truth, found = label[counted], prediction[counted]
    if background_from is not None:
        truth = np.minimum(truth, background_from)
        found = np.where(found == 65535, found, np.minimum(found, background_from))
    found = np.where(found == 65535, last, found)
    expected = confusion_matrix(truth, found, labels=range(last + 1))
    np.testing.assert_array_equal(metric.confusion, expected[:last])
    records = class_records(metric)
    seen = [i == 1 for i in range(last)]
    if background_from is not None:
        seen[-1] = None
    assert [one['seen'] for one in records] == seen
    iou = [one['iou'] for one in records if one['labelled']]
    assert np.mean(iou) == pytest.approx(metrics['mIoU_gt'], abs=0.01)
    assert {one['iou'] for one in records if not one['labelled']} <= {None}
    for i in (0, 2):
        taken_for = records[i]['taken_for']
        row = {
            (*metric.dataset_meta['classes'], '(no class)')[j]: n for j, n in enumerate(expected[i])
        }
        assert taken_for == {name: n for name, n in row.items() if n and name != names[i]}
        assert list(taken_for.values()) == sorted(taken_for.values(), reverse=True)


def test_files_of_counts_known_by_hand(tmp_path):
    metrics = dict(mIoU=1.234, hIoU=float('nan'), table='text')
    paths = write_report(by_hand(), metrics, tmp_path)
    assert [path.name for path in paths] == ['classes.json', 'confusion.png']
    record = json.loads(paths[0].read_text())
    assert record['metrics'] == dict(mIoU=1.23, hIoU=None)
    sea, beach, sky, ship, kite = record['classes']
    assert sea == dict(
        name='sea',
        seen=True,
        iou=46.15,  # 6 of 10 + 3
        accuracy=60.0,
        labelled=10,
        predicted=9,
        taken_for={'sky': 3, '(no class)': 1},
    )
    assert (beach['iou'], beach['seen'], beach['taken_for']) == (100.0, True, {})
    assert (sky['iou'], sky['seen'], sky['taken_for']) == (0.0, False, {'sea': 3, 'ship': 2})
    assert (ship['iou'], ship['accuracy'], ship['predicted']) == (None, None, 2)
    assert (kite['labelled'], kite['predicted']) == (0, 0)
    with Image.open(paths[1]) as picture:
        assert min(picture.size) > 200


def cells(figure) -> list[list[str]]:
    """The figure's numbers by row and column, '' for none."""
    (axes,) = figure.axes
    found = [[''] * len(axes.get_xticklabels()) for _ in axes.get_yticklabels()]
    for text in axes.texts:
        column, row = map(round, text.get_position())
        found[row][column] = text.get_text()
    return found


def test_the_figure_shows_the_worst_in_percent():
    (metric,) = by_hand().metrics
    figure = confusion_figure(class_records(metric))
    (axes,) = figure.axes
    rows, columns = (
        [t.get_text() for t in ts] for ts in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert rows == ['sky *  0.0', f'sea  {46.15:.1f}', 'beach | sand  100.0']
    assert columns == ['itself', 'sea', 'sky', 'ship', '(no class)', 'others']
    assert cells(figure) == [
        ['', '60', '', '40', '', ''],
        ['60', '', '30', '', '10', ''],
        ['100', '', '', '', '', ''],
    ]
    assert '3 of 3 classes' in axes.get_xlabel()
    assert 'star' in axes.get_xlabel()


def test_the_figure_of_many_classes_has_the_main_mistake_of_each_row():
    """30 classes of 40 pixels: i right, 20 - i // 2 as c30 + i; of the first 8, 15 as c60 + i."""
    classes = []
    for i in range(30):
        taken_for = {f'c{30 + i}': 20 - i // 2} | ({f'c{60 + i}': 15} if i < 8 else {})
        one = dict(name=f'c{i}', seen=None, iou=100 * i / 40, accuracy=100 * i / 40, labelled=40)
        classes.append(one | dict(taken_for=taken_for))
    figure = confusion_figure([*reversed(classes), dict(name='absent', labelled=0)])
    (axes,) = figure.axes
    assert [t.get_text().split()[0] for t in axes.get_yticklabels()] == [f'c{i}' for i in range(15)]
    columns = [t.get_text() for t in axes.get_xticklabels()]
    assert {f'c{30 + i}' for i in range(15)} < set(columns)
    assert len(columns) == 1 + 16 + 1
    numbers = np.array([[float(cell or 0) for cell in row] for row in cells(figure)])
    expected_rest = [100 - 100 * i / 40 - 100 * (20 - i // 2) / 40 for i in range(15)]
    expected_rest[0] -= 37.5  # c60 is the sixteenth column
    np.testing.assert_allclose(numbers[:, -1], expected_rest, atol=0.51)
    assert 'star' not in axes.get_xlabel()


def test_nothing_is_written_where_nothing_was_counted(tmp_path):
    evaluator, metrics = evaluated([255, 255], [0, 1])
    assert write_report(evaluator, metrics, tmp_path) == []
    assert write_report(Evaluator([IoUMetric()]), {}, tmp_path) == []
    assert not list(tmp_path.iterdir())
