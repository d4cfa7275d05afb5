"""compat: mmcv.ops without compiled operators, and MMEngine's checkpoints under weights_only."""

import importlib
import importlib.util
import inspect
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from mmseg_escnet import compat

ROOT = Path(__file__).resolve().parents[1]
FORK = mmseg.__version__ >= '1.3'  # onedl-mmsegmentation
WEIGHTS_ONLY = torch.__version__ >= '2.6'  # torch compares its version as a version
weights_only = pytest.mark.skipif(not WEIGHTS_ONLY, reason='torch < 2.6 trusts every file')


# mmcv.ops


@pytest.fixture
def ops(monkeypatch):
    """The stand-in, as an environment with mmcv-lite gets it (whatever mmcv is installed here)."""
    import mmcv

    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)  # "import mmcv._ext" fails
    monkeypatch.delitem(sys.modules, 'mmcv.ops', raising=False)
    monkeypatch.setattr(mmcv, 'ops', None, raising=False)
    monkeypatch.setattr(compat, '_mmseg_guards_its_imports', lambda: False)
    compat._provide_mmcv_ops()
    return sys.modules['mmcv.ops']


@pytest.mark.parametrize('guarded', [False, True], ids=['mmsegmentation', 'onedl-mmsegmentation'])
def test_only_an_mmseg_that_needs_the_stand_in_gets_it(monkeypatch, tmp_path, guarded):
    """One like each of the two: the import that fails, as it is or expected to."""
    source = 'from mmcv.ops import sigmoid_focal_loss\n'
    if guarded:
        source = f'try:\n    {source}except ModuleNotFoundError:\n    sigmoid_focal_loss = None\n'
    losses = tmp_path / 'mmseg' / 'models' / 'losses'
    losses.mkdir(parents=True)
    (tmp_path / 'mmseg' / '__init__.py').touch()
    (losses / 'focal_loss.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'mmseg')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    monkeypatch.delitem(sys.modules, 'mmcv.ops', raising=False)
    monkeypatch.setattr(sys.modules['mmcv'], 'ops', None, raising=False)
    compat._provide_mmcv_ops()
    assert ('mmcv.ops' in sys.modules) is not guarded


def test_mmseg_imports_without_warnings():
    """All of MMSegmentation, and MMEngine's pkg_resources, in a new process."""
    code = (
        'import sys, mmseg_escnet.compat, mmseg.models, mmseg.apis, mmseg.datasets, mmseg.engine\n'
        'from mmengine.utils import is_installed\n'
        'assert is_installed("torch")\n'
        'print(type(sys.modules.get("mmcv.ops")).__name__)'
    )
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    expected = 'NoneType' if FORK else '_OpsStandIn'
    if importlib.util.find_spec('mmcv._ext') is None:
        assert done.stdout == f'{expected}\n', done.stdout


def test_configs_of_mmsegmentation_are_found_by_name(tmp_path):
    """onedl-mmengine looks for a distribution of the old name."""
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'mmseg::_base_/default_runtime.py'\n")
    assert Config.fromfile(path).default_scope == 'mmseg'


def test_every_spelling_of_the_import_gives_the_same_class(ops):
    import mmcv
    import mmcv.ops
    from mmcv.ops import DeformConv2d

    assert sys.modules['mmcv.ops'] is ops
    assert mmcv.ops is ops
    assert isinstance(DeformConv2d, type)
    assert mmcv.ops.DeformConv2d is DeformConv2d
    assert DeformConv2d.__name__ == 'DeformConv2d'
    assert pickle.loads(pickle.dumps(DeformConv2d)) is DeformConv2d


def test_an_operator_cannot_be_called_even_in_a_subclass(ops):
    class Custom(ops.SyncBatchNorm, nn.Module):
        def __init__(self):
            super().__init__()

    with pytest.raises(ImportError, match='SyncBatchNorm'):
        Custom()
    with pytest.raises(ImportError, match=r'mmcv\.ops\.nms needs the compiled .* pip install'):
        ops.nms(torch.zeros(1), threshold=0.5)


def test_the_stand_in_is_an_ordinary_module_to_introspection(ops):
    for name in ('__path__', '__file__', '__wrapped__', '_private'):
        assert not hasattr(ops, name)
    assert inspect.getmodule(ops.nms) is ops
    assert importlib.util.find_spec('mmcv.ops') is ops.__spec__
    with pytest.raises(ModuleNotFoundError, match='not a package'):
        importlib.import_module('mmcv.ops.nms')


def test_mmcv_can_still_describe_its_environment(ops):
    from mmcv.utils import collect_env

    assert collect_env()['MMCV Compiler'] == 'n/a'


def test_optimizer_constructor_with_the_stand_in(ops, monkeypatch):
    """MMEngine asks isinstance(module, (DeformConv2d, ...)) when it believes in a full mmcv."""
    module = 'mmengine.optim.optimizer.default_constructor'
    monkeypatch.setattr(f'{module}.mmcv_full_available', lambda: True)
    constructor = DefaultOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        paramwise_cfg=dict(bias_lr_mult=2.0),
    )
    wrapper = constructor(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert len(wrapper.optimizer.param_groups) == 4


def test_a_full_mmcv_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', type(sys)('mmcv._ext'))
    monkeypatch.delitem(sys.modules, 'mmcv.ops', raising=False)
    compat._provide_mmcv_ops()
    assert 'mmcv.ops' not in sys.modules


def test_compiled_operators_that_do_not_load_are_replaced_and_say_why(monkeypatch):
    import mmcv

    def fails(name):
        raise ImportError(f'{name}: undefined symbol: _ZN3c10')

    monkeypatch.setattr(importlib, 'import_module', fails)
    monkeypatch.delitem(sys.modules, 'mmcv.ops', raising=False)
    monkeypatch.setattr(mmcv, 'ops', None, raising=False)
    compat._provide_mmcv_ops()
    with pytest.raises(ImportError, match='undefined symbol'):
        sys.modules['mmcv.ops'].nms()


# Checkpoints


class TinyModel(BaseModel):
    """Three weights and a batch norm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def forward(self, x, mode='tensor'):
        out = self.layers(x)
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


class TinyMetric(BaseMetric):
    """Scores of the numpy types that metrics return."""

    default_prefix = 'tiny'

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(score=np.float64(33.25), count=np.int64(3), single=np.float32(0.5))


def make_runner(work_dir: Path, *, iterations: int, resume: bool) -> Runner:
    """AdamW, a scheduler, EMA, validation, the best checkpoint: all that is in a checkpoint."""
    loader = dict(
        dataset=[dict(x=torch.randn(3)) for _ in range(8)],
        sampler=dict(type='InfiniteSampler', shuffle=True),
        batch_size=2,
        collate_fn=dict(type='default_collate'),
    )
    checkpoint = dict(by_epoch=False, interval=4, save_best='tiny/score', rule='greater')
    return Runner(
        model=TinyModel(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader={**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)},
        val_evaluator=[TinyMetric()],
        val_cfg=dict(),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=4),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=16, by_epoch=False),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=2, log_metric_by_epoch=False),
            checkpoint=dict(type='CheckpointHook', max_keep_ckpts=2, **checkpoint),
        ),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'{work_dir.name}_{iterations}',
        default_scope='mmseg',
        log_level='ERROR',
        resume=resume,
    )


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory) -> Path:
    """Of a run of eight iterations."""
    path = tmp_path_factory.mktemp('run')
    make_runner(path, iterations=8, resume=False).train()
    return path


def losses(checkpoint: dict) -> np.ndarray:
    return checkpoint['message_hub']['log_scalars']['train/loss'].data[0]


@weights_only
def test_checkpoint_of_a_real_run_loads_with_weights_only(work_dir):
    path = work_dir / 'iter_8.pth'
    safe = torch.load(path, weights_only=True)
    trusted = torch.load(path, weights_only=False)  # our own file, from a moment ago
    history = safe['message_hub']['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer
    assert type(losses(safe)) is np.ndarray
    assert losses(safe).dtype == np.float64
    assert len(losses(safe)) == 8
    np.testing.assert_array_equal(losses(safe), losses(trusted))
    assert history.statistics('mean') == losses(safe).mean()
    info = safe['message_hub']['runtime_info']
    assert info['best_score'] == 33.25
    assert info == trusted['message_hub']['runtime_info']


def test_training_resumes_from_its_own_checkpoint(work_dir):
    runner = make_runner(work_dir, iterations=12, resume=True)
    runner.train()
    assert runner.iter == 12
    history = runner.message_hub.log_scalars['train/loss'].data[0]
    assert len(history) == 12  # eight from the checkpoint, four new
    assert (work_dir / 'iter_12.pth').is_file()


def rename_globals(path: Path, pattern: bytes, replacement: bytes) -> int:
    """Rewrite names in a checkpoint's pickle; the number of places changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    changed = 0
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            if name.endswith('data.pkl'):
                data, changed = re.subn(pattern, replacement, data)
            archive.writestr(name, data)
    return changed


@weights_only
@pytest.mark.parametrize('module', [b'numpy.core', b'numpy._core'])
def test_checkpoints_travel_between_numpy_1_and_2(tmp_path, module):
    path = tmp_path / 'history.pth'
    torch.save(dict(history=HistoryBuffer([1.0, 2.5], [1, 1]), best=np.float64(0.75)), path)
    assert rename_globals(path, rb'numpy\._?core(?=\.multiarray)', module) == 2
    loaded = torch.load(path, weights_only=True)
    np.testing.assert_array_equal(loaded['history'].data[0], [1.0, 2.5])
    np.testing.assert_array_equal(loaded['history'].data[1], [1, 1])
    assert loaded['best'] == 0.75


@weights_only
def test_numbers_of_every_type(tmp_path):
    arrays = [
        np.array([[0, 1], [1, 0]], kind) for kind in ['?', 'i1', 'u2', 'i4', 'i8', 'f2', 'f4', 'f8']
    ]
    torch.save([(array, array[0, 1]) for array in arrays], tmp_path / 'numbers.pth')
    loaded = torch.load(tmp_path / 'numbers.pth', weights_only=True)
    for (found, scalar), array in zip(loaded, arrays, strict=True):
        np.testing.assert_array_equal(found, array, strict=True)
        assert (scalar, scalar.dtype) == (1, array.dtype)


@weights_only
def test_other_libraries_allow_lists_do_not_get_in_the_way(tmp_path):
    """Others allow numpy's own classes; whichever of the two a name leads to, the file loads."""
    torch.save(HistoryBuffer([1.0, 2.0], [1, 1]), tmp_path / 'history.pth')
    reconstruct = np.zeros(1).__reduce__()[0]
    with torch.serialization.safe_globals([np.ndarray, np.dtype, reconstruct]):
        loaded = torch.load(tmp_path / 'history.pth', weights_only=True)
    np.testing.assert_array_equal(loaded.data[0], [1.0, 2.0])


# Hostile checkpoints


class Payload:
    """Pickles as a call."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def save_hostile(path: Path, payload: Payload) -> str:
    torch.save(dict(state_dict=dict(TinyModel().state_dict()), meta=payload), path)
    return str(path)


@weights_only
@pytest.mark.parametrize('function', [os.system, eval, exec])
def test_a_payload_does_not_run(tmp_path, function):
    evidence = tmp_path / 'evidence'
    argument = f'open({str(evidence)!r}, "w")' if function is not os.system else f'> "{evidence}"'
    path = save_hostile(tmp_path / 'hostile.pth', Payload(function, argument))

    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(TinyModel(), path)
    assert not evidence.exists()

    torch.load(path, weights_only=False)  # and it is not a dud
    assert evidence.exists()


@weights_only
@pytest.mark.parametrize(
    'payload',
    [
        Payload(getattr, HistoryBuffer, '__init__'),
        Payload(getattr, HistoryBuffer([1.0], [1]), 'mean'),
        Payload(getattr, np.ndarray, 'mean'),
        Payload(np.ndarray, (1,), 'O', bytearray(8)),  # would make an object out of an address
        Payload(np.dtype, 'O'),
        Payload(np.dtype, [('field', 'O')]),
        Payload(np.dtype, '>f8'),
    ],
    ids=['init', 'bound', 'other class', 'buffer', 'object dtype', 'structured', 'swapped'],
)
def test_allowed_names_do_only_what_mmengine_needs(tmp_path, payload):
    path = save_hostile(tmp_path / 'hostile.pth', payload)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@weights_only
def test_a_dtype_cannot_be_tampered_with(tmp_path):
    """State 63 would make numpy take the bytes of a float for a Python object."""
    state = (3, '<', None, None, None, 8, 8, 63)
    payload = Payload(np.dtype, 'f8', False, True, state=state)
    path = save_hostile(tmp_path / 'hostile.pth', payload)
    dtype = torch.load(path, weights_only=True)['meta']
    assert dtype is np.dtype('f8')
    assert dtype.flags == 0
