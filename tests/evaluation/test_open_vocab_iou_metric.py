"""Metrics against a confusion matrix by scikit-learn, and against MMSegmentation's."""

import json

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image
from sklearn.metrics import confusion_matrix

from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.evaluation import OpenVocabIoUMetric


def sample(prediction, label, **info):
    if not hasattr(torch, 'uint16'):  # before PyTorch 2.3
        prediction, label = (
            x.astype(int) if getattr(x, 'dtype', None) == np.uint16 else x
            for x in (prediction, label)
        )
    return dict(
        pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]),
        gt_sem_seg=dict(data=torch.as_tensor(label)[None]),
        **info,
    )


def evaluate(metric, samples, names):
    MMLogger.get_instance('test_open_vocab_iou_metric')
    metric.dataset_meta = dict(classes=tuple(names))
    for one in samples:
        metric.process({}, [one])
    return metric.compute_metrics(metric.results)


def random_samples(num_classes, ignore_index, present, dtype=np.int64, count=3):
    """Predictions of any class; labels of the classes ``present`` only; 60 % right."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        label = rng.choice(present, (50, 40))
        prediction = np.where(
            rng.random((50, 40)) < 0.6, label, rng.integers(0, num_classes, (50, 40))
        )
        label[rng.random((50, 40)) < 0.1] = ignore_index
        samples.append(sample(prediction, label.astype(dtype)))
    return samples


def matrix_of(samples, num_classes, ignore_index):
    """Confusion matrix by scikit-learn: labelled, predicted."""
    prediction = np.concatenate([s['pred_sem_seg']['data'].numpy().ravel() for s in samples])
    label = np.concatenate([s['gt_sem_seg']['data'].numpy().ravel() for s in samples]).astype(int)
    prediction, label = prediction[label != ignore_index], label[label != ignore_index]
    return confusion_matrix(label, prediction, labels=range(num_classes))


def reference(samples, num_classes, ignore_index):
    """IoU in percent (NaN without union) and which classes are in the ground truth."""
    matrix = matrix_of(samples, num_classes, ignore_index)
    intersect = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - intersect
    with np.errstate(invalid='ignore'):
        return 100 * intersect / union, matrix.sum(1) > 0


@pytest.mark.parametrize(
    ('num_classes', 'ignore_index', 'dtype'),
    [(6, 255, np.uint8), (171, 255, np.int64), (459, 65535, np.uint16), (847, 65535, np.int64)],
)
def test_against_confusion_matrix(num_classes, ignore_index, dtype):
    names = [f'class {i}' for i in range(num_classes)]
    present = np.arange(0, num_classes, 2)  # the others are predicted but absent
    seen = names[: num_classes // 3]
    samples = random_samples(num_classes, ignore_index, present, dtype)
    metrics = evaluate(
        OpenVocabIoUMetric(ignore_index=ignore_index, seen=seen, nan_to_num=None), samples, names
    )
    iou, in_truth = reference(samples, num_classes, ignore_index)
    is_seen = np.arange(num_classes) < len(seen)
    seen_mean, unseen_mean = iou[in_truth & is_seen].mean(), iou[in_truth & ~is_seen].mean()
    assert metrics['mIoU'] == pytest.approx(np.nanmean(iou), abs=0.006)
    assert metrics['mIoU_gt'] == pytest.approx(iou[in_truth].mean(), abs=0.006)
    assert metrics['mIoU_seen'] == pytest.approx(seen_mean, abs=0.006)
    assert metrics['mIoU_unseen'] == pytest.approx(unseen_mean, abs=0.006)
    harmonic = 2 / (1 / seen_mean + 1 / unseen_mean)
    assert metrics['hIoU'] == pytest.approx(harmonic, abs=0.006)
    assert metrics['mIoU_gt'] > metrics['mIoU'] + 5  # absent classes do count in mIoU
    matrix = matrix_of(samples, num_classes, ignore_index)
    frequency = matrix.sum(1) / matrix.sum()
    weighted = sum(frequency[i] * iou[i] for i in range(num_classes) if in_truth[i])
    assert metrics['fwIoU'] == pytest.approx(weighted, abs=0.006)
    assert metrics['aAcc'] == pytest.approx(100 * np.trace(matrix) / matrix.sum(), abs=0.006)


@pytest.mark.parametrize(
    ('num_classes', 'ignore_index'), [(459, 65535), (847, 65535), (150, 255), (300, 65535)]
)
def test_planted_intersections(num_classes, ignore_index):
    """Class c has 10 pixels, c % 11 of them right, the others called c + 1: known as fractions.

    With ids cast to 8 bits, class 256 would be class 0.
    """
    right = [c % 11 for c in range(num_classes)]
    pairs = [
        (c, c if pixel < right[c] else (c + 1) % num_classes)
        for c in range(num_classes)
        for pixel in range(10)
    ]
    pairs += [(ignore_index, c) for c in range(num_classes)]  # none of these may count
    np.random.default_rng(0).shuffle(pairs)
    label, prediction = np.array(pairs).T
    images = zip(np.array_split(label, 7), np.array_split(prediction, 7), strict=True)
    samples = [sample(p[None].astype(np.uint16), t[None].astype(np.uint16)) for t, p in images]
    metric = OpenVocabIoUMetric(ignore_index=ignore_index)
    metrics = evaluate(metric, samples, [f'class {i}' for i in range(num_classes)])
    # union: 10 labelled, and those of the class before that were called so
    iou = [100 * right[c] / (10 + 10 - right[c - 1]) for c in range(num_classes)]
    np.testing.assert_allclose(metric.class_iou(metric.results)[0], iou, rtol=1e-12)
    assert metrics['mIoU'] == metrics['mIoU_gt'] == metrics['fwIoU']
    assert metrics['mIoU'] == pytest.approx(np.mean(iou), abs=0.006)
    assert metrics['aAcc'] == pytest.approx(10 * np.mean(right), abs=0.006)


def test_groups_against_confusion_matrix():
    """Overlapping groups; classes absent from the ground truth do not count as 0."""
    names = [f'class {i}' for i in range(30)]
    present = np.arange(0, 30, 2)  # the others are predicted but absent
    samples = random_samples(30, 255, present)
    members = dict(first=range(10), middle=range(5, 21), absent=[1, 3])
    groups = {name: [names[i] for i in ids] for name, ids in members.items()}
    metrics = evaluate(OpenVocabIoUMetric(groups=groups), samples, names)
    iou, in_truth = reference(samples, 30, 255)
    for name in ('first', 'middle'):
        expected = np.mean([iou[i] for i in members[name] if in_truth[i]])
        assert metrics[f'mIoU_{name}'] == pytest.approx(expected, abs=0.006)
    assert metrics['mIoU_first'] != metrics['mIoU_middle']
    assert np.isnan(metrics['mIoU_absent'])
    assert 'mIoU_seen' not in metrics


def test_same_figures_as_mmseg():
    names = [f'class {i}' for i in range(171)]
    samples = random_samples(171, 255, np.arange(150))
    kinds = ['mIoU', 'mDice', 'mFscore']
    metric = METRICS.build(dict(type='OpenVocabIoUMetric', iou_metrics=kinds))
    ours = evaluate(metric, samples, names)
    theirs = evaluate(IoUMetric(iou_metrics=kinds), samples, names)
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(float(value), abs=0.011, nan_ok=True), key
    assert set(ours) - set(theirs) == {'mIoU_gt', 'fwIoU'}


def test_counts_beyond_float32():
    """2**24 + 1 pixels of one class: a float32 sum would lose the last one."""
    metric = OpenVocabIoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    MMLogger.get_instance('test_open_vocab_iou_metric')
    big, one = torch.tensor([[2**24, 0, 0], [0, 0, 0]]), torch.tensor([[1, 0, 0], [0, 1, 0]])
    captured = {}

    def total_area_to_metrics(intersect, *args):
        captured['intersect'] = intersect
        return IoUMetric.total_area_to_metrics(intersect, *args)

    metric.total_area_to_metrics = total_area_to_metrics
    metric.compute_metrics([big, one])
    assert captured['intersect'].tolist() == [2**24 + 1, 1]


def test_names_match_by_synonym_and_short_name():
    """IoU 50, 100, 50 of the three classes."""
    samples = [sample(np.array([[0, 2, 1, 2]]), np.array([[0, 0, 1, 2]]))]
    names = ['red circle | Red Disc', 'wood | timber', 'helmet']
    groups = dict(
        disc=['red disc'],
        pair=['TIMBER, plank', 'helmet'],
        attribute='toyworld_unseen_attribute',
        stuff=('red circle', 'wood', 'no class of this data set'),
    )
    metrics = evaluate(OpenVocabIoUMetric(groups=groups, seen='toyworld_seen'), samples, names)
    means = dict(disc=50, pair=75, attribute=100, stuff=75, seen=50, unseen=75, gt=66.67)
    assert {name: metrics[f'mIoU_{name}'] for name in means} == means
    # a prediction without a class is a miss, and means over nothing are NaN
    samples = [sample(np.array([[0, 0, 255, 255]]), np.array([[0, 0, 0, 255]]))]
    metrics = evaluate(OpenVocabIoUMetric(seen=['A, b']), samples, ['a', 'b'])
    assert metrics['mIoU_gt'] == metrics['mIoU_seen'] == 66.67
    assert np.isnan([metrics['mIoU_unseen'], metrics['hIoU']]).all()


@pytest.mark.parametrize('name', ['gt', 'seen', 'unseen'])
def test_reserved_group_names(name):
    with pytest.raises(
        ESCNetError, match=rf"may not be called '{name}': mIoU_{name} is another mean"
    ):
        OpenVocabIoUMetric(groups={name: ['a']})


def test_group_without_a_class():
    metric = OpenVocabIoUMetric(groups=dict(fruit=['apple', 'pear', 'fig', 'plum'], ab=['a']))
    with pytest.raises(
        ESCNetError, match=r"No class of the group 'fruit' \('apple', 'pear', 'fig' and 1 more\)"
    ):
        metric.dataset_meta = dict(classes=('a', 'b'))
    with pytest.raises(ESCNetError, match=r"No class of the group 'none' \(empty\)"):
        OpenVocabIoUMetric(groups=dict(none=[])).dataset_meta = dict(classes=('a', 'b'))
    with pytest.raises(ESCNetError, match="no vocabulary 'fruits'"):
        OpenVocabIoUMetric(groups=dict(fruit='fruits'))


def test_wrong_ids_and_sizes_are_errors():
    zeros = np.zeros((2, 2), int)
    with pytest.raises(ESCNetError, match=r'label map of a\.jpg holds id 2, but .* 2 classes'):
        evaluate(OpenVocabIoUMetric(), [sample(zeros, zeros + 2, img_path='a.jpg')], 'ab')
    with pytest.raises(ESCNetError, match=r'prediction for a\.jpg holds id 170'):
        evaluate(OpenVocabIoUMetric(), [sample(zeros + 170, zeros, img_path='a.jpg')], 'ab')
    with pytest.raises(ESCNetError, match=r'shape \(2, 2\), its label map \(2, 3\)'):
        evaluate(OpenVocabIoUMetric(), [sample(zeros, np.zeros((2, 3), int))], 'ab')


@pytest.mark.parametrize(
    ('num_classes', 'reduce_zero_label'), [(150, True), (256, False), (256, True), (847, False)]
)
def test_written_predictions_do_not_wrap(tmp_path, num_classes, reduce_zero_label):
    """16 bits where an id needs them, and the ids of the label files, as MMSegmentation writes."""
    prediction = np.array([[0, num_classes - 1, 65535]])
    metric = OpenVocabIoUMetric(output_dir=str(tmp_path), format_only=True, ignore_index=65535)
    one = sample(prediction, prediction, img_path='x/a.jpg', reduce_zero_label=reduce_zero_label)
    evaluate(metric, [one], range(num_classes))
    written = Image.open(tmp_path / 'a.png')
    assert written.mode in ('I;16', 'I')  # 16 bits; Pillow < 10 says I
    expected = [[reduce_zero_label, num_classes - 1 + reduce_zero_label, 65535]]
    np.testing.assert_array_equal(written, expected)


def test_nothing_evaluated():
    assert evaluate(OpenVocabIoUMetric(), [], 'ab') == {}


def test_all_wrong():
    metric = OpenVocabIoUMetric(seen=['a'])
    metrics = evaluate(metric, [sample(np.array([[0, 1]]), np.array([[1, 0]]))], 'ab')
    assert [metrics[name] for name in ('mIoU_seen', 'mIoU_unseen', 'hIoU')] == [0, 0, 0]


# -- background ----------------------------------------------------------------------------------


def test_background_against_confusion_matrix():
    """Words 20 to 58 are one class, wherever they stand; 'no class' stays a miss."""
    names = [f'class {i}' for i in range(59)]
    samples = random_samples(59, 255, np.arange(0, 59, 2))
    samples[0]['pred_sem_seg']['data'][0, :5] = 255
    seen = [*names[:7], 'class 30']
    metric = OpenVocabIoUMetric(background_from=20, seen=seen, iou_metrics=['mIoU'])
    metrics = evaluate(metric, samples, names)
    merged = [
        sample(
            np.where(s['pred_sem_seg']['data'][0] < 20, s['pred_sem_seg']['data'][0], 20),
            np.where(
                s['gt_sem_seg']['data'][0] == 255, 255, s['gt_sem_seg']['data'][0].clip(max=20)
            ),
        )
        for s in samples
    ]
    merged[0]['pred_sem_seg']['data'][0, :5] = 21  # a column of its own: "no class"
    matrix = matrix_of(merged, 22, 255)
    intersect, labelled = np.diag(matrix)[:21], matrix.sum(1)[:21]
    iou = 100 * intersect / (matrix.sum(0)[:21] + labelled - intersect)
    in_truth = labelled > 0
    assert in_truth.sum() == 11
    assert in_truth[20]
    np.testing.assert_allclose(
        metric.class_iou(metric.results)[0], np.where(in_truth, iou, np.nan), rtol=1e-12
    )
    assert metrics['mIoU'] == pytest.approx(np.nanmean(iou), abs=0.006)
    assert metrics['mIoU_gt'] == pytest.approx(iou[in_truth].mean(), abs=0.006)
    # it stands for many words: neither seen nor unseen, even if a list has its name
    listed = OpenVocabIoUMetric(background_from=20, seen=[*seen, 'background'])
    assert metrics.items() <= evaluate(listed, samples, names).items()
    words = in_truth & (np.arange(21) < 20)
    assert metrics['mIoU_seen'] == pytest.approx(iou[words & (np.arange(21) < 7)].mean(), abs=0.006)
    assert metrics['mIoU_unseen'] == pytest.approx(
        iou[words & (np.arange(21) >= 7)].mean(), abs=0.006
    )
    evaluated = metric.dataset_meta['classes']
    assert (len(evaluated), evaluated[19:]) == (21, ('class 19', 'background'))


@pytest.mark.parametrize('background_from', [0, 3, -1, 60])
def test_background_that_leaves_no_class(background_from):
    metric = OpenVocabIoUMetric(background_from=background_from)
    with pytest.raises(ESCNetError, match=r'must be between 1 and 2 for a data set of 3 classes'):
        metric.dataset_meta = dict(classes=('a', 'b', 'c'))


def test_saved_predictions_are_not_merged_into_background(tmp_path):
    """The file has the words as predicted; names.json says which count as background."""
    metric = OpenVocabIoUMetric(
        background_from=1, output_dir=str(tmp_path), dataset_name='three words'
    )
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    ids = np.array([[0, 1, 2, 255]])
    metric.process({}, [sample(ids, np.array([[0, 2, 1, 1]]), img_path='a.jpg')])
    metrics = metric.evaluate(1)
    assert metrics['mIoU_gt'] == pytest.approx((100 + 200 / 3) / 2, abs=0.006)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'a.png')), ids)
    assert json.loads((tmp_path / 'names.json').read_text()) == dict(
        names=['a', 'b', 'c'],
        ignore_index=255,
        first_id=0,
        background_from=1,
        dataset='three words',
        file='{stem}.png',
    )


# -- memory, mistakes ----------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_images():
    """Two entries however many images; concatenated results of two data sets add up."""
    names = [f'class {i}' for i in range(12)]
    samples = random_samples(12, 255, np.arange(12), count=30)
    metric, other, whole = (OpenVocabIoUMetric() for _ in range(3))
    evaluate(metric, samples[:20], names)
    evaluate(other, samples[20:], names)
    evaluate(whole, samples, names)
    assert len(metric.results) == len(other.results) == 2
    both, present = metric.class_iou(metric.results + other.results)
    expected, in_truth = reference(samples, 12, 255)
    np.testing.assert_allclose(both, expected, rtol=1e-12)
    np.testing.assert_array_equal(both, metric.class_iou(whole.results)[0])
    np.testing.assert_array_equal(present, in_truth)


def test_evaluate_resets_the_counts():
    """Repeated validation with one metric."""
    metric = OpenVocabIoUMetric(prefix='val')
    names = [f'class {i}' for i in range(5)]
    first, second = (random_samples(5, 255, np.arange(k), count=k) for k in (4, 2))
    for samples in (first, second, first):
        evaluate(metric, samples, names)
        metrics = metric.evaluate(len(samples))
        iou, in_truth = reference(samples, 5, 255)
        assert metrics['val/mIoU_gt'] == pytest.approx(iou[in_truth].mean(), abs=0.006)
        assert metric.results == []


@pytest.mark.parametrize('size', [2, 4])
def test_not_every_image_once(size):
    metric = OpenVocabIoUMetric()
    evaluate(metric, random_samples(5, 255, np.arange(5)), 'abcde')
    with pytest.raises(ESCNetError, match=f'data set has {size} images, but 3 were evaluated'):
        metric.evaluate(size)


def test_ignored_class():
    with pytest.raises(
        ESCNetError, match=r"ignore_index=255, which is the id of class 'class 255'"
    ):
        OpenVocabIoUMetric().dataset_meta = dict(classes=[f'class {i}' for i in range(256)])
    OpenVocabIoUMetric().dataset_meta = dict(classes=[f'class {i}' for i in range(255)])


def test_wrong_number_of_classes():
    """The model still has the vocabulary of another data set."""
    zeros = np.zeros((2, 2), int)
    one = sample(zeros, zeros, img_path='a.jpg', seg_logits=dict(data=torch.zeros(3, 2, 2)))
    other = sample(zeros, zeros, img_path='a.jpg')
    other['pred_sem_seg']['num_classes'] = 3  # as ESCNet tells where it keeps no scores
    for found in (one, other):
        evaluate(OpenVocabIoUMetric(), [found], 'abc')
        with pytest.raises(ESCNetError, match=r'scores of 3 classes for a\.jpg, .* data set has 4'):
            evaluate(OpenVocabIoUMetric(), [found], 'abcd')


def test_the_split_is_logged_once(monkeypatch):
    logged = []
    monkeypatch.setattr(MMLogger, 'info', lambda self, text: logged.append(text))
    metric = OpenVocabIoUMetric(seen=['red disc'], background_from=2)
    samples = [sample(np.array([[0, 1, 2]]), np.array([[0, 1, 2]]))]
    evaluate(metric, samples, ['wood', 'disc | red disc', 'sky', 'sea'])
    metric.compute_metrics(metric.results)
    (split,) = (text for text in logged if 'seen in training' in text)
    assert [line.strip() for line in split.strip().splitlines()] == [
        'seen in training: 1 of 2 classes',
        'disc (red disc)',
        'unseen: 1 of 2 classes',
        'wood',
    ]
