"""Test-time augmentation: the mean over an image and its mirror image, by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import toy_model_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.engine import OpenVocabTTAModel, VocabularyHook, use_tta
from mmseg_escnet.models.segmentors.scores import RowResizer, Scores, View

WORDS = ['cat', 'dog', 'sky']
MODES = {
    'whole': dict(mode='whole'),
    'windows': dict(mode='windows', crop_size=(48, 48), stride=(32, 32)),
}
PIPELINE = [
    dict(type='LoadImage'),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='LoadLabelMap'),
    dict(type='PackSegInputs'),
]


def versions(mode, *logits) -> list[tuple[SegDataSample, Scores]]:
    """Versions of one image with these logits (N, H, W), the first with a label map."""
    samples, scores = [SegDataSample() for _ in logits], []
    for of_version in map(torch.tensor, logits):
        size = of_version.shape[1:]
        view = View(of_version, RowResizer(size, size, False))
        scores.append(Scores.from_views([view], size, activate=mode == 'windows'))
    samples[0].gt_sem_seg = PixelData(data=torch.zeros(1, *size))
    samples[0].set_metainfo(dict(img_path='a.jpg'))
    return list(zip(samples, scores, strict=True))


def merge(*images, keep_scores=True):
    model = torch.nn.Module()
    model.test_step, model.test_cfg = None, dict(keep_scores=keep_scores)
    return OpenVocabTTAModel(module=model).merge_preds(list(images))


def test_probabilities_are_averaged_as_they_are():
    """Class 0 has the highest mean; after a second softmax class 2 would have it."""
    one, other = torch.tensor([[0.35, 0.0, 0.65], [0.4, 0.6, 0.0]])
    logits = [(p + 1e-9).log()[:, None, None].tolist() for p in (one, other)]
    (sample,) = merge(versions('windows', *logits))
    torch.testing.assert_close(sample.seg_logits.data.flatten(), (one + other) / 2)
    assert sample.pred_sem_seg.data.tolist() == [[[0]]]
    assert sample.img_path == 'a.jpg'
    assert (one.softmax(0) + other.softmax(0)).argmax() == 2


def test_logits_become_probabilities():
    """One very confident version must not dominate: the mean of logits would choose 0."""
    scores = [[[[9.0]], [[0.0]]], [[[0.0]], [[2.0]]], [[[0.0]], [[2.0]]]]
    samples = merge(versions('whole', *scores), versions('whole', scores[1]))
    expected = torch.tensor(scores).softmax(1).mean(0)
    torch.testing.assert_close(samples[0].seg_logits.data, expected)
    assert [sample.pred_sem_seg.data.item() for sample in samples] == [1, 1]


def test_vocabulary_of_one_class():
    (sample,) = merge(versions('whole', [[[-3.0]]], [[[-4.0]]]), keep_scores=False)
    assert sample.pred_sem_seg.data.tolist() == [[[0]]]
    assert 'seg_logits' not in sample


@pytest.fixture
def cfg(tmp_path) -> Config:
    """A data set of one asymmetric image."""
    init_default_scope('mmseg')
    for kind in ('images', 'labels'):
        (tmp_path / kind).mkdir()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (10, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(picture).save(tmp_path / 'images/1.png')
    Image.fromarray(rng.integers(0, 3, (80, 96), np.uint8)).save(tmp_path / 'labels/1.png')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        img_suffix='.png',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=WORDS),
        pipeline=PIPELINE,
    )
    model = toy_model_cfg(num_blocks=1)
    return Config(dict(model=model, test_dataloader=dict(dataset=dataset)))


def run(cfg) -> SegDataSample:
    """Like MMEngine's test loop."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    loader = SimpleNamespace(dataset=dataset)
    VocabularyHook().before_test(SimpleNamespace(model=model, test_dataloader=loader))
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([dataset[0]]))
    return sample


@pytest.mark.parametrize('mode', MODES)
def test_mean_over_an_image_and_its_mirror_image(cfg, mode):
    cfg.model.test_cfg = MODES[mode] | dict(keep_scores=True)
    plain = run(cfg)
    mirrored_cfg = Config(cfg.to_dict())
    flip = dict(type='RandomFlip', prob=1.0, direction='horizontal')
    mirrored_cfg.test_dataloader.dataset.pipeline.insert(2, flip)  # after Resize
    mirrored = run(mirrored_cfg)
    use_tta(cfg)
    found = run(cfg)
    scores = [sample.seg_logits.data for sample in (plain, mirrored)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3, 'nothing to average'
    if mode == 'whole':
        scores = [score.softmax(0) for score in scores]
    torch.testing.assert_close(found.seg_logits.data, sum(scores) / 2, rtol=1e-3, atol=1e-4)
    assert found.pred_sem_seg.data.equal(found.seg_logits.data.argmax(0, keepdim=True))
    assert found.gt_sem_seg.data.equal(plain.gt_sem_seg.data), 'labels are not mirrored'
    assert found.seg_logits.shape == (80, 96)


def test_own_pipeline_and_model_of_the_config(cfg):
    cfg.tta_pipeline = [dict(type='LoadImage')]
    cfg.tta_model = dict(type='SegTTAModel')
    model = cfg.model
    use_tta(cfg)
    assert cfg.test_dataloader.dataset.pipeline == [dict(type='LoadImage')]
    assert (cfg.model.type, cfg.model.module) == ('SegTTAModel', model)
    assert model.test_cfg == dict(keep_scores=True), 'it reads seg_logits'


def test_scores_are_kept_only_for_other_tta_models(cfg):
    cfg.tta_model = dict(type='OpenVocabTTAModel')
    use_tta(cfg)
    assert 'keep_scores' not in (cfg.model.module.get('test_cfg') or {})


@pytest.mark.parametrize(
    'pipeline',
    [PIPELINE[1:], [PIPELINE[2], *PIPELINE[:2]], []],
    ids=['no image', 'labels first', 'none'],
)
def test_pipelines_that_cannot_be_mirrored(cfg, pipeline):
    cfg.test_dataloader.dataset.pipeline = pipeline
    with pytest.raises(ESCNetError, match=r'cannot tell where to mirror .* give tta_pipeline'):
        use_tta(cfg)


@pytest.mark.parametrize('size', [(1, 9), (9, 1), (1, 1), (2, 7)])
def test_images_one_pixel_wide(cfg, size):
    """Both versions hold the pixels of the image, the second from right to left."""
    root = Path(cfg.test_dataloader.dataset.data_root)
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(root / 'images/1.png')
    Image.new('L', size).save(root / 'labels/1.png')
    cfg.test_dataloader.dataset.pipeline = [step for step in PIPELINE if step['type'] != 'Resize']
    use_tta(cfg)
    item = DATASETS.build(cfg.test_dataloader.dataset)[0]
    one, mirrored = (image.numpy().transpose(1, 2, 0)[..., ::-1] for image in item['inputs'])
    np.testing.assert_array_equal(one, pixels)
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1])


def test_several_sizes_in_a_batch(cfg):
    """One by one, with and without mirror images: the label maps of single images."""
    root = Path(cfg.test_dataloader.dataset.data_root)
    rng = np.random.default_rng(2)
    for name, size in (('2', (64, 48)), ('3', (96, 80)), ('4', (33, 70))):
        pixels = rng.integers(0, 256, (7, 5, 3), np.uint8)
        Image.fromarray(pixels).resize(size).save(root / f'images/{name}.png')
        Image.new('L', size).save(root / f'labels/{name}.png')
    cfg.test_dataloader.dataset.pipeline = [step for step in PIPELINE if step['type'] != 'Resize']
    for tta in (False, True):
        if tta:
            use_tta(cfg)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).eval()
        loader = SimpleNamespace(dataset=dataset)
        VocabularyHook().before_test(SimpleNamespace(model=model, test_dataloader=loader))
        with torch.no_grad():
            batch = model.test_step(pseudo_collate([dataset[i] for i in range(4)]))
            for index, sample in enumerate(batch):
                (alone,) = model.test_step(pseudo_collate([dataset[index]]))
                assert sample.img_path == alone.img_path == dataset.get_data_info(index)['img_path']
                assert sample.pred_sem_seg.data.equal(alone.pred_sem_seg.data)
                assert sample.pred_sem_seg.data.shape[1:] == sample.ori_shape
            if not tta:
                validated = model.val_step(pseudo_collate([dataset[i] for i in range(4)]))
                assert [s.img_path for s in validated] == [s.img_path for s in batch]
