"""Settings that depend on each other are checked before the first step."""

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmseg.registry import LOOPS
from torch.utils.data import DataLoader

from mmseg_escnet import ESCNetError
from mmseg_escnet.config import read_config, run_config
from mmseg_escnet.consistency import check_consistency, check_ignore_index
from mmseg_escnet.evaluation.zero_shot_benchmarks import BENCHMARKS

TOY = ROOT / 'configs/toyworld/escnet_toy.py'
REAL = ROOT / 'configs/escnet/escnet_vitb16_coco-stuff.py'
PHASES = ('train', 'val', 'test')
CONFIGS = [path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_all_configs_are_consistent(path):
    check_consistency(read_config(path), *PHASES)


def test_all_benchmarks_are_consistent():
    for benchmark in BENCHMARKS:
        path = ROOT / 'configs/_base_/datasets' / benchmark.config
        check_consistency(Config.fromfile(path), 'val', 'test')


def toy(**parts):
    """The toy config with whole parts replaced."""
    cfg = read_config(TOY)
    for name, value in parts.items():
        cfg.pop(name)
        cfg[name] = value
    return cfg


INFINITE = dict(type='InfiniteSampler', shuffle=True)


@pytest.mark.parametrize(
    'train_cfg',
    [
        dict(type='EpochBasedTrainLoop', max_epochs=1),
        dict(by_epoch=True, max_epochs=3),
        dict(type=LOOPS.get('EpochBasedTrainLoop'), max_epochs=1),
    ],
)
def test_epochs_that_never_end(train_cfg):
    cfg = toy(train_cfg=train_cfg)
    with pytest.raises(ESCNetError, match=r'epoch never ends: set .*DefaultSampler'):
        check_consistency(cfg, 'train')
    cfg.train_dataloader.sampler.type = 'DefaultSampler'
    check_consistency(cfg, 'train')


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_a_validation_that_never_ends(phase):
    cfg = toy()
    cfg[f'{phase}_dataloader'].sampler = INFINITE
    with pytest.raises(ESCNetError, match=f'{phase}_dataloader.sampler is InfiniteSampler'):
        check_consistency(cfg, *PHASES)


@pytest.mark.parametrize(
    ('options', 'names'),
    [
        (
            {'default_hooks.checkpoint': dict(type='CheckpointHook', _delete_=True, interval=1)},
            ['default_hooks.checkpoint.by_epoch'],
        ),
        ({'default_hooks.checkpoint.by_epoch': True}, ['default_hooks.checkpoint.by_epoch']),
        (
            {'param_scheduler': [dict(type='PolyLR', power=0.9), dict(type='LinearLR')]},
            ['param_scheduler.0.by_epoch', 'param_scheduler.1.by_epoch'],
        ),
        ({'param_scheduler.1.by_epoch': True}, ['param_scheduler.1.by_epoch']),
    ],
)
def test_what_waits_for_the_end_of_an_epoch_that_has_none(options, names):
    with pytest.raises(ESCNetError, match='set it to False') as caught:
        check_consistency(read_config(TOY, options), 'train')
    assert all(name in str(caught.value) for name in names)
    assert str(caught.value).count('by_epoch') == len(names)


def test_what_may_count_epochs():
    converted = dict(type='PolyLR', by_epoch=True, convert_to_iter_based=True)
    follows = dict(type='ReduceOnPlateauLR', monitor='mIoU')
    check_consistency(read_config(TOY, {'param_scheduler': [converted, follows]}), 'train')
    check_consistency(read_config(TOY, {'param_scheduler': None}), 'train')


@pytest.mark.parametrize('path', [TOY, REAL], ids=lambda path: path.stem)
@pytest.mark.parametrize('more', [{}, dict(prefetch_factor=2), dict(timeout=9, prefetch_factor=4)])
def test_no_workers(path, more):
    """What our own message advises, and what PyTorch refuses with persistent workers."""
    options = {}
    for phase in PHASES:
        options[f'{phase}_dataloader.num_workers'] = 0
        options |= {f'{phase}_dataloader.{name}': value for name, value in more.items()}
    cfg = run_config(path, options)
    for phase in PHASES:
        loader = dict(cfg[f'{phase}_dataloader'])
        settings = {k: v for k, v in loader.items() if k not in ('dataset', 'sampler')}
        assert DataLoader([1], **settings).num_workers == 0
    with_workers = run_config(path, {'val_dataloader.num_workers': 0})
    assert with_workers.train_dataloader.persistent_workers, 'the others keep theirs'


@pytest.mark.parametrize(
    ('phase', 'options', 'different'),
    [
        (
            'train',
            {'train_dataloader.dataset.ignore_index': 254},
            ['model.data_preprocessor.seg_pad_val=254', 'model.decode_head.ignore_index=254'],
        ),
        (
            'val',
            {'val_dataloader.dataset.ignore_index': 65535},
            ['val_evaluator.ignore_index=65535'],
        ),
        ('test', {'test_evaluator.ignore_index': 0}, ['test_evaluator.ignore_index=255']),
        (
            'train',
            {'model.data_preprocessor.seg_pad_val': 0},
            ['model.data_preprocessor.seg_pad_val=255'],
        ),
        ('train', {'model.decode_head.ignore_index': 171}, ['model.decode_head.ignore_index=255']),
        (
            'train',
            {
                'train_dataloader.dataset.pipeline.3.ignore_index': 0,
                'train_dataloader.dataset.pipeline.3.cat_max_ratio': 0.75,
            },
            ['train_dataloader.dataset.pipeline.3.ignore_index=255'],
        ),
        (
            'train',
            {'train_dataloader.dataset.pipeline.4': dict(type='RandomRotate', seg_pad_val=0)},
            ['train_dataloader.dataset.pipeline.4.seg_pad_val=255'],
        ),
    ],
)
def test_one_id_of_pixels_without_a_class(phase, options, different):
    cfg = read_config(REAL, {k: v for k, v in options.items() if not isinstance(v, dict)})
    for key, value in options.items():
        if isinstance(value, dict):
            cfg.train_dataloader.dataset.pipeline[int(key.rsplit('.', 1)[-1])] = value
    with pytest.raises(ESCNetError, match='the id of pixels without a class') as caught:
        check_ignore_index(cfg, phase)
    advice = str(caught.value).split(': set ')[1].split(', or')[0]
    assert sorted(advice.split()) == sorted(different)
    for other in set(PHASES) - {phase}:
        check_ignore_index(cfg, other)
    # the message is what helps
    cfg.merge_from_dict({k: int(v) for k, v in (option.split('=') for option in advice.split())})
    check_consistency(cfg, *PHASES)


def test_data_sets_in_wrappers():
    cfg = read_config(REAL)
    inner = dict(cfg.train_dataloader.dataset, ignore_index=65535)
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    both = dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset, repeated])
    for dataset, place in (
        (repeated, 'dataset.dataset has ignore_index=65535'),
        (both, r'dataset\.datasets\.1\.dataset has ignore_index=65535'),
    ):
        cfg.train_dataloader.dataset = dataset
        with pytest.raises(ESCNetError, match=place):
            check_consistency(cfg, 'train')


@pytest.mark.parametrize(
    ('options', 'wrong'),
    [
        ({'train_cfg.val_interval': 90}, 'train_cfg.val_interval'),
        ({'default_hooks.checkpoint.interval': 10}, 'default_hooks.checkpoint.interval'),
    ],
)
def test_a_checkpoint_between_two_updates(options, wrong):
    accumulating = {'optim_wrapper.accumulative_counts': 4}
    check_consistency(read_config(TOY, accumulating), 'train')
    with pytest.raises(ESCNetError, match=rf'but {wrong} may save .* a multiple of 4'):
        check_consistency(read_config(TOY, accumulating | options), 'train')
    check_consistency(read_config(TOY, options), 'train')


@pytest.mark.parametrize('place', ['default_hooks.ema', 'custom_hooks'])
def test_averaged_weights_and_shards(place):
    hook = dict(type='EMAHook')
    options = {place: [hook] if place == 'custom_hooks' else hook}
    check_consistency(read_config(TOY, options), 'train')
    with pytest.raises(ESCNetError, match=r'EMAHook cannot average .* runner_type=FlexibleRunner'):
        check_consistency(read_config(TOY, options | {'runner_type': 'FlexibleRunner'}), 'train')
