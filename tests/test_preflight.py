"""Checks before anything expensive."""

from argparse import Namespace

import numpy as np
import open_clip
import pytest
import torch
from conftest import toy_model_cfg
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mmseg_escnet import ESCNetError, preflight
from mmseg_escnet.apis import OpenVocabInferencer
from mmseg_escnet.cli import check_files
from mmseg_escnet.config import forget_pretrained
from mmseg_escnet.engine import choose_checkpoint, use_tta
from mmseg_escnet.errors import Problems
from mmseg_escnet.preflight import check_checkpoint, check_datasets, find_weights
from mmseg_escnet.toyworld.model import toy_model


def model_cfg(clip=None, sam=None):
    cfg = ConfigDict(toy_model_cfg())
    cfg.backbone.pretrained = clip
    cfg.neck.sam_pretrained = sam
    return cfg


def test_nothing_pretrained():
    find_weights(model_cfg())
    find_weights(ConfigDict(toy_model_cfg()))


def test_existing_files_are_accepted(tmp_path):
    """Official names included: the digest is checked when the file is read."""
    for name in ('clip.pt', 'sam_vit_b_01ec64.pth'):
        (tmp_path / name).touch()
    find_weights(
        model_cfg(clip=str(tmp_path / 'clip.pt'), sam=str(tmp_path / 'sam_vit_b_01ec64.pth'))
    )


def test_missing_sam():
    with pytest.raises(ESCNetError, match=r'checkpoint nowhere/sam\.pth does not exist'):
        find_weights(model_cfg(sam='nowhere/sam.pth'))


def test_missing_clip(monkeypatch):
    with pytest.raises(ESCNetError, match=r"CLIP weights 'nowhere/clip\.pt' are neither"):
        find_weights(model_cfg(clip='nowhere/clip.pt'))
    asked = []
    monkeypatch.setattr(preflight, 'find_clip', lambda *names, **_: asked.append(names))
    cfg = model_cfg(clip='openai')
    cfg.backbone.model_name = 'ViT-B-16'
    find_weights(cfg)
    assert asked == [('ViT-B-16', 'openai')]


def test_all_that_is_missing(monkeypatch):
    """Each with its command; nothing is downloaded as long as something else is missing."""
    monkeypatch.setattr(open_clip, 'download_pretrained', None)
    monkeypatch.setattr('mmseg_escnet.models.clip_weights._find_in_cache', lambda tag: None)
    cfg = model_cfg(clip='openai', sam='nowhere/sam_vit_l_0b3195.pth')
    cfg.backbone.model_name = 'ViT-L-14-336'
    problems = Problems()
    with problems:
        check_checkpoint('nowhere/iter_8.pth')
    for _ in range(2):
        with problems:
            find_weights(cfg, allow_download=False)
    with pytest.raises(ESCNetError) as caught:
        problems.raise_all()
    first, *lines = str(caught.value).splitlines()
    assert first == '3 problems:'
    for number, (line, words) in enumerate(
        zip(
            lines,
            (
                'nowhere/iter_8.pth does not exist',
                '`mmseg-escnet download sam-vit-l --out nowhere`',
                '`mmseg-escnet download clip --model ViT-L-14-336 --tag openai`',
            ),
            strict=True,
        ),
        start=1,
    ):
        assert line.startswith(f'  {number}. ')
        assert words in line


def test_one_problem_is_one_sentence_and_a_bug_is_not_collected():
    problems = Problems()
    problems.raise_all()
    with problems:
        raise ESCNetError('The file a.png does not exist: check the path.')
    with pytest.raises(ESCNetError, match=r'^The file a\.png does not exist: check the path\.$'):
        problems.raise_all()
    with pytest.raises(KeyError), problems:
        raise KeyError


def test_forget_pretrained():
    cfg = model_cfg(clip='nowhere', sam='nowhere')
    forget_pretrained(cfg)
    find_weights(cfg)
    MODELS.build(cfg).init_weights()


def test_checkpoints(tmp_path):
    path = tmp_path / 'iter_8.pth'
    with pytest.raises(ESCNetError, match='does not exist'):
        check_checkpoint(str(path))
    torch.save({'state_dict': {'a': torch.zeros(1000)}, 'meta': {'iter': 8}}, path)
    check_checkpoint(str(path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # the disk was full
    with pytest.raises(ESCNetError, match='damaged') as caught:
        check_checkpoint(path)
    assert str(path) in str(caught.value)


def test_an_address_is_no_checkpoint(monkeypatch):
    """MMEngine would load it by running what is in it, by torch.hub's default."""
    monkeypatch.setattr('torch.hub.load_state_dict_from_url', None)
    url = 'https://example.com/iter_8.pth'
    cfg = Config(dict(work_dir='nowhere', load_from=url))
    for read in (
        lambda: check_checkpoint(url),
        lambda: choose_checkpoint(cfg),
        lambda: OpenVocabInferencer(*toy_model()[:1], url, 'cpu'),
        lambda: check_files(Namespace(clip=None, config=__file__, checkpoint=url, sha256=None)),
    ):
        with pytest.raises(ESCNetError, match=rf'{url} is an address.*`wget {url}`.* SHA-256'):
            read()


def test_words_that_the_model_cannot_tell_apart(tmp_path):
    """Before the model is built: those of a data set, as its own text encoder reads them."""
    for number in range(2):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{number}.png')
    dataset = dict(
        type='FolderDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='.', seg_map_path=None),
        names=['door, open', 'door', 'wall'],
        pipeline=[dict(type='LoadImage')],
    )
    cfg = Config(dict(model=toy_model_cfg(), val_dataloader=dict(dataset=dataset)))
    with pytest.raises(ESCNetError, match="'door, open' and 'door' are both encoded as 'door'"):
        check_datasets(cfg, 'val')
    cfg.model.text_encoder.synonyms = 'mean'  # 'door, open' is then two phrases
    check_datasets(cfg, 'val')
    cfg.val_dataloader.dataset.names = ['wall', 'word ' * 40]
    with pytest.raises(ESCNetError, match='but CLIP reads only 40'):
        check_datasets(cfg, 'val')
    cfg.model.backbone = dict(type='OpenCLIPBackbone', model_name='ViT-B-16')
    check_datasets(cfg, 'val')
    cfg.val_dataloader.dataset.names = ['wall', 'word ' * 80]
    with pytest.raises(ESCNetError, match='but CLIP reads only 77'):
        check_datasets(cfg, 'val')


def test_bad_label(tmp_path):
    """The last of three label maps is of another size than its image."""
    for kind in ('images', 'annotations'):
        (tmp_path / kind).mkdir()
    for number, size in enumerate(((8, 8), (8, 8), (4, 8))):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f'images/{number}.png')
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f'annotations/{number}.png')
    dataset = dict(
        type='ToyWorldDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap')],
    )
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
    with pytest.raises(ESCNetError, match=r'2\.png is 8x4 pixels but its image .* is 8x8'):
        check_datasets(cfg, 'train')


@pytest.fixture
def unlabelled(tmp_path):
    """A config with three images without label maps."""
    init_default_scope('mmseg')
    for number in range(3):
        Image.new('RGB', (12, 8)).save(tmp_path / f'{number}.png')
    dataset = dict(
        type='FolderDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='.', seg_map_path=None),
        names=['cat', 'dog'],
        pipeline=[dict(type='LoadImage'), dict(type='LoadLabelMap'), dict(type='PackSegInputs')],
    )
    evaluator = dict(type='OpenVocabIoUMetric', iou_metrics=['mIoU'])
    return Config(dict(test_dataloader=dict(dataset=dataset), test_evaluator=evaluator))


@pytest.mark.parametrize('tta', [False, True])
@pytest.mark.parametrize('evaluators', ['one', 'several', 'of mmseg'])
def test_miou_without_labels(unlabelled, evaluators, tta):
    if evaluators == 'several':
        unlabelled.test_evaluator = [dict(type='CityscapesMetric'), unlabelled.test_evaluator]
    if evaluators == 'of mmseg':
        unlabelled.test_evaluator.type = 'IoUMetric'
    if tta:
        unlabelled.model = {}
        use_tta(unlabelled)
    with pytest.raises(ESCNetError, match=r'test_dataloader has no label maps.*format_only=True'):
        check_datasets(unlabelled, 'test')


def test_predictions_without_labels(unlabelled, tmp_path):
    unlabelled.test_evaluator.update(format_only=True, output_dir=str(tmp_path / 'out'))
    assert len(check_datasets(unlabelled, 'test')['test']) == 3
