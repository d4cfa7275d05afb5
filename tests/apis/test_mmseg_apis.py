"""MMSegmentation's own ways to use a model, with the vocabulary following."""

import numpy as np
import pytest
import torch
from conftest import ROOT, toy_model_cfg
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer

PIPELINE = [
    dict(type='LoadImage'),
    dict(type='Resize', scale=(64, 64), keep_ratio=False),
    dict(type='LoadLabelMap'),
    dict(type='PackSegInputs'),
]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')  # a runner in another test may have left its own


@pytest.fixture
def config() -> Config:
    return Config(
        dict(
            default_scope='mmseg',
            model=toy_model_cfg(),
            test_pipeline=PIPELINE,
            test_dataloader=dict(dataset=dict(type='ToyWorldDataset')),
        )
    )


@pytest.fixture
def checkpoint(config, tmp_path) -> str:
    model = MODELS.build(config.model)
    meta = dict(dataset_meta=dict(classes=('cat', 'dog', 'grass'), palette=[[1, 2, 3]] * 3))
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def test_init_model_takes_the_words_of_the_checkpoint(config, checkpoint):
    model = init_model(config, checkpoint, device='cpu')
    assert model.vocabulary.names == ('cat', 'dog', 'grass')
    assert model.dataset_meta['palette'] == [[1, 2, 3]] * 3
    assert model.num_classes == 3


def test_inference_model_with_other_words(config, checkpoint):
    model = init_model(config, checkpoint, device='cpu')
    model.set_vocabulary(['taxi', 'wet road'])
    result = inference_model(model, np.zeros((30, 50, 3), np.uint8))
    assert result.pred_sem_seg.data.shape == (1, 30, 50)
    assert 'seg_logits' not in result
    model.test_cfg.keep_scores = True
    kept = inference_model(model, np.zeros((30, 50, 3), np.uint8))
    assert kept.seg_logits.data.shape == (2, 30, 50)
    assert kept.pred_sem_seg.data.equal(result.pred_sem_seg.data)


def test_a_photograph(config, checkpoint, real_samples):
    model = init_model(config, checkpoint, device='cpu')
    result = inference_model(model, str(real_samples / 'photos' / 'dog.jpg'))
    assert result.pred_sem_seg.data.shape == (1, 534, 800)


def test_mmseg_inferencer_with_other_words(config, checkpoint, tmp_path):
    """A file and an array (in BGR order); names and colours of its pictures follow the words."""
    from mmseg.apis import MMSegInferencer

    config.visualizer = dict(type='SegLocalVisualizer', vis_backends=[])
    config.test_dataloader.dataset.pipeline = PIPELINE
    inferencer = MMSegInferencer(config, checkpoint, device='cpu')
    inferencer.show_progress = False
    assert inferencer.model.vocabulary.names == ('cat', 'dog', 'grass')
    inferencer.model.set_vocabulary(['taxi', 'wet road'])
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    found = inferencer(str(tmp_path / 'a.png'), return_vis=True)
    assert found['predictions'].shape == (30, 50)
    assert found['visualization'].shape == (30, 50, 3)
    assert inferencer.visualizer.dataset_meta['classes'] == ('taxi', 'wet road')
    again = inferencer(image[..., ::-1].copy())
    np.testing.assert_array_equal(again['predictions'], found['predictions'])
    expected = OpenVocabInferencer(config, checkpoint, 'cpu')(image, classes=['taxi', 'wet road'])
    np.testing.assert_array_equal(expected.labels, found['predictions'])
    assert PIPELINE[0] == dict(type='LoadImage'), 'the config given was changed'


def test_pictures_of_mmseg_apis(config, checkpoint, tmp_path, monkeypatch):
    """show_result_pyplot, and MMSegInferencer with the visualizer of our configs."""
    from mmseg.apis import MMSegInferencer, show_result_pyplot

    monkeypatch.chdir(tmp_path)
    words, color = [f'word {i}' for i in range(847)], (250, 10, 20)
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(image).save('a.png')
    model = init_model(config, checkpoint, device='cpu')
    model.set_vocabulary(words, [color] * 847)
    result = inference_model(model, 'a.png')
    result.pred_sem_seg.data.fill_(846)
    shown = show_result_pyplot(model, 'a.png', result, opacity=1.0, show=False, out_file='b.png')
    config.visualizer = Config.fromfile(ROOT / 'configs/_base_/runtime.py').visualizer
    config.visualizer.update(vis_backends=[], name='of our configs')
    config.test_dataloader.dataset.pipeline = PIPELINE
    inferencer = MMSegInferencer(config, checkpoint, device='cpu')
    inferencer.show_progress = False
    inferencer.model.set_vocabulary(words, [color] * 847)
    monkeypatch.setattr(inferencer, 'forward', lambda *_: [result])
    again = inferencer('a.png', return_vis=True, opacity=1.0)['visualization']
    with Image.open('b.png') as picture:
        written = np.array(picture)
    panel, legend = written[28:268, 407:807], written[268:]
    assert ((panel == color).all(axis=-1)).mean() > 0.9, 'the prediction, eight times as large'
    assert (legend == color).all(axis=-1).sum() > 100, 'its legend'
    for picture in (shown, again):
        assert picture.shape == written.shape
        assert np.median(np.abs(picture.astype(int) - written)) == 0


def test_a_checkpoint_of_another_architecture_is_refused(config, checkpoint):
    config.model.neck.num_blocks = 3
    with pytest.raises(ESCNetError, match=r'does not fit ESCNet: .* missing \(neck.blocks'):
        init_model(config, checkpoint, device='cpu')


def test_pretrained_of_the_segmentor_is_refused():
    with pytest.raises(ESCNetError, match=r'set model\.backbone\.pretrained'):
        MODELS.build(toy_model_cfg(pretrained='somewhere.pth'))


def test_the_configs_have_what_init_model_reads():
    cfg = Config.fromfile(ROOT / 'configs/escnet/escnet_vitb16_coco-stuff.py')
    assert cfg.test_pipeline[0].type == 'LoadImage'
