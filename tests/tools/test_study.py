"""The study of the toy world, without a training: variants, runs, and what is summed up of them."""

import copy
import functools
import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, load_tool, toy_model_cfg
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.toyworld import experiment
from mmseg_escnet.toyworld.drawing import draw_scenes
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES, with_synonyms

CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'
study = load_tool('tools/toyworld/study.py')
VARIANTS = list(study.VARIANTS)


@pytest.fixture
def call(monkeypatch):
    """Call the tool: call(*options) -> exit status."""

    def call(*options):
        monkeypatch.setattr(sys, 'argv', ['study.py', *map(str, options)])
        return study.main()

    return call


def args_of(out, **kwargs):
    defaults = dict(variants=VARIANTS[:2], seeds=[0, 1], iterations=7, config='a.py', jobs=1)
    return SimpleNamespace(out=out, **{**defaults, **kwargs})


def record_of(value, seed=0, variant=VARIANTS[0], synonyms=(50.0, 40.0)):
    """What a run leaves: every mean is the value plus the number of its column."""
    return dict(
        variant=variant,
        seed=seed,
        metrics={key: value + number for number, key in enumerate(study.COLUMNS)},
        synonyms=dict(first=synonyms[0], mean=synonyms[1]),
    )


# -- variants ------------------------------------------------------------------------------------


BASE = Config.fromfile(CONFIG)


@functools.cache
def merged(variant):
    """The config of a variant; not to be changed."""
    cfg = copy.deepcopy(BASE)
    cfg.merge_from_dict(copy.deepcopy(study.VARIANTS[variant]))
    return cfg


@pytest.mark.parametrize('variant', VARIANTS)
def test_variant_builds_and_is_another_one(variant):
    """On the meta device; what it sets was not set so before."""
    cfg, baseline = merged(variant), merged(study.BASELINE)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 0
    if variant != study.BASELINE:
        assert cfg.to_dict() != baseline.to_dict()
        others = [merged(other).to_dict() for other in VARIANTS if other != variant]
        assert cfg.to_dict() not in others, 'two variants are the same'
    for key, value in study.VARIANTS[variant].items():
        *parts, last = key.split('.')
        part, old = cfg, baseline
        for name in parts:
            part, old = part[name], old[name]
        found = part[last]
        if not isinstance(value, dict):
            assert found == value or list(found) == list(value)
            # a name that is wrong would be a new key, which a dict in a config takes silently
            assert old.get(last, 'by default another') != found


def test_sam_block_at_random_differs_in_its_weights_alone():
    """And the other experiment in how they are trained."""
    literal, trained, own = (
        merged(variant).to_dict()
        for variant in ('SAM block at random', 'SAM block at random, trained', study.BASELINE)
    )
    assert own['model']['neck'].pop('sam_pretrained')
    for cfg in (literal, trained):
        assert cfg['model']['neck'].pop('sam_pretrained') is None
    assert literal == own
    rates = trained['optim_wrapper']['paramwise_cfg']['custom_keys']
    assert rates['sam_block.layers'] == dict(lr_mult=1.0)
    assert rates['backbone'] == dict(lr_mult=0.01)


# -- files ---------------------------------------------------------------------------------------


def test_each_run_has_a_file_of_its_own(tmp_path):
    files = [study.run_file(tmp_path, variant, seed) for variant in VARIANTS for seed in (0, 1, 11)]
    assert len({str(file).lower() for file in files}) == len(files)
    assert not any(set(file.name) & set(' /\\:*?"<>|=') for file in files)


# -- runs ----------------------------------------------------------------------------------------


class Runs:
    """In place of subprocess.run: a run writes its record, or fails."""

    def __init__(self, failing=()):
        self.asked, self.environments, self.failing = [], [], failing
        self.lock = threading.Lock()

    def __call__(self, command, env, capture_output, text):
        assert command[:2] == [sys.executable, study.__file__]
        with self.lock, pytest.MonkeyPatch.context() as patch:  # two threads at a time
            patch.setattr(sys, 'argv', command[1:])
            args = study.parse_args()
        variant, seed = args.one[0], int(args.one[1])
        self.asked.append((variant, seed))
        self.environments.append(env)
        self.last = args
        if variant in self.failing:
            error = 'Traceback ...\nerror: no weights\n'
            return SimpleNamespace(returncode=2, stdout='out\n', stderr=error)
        file = study.run_file(args.out, variant, seed)
        file.write_text(json.dumps(record_of(10.0 + seed, seed, variant)))
        return SimpleNamespace(returncode=0, stdout='out\n', stderr='')


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    runs = Runs()
    monkeypatch.setattr(study.subprocess, 'run', runs)
    return runs


def test_records_that_exist_are_not_run_again(runs, tmp_path):
    args = args_of(tmp_path, seeds=[0, 1, 2])
    (tmp_path / 'runs').mkdir()
    there = study.run_file(tmp_path, args.variants[1], 1)
    there.write_text(json.dumps(record_of(99.0)))
    assert study.run_all(args) == []
    wanted = [(variant, seed) for seed in args.seeds for variant in args.variants]
    wanted.remove((args.variants[1], 1))
    assert runs.asked == wanted  # a whole seed after the other
    assert json.loads(there.read_text()) == record_of(99.0)
    config = str(tmp_path / 'config.py')
    assert (runs.last.config, runs.last.out, runs.last.iterations) == (config, tmp_path, 7)
    assert all(env['OMP_NUM_THREADS'] == '1' for env in runs.environments)
    for variant, seed in wanted:
        log = study.run_file(tmp_path, variant, seed).with_suffix('.log')
        assert log.read_text() == 'out\n'
    runs.asked.clear()
    assert study.run_all(args) == []
    assert runs.asked == []


def test_failed_runs_are_reported(runs, tmp_path):
    args = args_of(tmp_path, jobs=2)
    (tmp_path / 'runs').mkdir()
    runs.failing = (args.variants[1],)
    failed = study.run_all(args)
    logs = [study.run_file(tmp_path, args.variants[1], seed).with_suffix('.log') for seed in (0, 1)]
    assert sorted(failed) == [
        f'{args.variants[1]}, seed {seed}: error: no weights (see {log})'
        for seed, log in enumerate(logs)
    ]
    assert logs[1].read_text() == 'out\nTraceback ...\nerror: no weights\n'
    assert list(study.collect(args)) == [args.variants[0]]


def test_whole_study(runs, call, tmp_path, monkeypatch, capsys):
    scenes = []
    monkeypatch.setattr(
        study, 'draw_scenes', lambda root, train, val, workers: scenes.append((root, (train, val)))
    )
    options = ['--out', tmp_path, '--variants', *VARIANTS[:3], '--seeds', 0, 5, '--iterations', 7]
    runs.failing = (VARIANTS[2],)
    assert call(*options, '--scenes', 6, 4) == 1
    assert scenes == [(tmp_path / 'scenes', (6, 4))]
    printed = capsys.readouterr()
    assert printed.err.count('error: ') >= 2
    assert VARIANTS[2] in printed.err
    assert VARIANTS[2] not in printed.out
    rows = {row[0]: row for row in map(cells_of, printed.out.splitlines())}
    assert rows[VARIANTS[1]][1:3] == ['2', '12.5 ± 3.5']
    runs.failing = ()
    runs.asked.clear()
    with pytest.raises(ESCNetError, match='made with another scenes: give another --out'):
        call(*options)
    with pytest.raises(ESCNetError, match='another iterations and scenes'):
        call(*options[:-1], 8)
    assert runs.asked == []
    twice = ['--variants', *VARIANTS[:3], VARIANTS[0], '--seeds', 0, 5, 0]
    assert call(*options, *twice, '--scenes', 6, 4) == 0
    with pytest.raises(ESCNetError, match='made with another config'):
        call(*options, '--scenes', 6, 4, '--cfg-options', 'model.neck.num_blocks=3')
    assert Config.fromfile(tmp_path / 'config.py').model == Config.fromfile(CONFIG).model
    assert sorted(runs.asked) == [(VARIANTS[2], 0), (VARIANTS[2], 5)]
    rows = map(cells_of, (tmp_path / 'study.md').read_text().splitlines())
    assert [VARIANTS[2], '2'] in [row[:2] for row in rows]


def test_study_of_which_nothing_came(runs, call, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, 'draw_scenes', lambda *_, **__: None)
    runs.failing = VARIANTS
    assert call('--out', tmp_path, '--variants', *VARIANTS[:2], '--seeds', 0) == 1
    assert 'error: no weights' in capsys.readouterr().err


def test_unknown_variant(runs, call, tmp_path):
    with pytest.raises(ESCNetError) as caught:
        call('--out', tmp_path / 'out', '--variants', VARIANTS[1], 'K = 7', 'K = 8')
    message = str(caught.value)
    assert message.startswith("The study has no variant 'K = 7': choose among ")
    assert all(variant in message for variant in VARIANTS)
    assert '\n' not in message
    assert message.endswith('.')
    assert not list(tmp_path.iterdir())
    assert runs.asked == []
    with pytest.raises(ESCNetError, match="no variant 'K = 7'"):
        call('--out', tmp_path / 'out', '--one', 'K = 7', '0')


# -- one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize('variant', [study.BASELINE, VARIANTS[2]])
def test_one_run_without_its_training(variant, tmp_path, monkeypatch):
    """What it measures, and the record of it."""
    init_default_scope('mmseg')
    draw_scenes(tmp_path / 'scenes', train=1, val=2)
    (tmp_path / 'runs').mkdir()
    configs, measured = [], []
    model = MODELS.build(toy_model_cfg())

    def train(cfg):
        configs.append(cfg)
        return model, None, dict(loss=[9.0] * 10 + [2.0] * 10 + [3.0] * 10)

    def fake_measure(network, dataset, evaluator, *, words=None):
        names = list(words or dataset.metainfo['classes'])
        measured.append((network.text_encoder.synonyms, names))
        assert dataset.metainfo['classes'] == ALL_NAMES, 'the metric knows classes by their names'
        assert len(dataset) == 2
        return experiment.Measurement({'mIoU_gt': float(len(measured))}, np.zeros(72))

    monkeypatch.setattr(experiment, 'train', train)
    monkeypatch.setattr(experiment, 'measure', fake_measure)
    threads = torch.get_num_threads()
    try:
        study.run_one(args_of(tmp_path, config=str(CONFIG)), variant, 4)
    finally:
        torch.set_num_threads(threads)
    synonyms = [with_synonyms(name) for name in ALL_NAMES]
    expected = [('first', list(ALL_NAMES)), ('mean', synonyms)]
    assert measured == expected[: 1 + (variant == study.BASELINE)]
    (cfg,) = configs
    assert cfg.randomness.seed == 4
    assert cfg.train_cfg.max_iters == 7
    assert cfg.train_dataloader.dataset.data_root == f'{tmp_path}/scenes/'
    file = study.run_file(tmp_path, variant, 4)
    assert cfg.work_dir == str(file.with_suffix(''))
    record = json.loads(file.read_text())
    assert (record['variant'], record['seed']) == (variant, 4)
    assert record['loss'] == 2.5
    assert record['metrics'] == {'mIoU_gt': 1.0}
    synonyms = dict(first=1.0, mean=2.0) if variant == study.BASELINE else None
    assert record.get('synonyms') == synonyms


# -- summary -------------------------------------------------------------------------------------


def cells_of(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_summary(tmp_path, capsys):
    first, second = VARIANTS[:2]
    found = {
        first: [
            record_of(value, seed, synonyms=(50.0 + seed, 40.0))
            for seed, value in enumerate((10.0, 12.0, 14.0))
        ],
        second: [record_of(20.0, 1, second)],
    }
    study.write_summary(args_of(tmp_path), found)
    text = (tmp_path / 'study.md').read_text()
    assert capsys.readouterr().out == text
    head, _, *rows, empty, last = text.splitlines()
    assert cells_of(head) == ['variant', 'runs', *study.COLUMNS.values()]
    expected = [f'{12.0 + number:.1f} ± 2.0' for number in range(len(study.COLUMNS))]
    assert cells_of(rows[0]) == [first, '3', *expected]
    expected = [f'{20.0 + number:.1f}' for number in range(len(study.COLUMNS))]
    assert cells_of(rows[1]) == [second, '1', *expected]
    assert empty == ''
    assert last == 'Names with synonyms, all names: first 51.0 ± 1.0, mean 40.0 ± 0.0.'
    assert repr(json.loads((tmp_path / 'study.json').read_text())) == repr(found)
    picture = np.asarray(Image.open(tmp_path / 'study.png').convert('L'))
    assert picture.shape[1] > 600
    assert picture.std() > 5


def test_summary_without_the_baseline(tmp_path, capsys):
    study.write_summary(args_of(tmp_path), {VARIANTS[1]: [record_of(20.0)]})
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 3
    assert 'synonyms' not in text


def test_columns_are_means_of_the_metric():
    """Those that the config asks for, in percent."""
    evaluator = Config.fromfile(CONFIG).test_evaluator
    known = {'mIoU_gt', *(f'mIoU_{group}' for group in evaluator.groups)}
    assert set(study.COLUMNS) == known
