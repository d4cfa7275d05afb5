"""A setting that nothing reads is one sentence with the nearest name."""

import inspect
import re

import mmseg
import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from mmseg.registry import MODELS

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer
from mmseg_escnet.config import read_config
from mmseg_escnet.settings import TOP_LEVEL, check_names

TOY = ROOT / 'configs/toyworld/escnet_toy.py'
CLIP = ROOT / 'configs/clip/clip_vitb16_readout.py'
FSDP = ROOT / 'configs/escnet/escnet_vitl14_fsdp_coco-stuff.py'


@pytest.mark.parametrize(
    ('key', 'place', 'nearest'),
    [
        ('modle.x', 'modle.x', 'model'),
        ('train_dataloder.batch_size', 'train_dataloder.batch_size', 'train_dataloader'),
        ('loadfrom', 'loadfrom', 'load_from'),
        ('model.nek.num_blocks', 'model.nek', 'neck'),
        ('model.neck.num_block', 'model.neck.num_block', 'num_blocks'),
        ('model.neck.fusion.windowsize', 'model.neck.fusion.windowsize', 'window_size'),
        ('model.decode_head.loss_decode.avg_nonignore', 'avg_nonignore', 'avg_non_ignore'),
        ('model.neck.type', "model.neck.type='ESCNek'", 'ESCNeck'),
        ('train_dataloader.bach_size', 'train_dataloader.bach_size', 'batch_size'),
        ('train_dataloader.sampler.shufle', 'train_dataloader.sampler.shufle', 'shuffle'),
        ('train_dataloader.dataset.pipeline.3.probs', 'pipeline.3.probs', 'prob'),
        ('val_dataloader.dataset.indice', 'val_dataloader.dataset.indice', 'indices'),
        ('val_dataloader.dataset.data_prefix.img_pth', 'data_prefix.img_pth', 'img_path'),
        ('train_cfg.max_iter', 'train_cfg.max_iter', 'max_iters'),
        ('optim_wrapper.optimizer.weight_deca', 'optimizer.weight_deca', 'weight_decay'),
        ('optim_wrapper.clip_grad.maxnorm', 'clip_grad.maxnorm', 'max_norm'),
        ('optim_wrapper.paramwise_cfg.norm_decay', 'norm_decay', 'norm_decay_mult'),
        ('optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mul', 'backbone.lr_mul', 'lr_mult'),
        ('param_scheduler.1.Tmax', 'param_scheduler.1.Tmax', 'T_max'),
        ('default_hooks.chekpoint.interval', 'default_hooks.chekpoint', 'checkpoint'),
        ('default_hooks.logger.intervall', 'logger.intervall', 'interval'),
        ('custom_hooks.0.priorty', 'custom_hooks.0.priorty', 'priority'),
        ('randomness.sed', 'randomness.sed', 'seed'),
        ('val_evaluator.iou_metric', 'val_evaluator.iou_metric', 'iou_metrics'),
        ('visualizer.alfa', 'visualizer.alfa', 'alpha'),
    ],
)
def test_typos(key, place, nearest):
    with pytest.raises(ESCNetError) as caught:
        read_config(TOY, {key: 'ESCNek' if key.endswith('.type') else 3})
    message = str(caught.value)
    assert place in message
    assert re.search(rf'did you mean (\w+ or )?{nearest}\b', message), message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('config', 'key', 'places'),
    [
        (TOY, 'data_root', [f'{p}_dataloader.dataset.data_root' for p in ('train', 'val', 'test')]),
        (TOY, 'crop_size', ['train_dataloader.dataset.pipeline.2.crop_size']),
        (TOY, 'train_pipeline.3.prob', ['train_dataloader.dataset.pipeline.3.prob']),
        (TOY, 'data_preprocessor.size', ['model.data_preprocessor.size']),
        (TOY, 'weights_dir', ['model.backbone.pretrained', 'model.neck.sam_pretrained']),
        (TOY, 'vis_backends', ['visualizer.vis_backends']),
        (CLIP, 'readout_pipeline.1.scale', ['test_dataloader.dataset.pipeline.1.scale']),
    ],
)
def test_variables_of_a_config(config, key, places):
    """The value was inserted when the file was read; overriding the variable changes nothing."""
    with pytest.raises(ESCNetError, match='has no effect') as caught:
        read_config(config, {key: 1})
    assert all(place in str(caught.value) for place in places), caught.value
    for place in places:
        read_config(config, {place: 1})


def test_what_is_read_without_being_in_the_config():
    options = {
        'find_unused_parameters': True,
        'model_wrapper_cfg.type': 'MMDistributedDataParallel',
        'model_wrapper_cfg.static_graph': True,
        'auto_scale_lr.base_batch_size': 4,
        'randomness.diff_rank_seed': True,
        'train_dataloader.prefetch_factor': 2,
        'train_dataloader.dataset.metainfo.anything': 'of mine',
        'model.backbone.readout': 'value',
        'model.init_cfg': None,
        'param_scheduler.1.convert_to_iter_based': True,
        'optim_wrapper.type': 'AmpOptimWrapper',
        'optim_wrapper.dtype': 'bfloat16',
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9),
        'optim_wrapper.constructor': 'LearningRateDecayOptimizerConstructor',
        'optim_wrapper.paramwise_cfg.num_layers': 12,
        'default_hooks.checkpoint.save_best': 'mIoU',
        'default_hooks.early': dict(type='EarlyStoppingHook', monitor='mIoU', priority='LOW'),
        'val_evaluator.output_dir': 'out',
        'test_dataloader.dataset.pipeline.0': dict(
            type='LoadImageFromFile', imdecode_backend='cv2'
        ),
        'env_cfg.dist_cfg.timeout': 600,
    }
    read_config(TOY, options)


def test_all_that_runners_read_may_be_overridden():
    read = set()
    for runner in (Runner, FlexibleRunner):
        read |= inspect.signature(runner.__init__).parameters.keys() - {'self', 'cfg'}
        read |= set(re.findall(r"\bself\.cfg\.get\(\s*'(\w+)'", inspect.getsource(runner)))
    assert {'model', 'sync_bn', 'strategy', 'compile'} <= read
    assert read - TOP_LEVEL == {'data_preprocessor'}, 'read if the model has none'
    model = {**read_config(TOY).model}
    del model['data_preprocessor']
    read_config(Config(dict(model=model)), {'data_preprocessor.size': (96, 96)})


def test_other_configs_are_accepted():
    """Of MMSegmentation, and with parts that are not registered here."""
    for name in (
        'deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py',
    ):
        check_names(Config.fromfile(f'{mmseg.__path__[0]}/.mim/configs/{name}'))
    check_names(Config(dict(model=dict(type='TheirModel', anything=dict(type='more', x=1)))))
    read_config(FSDP, {'strategy.state_dict_cfg': 'local'})


def test_a_config_of_its_own_is_checked_too(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = '{TOY}'\nmodel = dict(neck=dict(with_pc=True))\n")
    with pytest.raises(
        ESCNetError, match=r'model\.neck\.with_pc is no setting of ESCNeck.*with_cp'
    ):
        read_config(config)
    with pytest.raises(ESCNetError, match='did you mean with_cp'):
        OpenVocabInferencer(str(config), str(ROOT / 'data/toyworld/escnet.pth'), device='cpu')


@pytest.mark.parametrize('key', ['param_scheduler.9.end', 'model.type.x', 'model.neck.a.b.c'])
def test_what_cannot_be_merged(key):
    with pytest.raises(ESCNetError, match=r'cannot be set|is no setting') as caught:
        read_config(TOY, {key: 1})
    assert '\n' not in str(caught.value)


def test_inference_settings():
    for name, near in (('strides', 'stride'), ('globalview', 'global_view')):
        cfg = read_config(TOY, {f'model.test_cfg.{name}': 1})
        with pytest.raises(ESCNetError, match=rf'test_cfg\.{name} is no setting: .*{near}'):
            MODELS.build(cfg.model)
