"""Zero-shot benchmarks one after the other: words, figures, interruptions, files."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import toy_model_cfg
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.errors import SeveralErrors
from mmseg_escnet.evaluation import zero_shot_runs
from mmseg_escnet.evaluation.zero_shot_benchmarks import Benchmark
from mmseg_escnet.evaluation.zero_shot_runs import benchmark_config, evaluate_benchmarks
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES, SEEN_NAMES
from mmseg_escnet.version import __version__

# several tests in one process
pytestmark = pytest.mark.filterwarnings('ignore:.*instance named of visualizer')
# B and C have as many words as each other: what is stale would not show by its number
WORDS = {
    'A': list(ALL_NAMES[:6]),
    'B': list(ALL_NAMES[3:8]),
    'C': list(ALL_NAMES[7:2:-1]),
}
BENCHMARKS = [Benchmark(key, f'{key}.py', len(words)) for key, words in WORDS.items()]
DATA = """
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ToyWorldDataset',
        metainfo=dict(classes={words}),
        data_root='{root}',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[
            dict(type='LoadImage'),
            dict(type='Resize', scale=(64, 64), keep_ratio=False),
            dict(type='LoadLabelMap'),
            dict(type='PackSegInputs'),
        ],
        test_mode=True,
    ),
)
test_evaluator = dict(type='OpenVocabIoUMetric', iou_metrics=['mIoU'], seen='coco_stuff171')
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Configs and data of three benchmarks, and a checkpoint."""
    init_default_scope('mmseg')
    monkeypatch.setattr(
        'mmseg_escnet.evaluation.zero_shot_runs.config_folder', lambda: tmp_path / 'configs'
    )
    (tmp_path / 'configs/_base_/datasets').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (key, words) in enumerate(WORDS.items()):
        root = tmp_path / 'data' / key
        for kind in ('images/x', 'labels/x', 'images/y', 'labels/y'):
            (root / kind).mkdir(parents=True)
        for name in ('x/1', 'y/1', 'y/2'):
            picture = rng.integers(0, 256, (6, 5, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(picture).save(root / f'images/{name}.png')
            label = rng.integers(number, 8, (6, 5), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(label).save(root / f'labels/{name}.png')
        text = DATA.format(words=words, root=root)
        (tmp_path / f'configs/_base_/datasets/{key}.py').write_text(text)
    torch.manual_seed(0)
    model = MODELS.build(toy_model_cfg(num_blocks=1))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'iter_8.pth')
    return tmp_path


@pytest.fixture
def cfg(place) -> Config:
    """A config like those of the repository, at toy size."""
    base = Path(__file__).resolve().parents[2] / 'configs/toyworld/escnet_toy.py'
    cfg = Config.fromfile(base)
    cfg.model = toy_model_cfg(num_blocks=1)
    cfg.work_dir = str(place / 'work')
    cfg.launcher = 'none'
    cfg.log_level = logging.ERROR
    return cfg


def evaluate(cfg, place, keys='ABC', **kwargs) -> dict:
    """Figures by key, read from the file."""
    chosen = [benchmark for key in keys for benchmark in BENCHMARKS if benchmark.key == key]
    checkpoint = kwargs.pop('checkpoint', str(place / 'iter_8.pth'))
    evaluate_benchmarks(cfg, chosen, checkpoint=checkpoint, **kwargs)
    return read(place)


def read(place, name='benchmarks_iter_8.json') -> dict:
    entries = json.loads((place / 'work' / name).read_text())['benchmarks']
    return {key: entry['metrics'] for key, entry in entries.items()}


def run_alone(cfg, place, key) -> dict[str, float]:
    """A runner, a model and a data set of its own, without what is under test."""
    data = Config.fromfile(place / f'configs/_base_/datasets/{key}.py')
    cfg = Config(cfg.to_dict())
    cfg.test_dataloader, cfg.test_evaluator = data.test_dataloader, data.test_evaluator
    cfg.test_evaluator.seen = 'toyworld_seen'
    cfg.load_from = str(place / 'iter_8.pth')
    cfg.experiment_name = f'{place.name}_{key}'
    return Runner.from_cfg(cfg).test()


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Keys of the benchmarks that are run; ``ran.stop`` is interrupted, others perhaps made up."""

    class Ran(list):
        stop = None
        made_up = False

    keys, build = Ran(), zero_shot_runs.build_test_runner

    def spy(cfg):
        key = Path(cfg.work_dir).name
        if key == keys.stop:
            raise KeyboardInterrupt
        keys.append(key)
        return SimpleNamespace(test=lambda: dict(mIoU_gt=1.5)) if keys.made_up else build(cfg)

    monkeypatch.setattr(zero_shot_runs, 'build_test_runner', spy)
    return keys


def test_same_figures_as_one_by_one(cfg, place, capsys):
    found = evaluate(cfg, place, command='what was called')
    output = capsys.readouterr().out
    kept = json.loads((place / 'work/benchmarks_iter_8.json').read_text())['benchmarks']
    assert {entry['command'] for entry in kept.values()} == {'what was called'}
    assert {entry['version'] for entry in kept.values()} == {__version__}
    assert {entry['published_images'] for entry in kept.values()} == {3}
    for key in WORDS:
        alone = run_alone(cfg, place, key)
        # old kernels differ by batch
        assert found[key] == pytest.approx(alone, nan_ok=True, abs=0.1), key
        assert f'| {key} |' in ' '.join(output.split())
    assert len({figures['fwIoU'] for figures in found.values()}) == 3
    assert f'kept in {place / "work" / "benchmarks_iter_8.json"}' in output


def test_the_words_are_those_of_each_benchmark(cfg, place, monkeypatch):
    words = []
    segmentor = type(MODELS.build(toy_model_cfg(num_blocks=1)))
    predict = segmentor.predict

    def spy(self, *args):
        words.append(self.vocabulary.names)
        return predict(self, *args)

    monkeypatch.setattr(segmentor, 'predict', spy)
    evaluate(cfg, place, 'BC')
    assert words == 3 * [tuple(WORDS['B'])] + 3 * [tuple(WORDS['C'])]


def test_no_hook_that_sets_the_words(cfg, place):
    cfg.custom_hooks = []
    with pytest.raises(ESCNetError, match='config has no VocabularyHook'):
        evaluate(cfg, place)


def test_absent_data_is_skipped_and_said(cfg, place, capsys, ran):
    (place / 'data/B/labels').rename(place / 'data/B/elsewhere')
    evaluate(cfg, place)
    assert ran == ['A', 'C']
    (line,) = (line for line in capsys.readouterr().out.splitlines() if ': skipped.' in line)
    assert line.startswith('B: skipped. The label directory')
    assert 'make_scenes.py' in line
    for key in 'AC':
        (place / f'data/{key}/images').rename(place / f'data/{key}/gone')
    with pytest.raises(SeveralErrors) as caught:
        evaluate(cfg, place)
    beginnings = [' '.join(sentence.split()[:3]) for sentence in caught.value.sentences]
    assert beginnings == ['A: The image', 'B: The label', 'C: The image']


def test_wrong_data_is_an_error_before_anything_is_run(cfg, place, ran):
    """A label map is missing, of another size, or holds another id: not absent, but wrong."""
    label = place / 'data/C/labels/x/1.png'
    for change, message in [
        (label.unlink, 'C: 1 of 3 images have no label map'),
        (lambda: Image.new('L', (7, 7)).save(label), r'C: .*1\.png is 7x7 pixels'),
        (lambda: Image.new('L', (40, 48), 99).save(label), r'C: .*1\.png holds id 99'),
    ]:
        change()
        with pytest.raises(ESCNetError, match=message):
            evaluate(cfg, place)
        assert ran == []


def test_another_number_of_words(cfg, place):
    other = Benchmark('A', 'A.py', 7)
    with pytest.raises(ESCNetError, match=r'A has 7 class names, but the data set of A\.py has 6'):
        benchmark_config(cfg, other)


def test_an_interruption_keeps_what_is_finished(cfg, place, ran, capsys):
    ran.stop, ran.made_up = 'C', True
    with pytest.raises(
        KeyboardInterrupt, match=r'benchmarks are kept in .*json; .* resumes with C'
    ):
        evaluate(cfg, place)
    finished = read(place)
    assert set(finished) == {'A', 'B'}
    ran.stop = None
    found = evaluate(cfg, place)
    assert ran == ['A', 'B', 'C']
    assert {key: found[key] for key in 'AB'} == finished
    assert 'A: finished before' in capsys.readouterr().out
    evaluate(cfg, place)
    assert ran == ['A', 'B', 'C'], 'nothing was left to do'


def change_weights(cfg, place):
    content = torch.load(place / 'iter_8.pth', weights_only=True)
    content['state_dict']['backbone.clip.logit_scale'] += 1e-3
    torch.save(content, place / 'iter_8.pth')


def change_protocol(cfg, place):
    cfg.model.test_cfg = dict(mode='windows', crop_size=(48, 48), stride=(32, 32))


def change_size(cfg, place):
    path = place / 'configs/_base_/datasets/A.py'
    path.write_text(path.read_text().replace('(64, 64)', '(48, 64)'))


def change_words(cfg, place):
    path = place / 'configs/_base_/datasets/A.py'
    path.write_text(path.read_text().replace(WORDS['A'][0], ALL_NAMES[20]))


def change_metric(cfg, place):
    path = place / 'configs/_base_/datasets/A.py'
    path.write_text(path.read_text().replace("['mIoU']", "['mIoU'], background_from=2"))


def add_image(cfg, place):
    for kind in ('images', 'labels'):
        source = place / f'data/A/{kind}/x/1.png'
        (place / f'data/A/{kind}/x/9.png').write_bytes(source.read_bytes())


@pytest.mark.parametrize(
    'change',
    [change_weights, change_protocol, change_size, change_words, change_metric, add_image],
)
def test_what_differs_is_measured_again(cfg, place, ran, change):
    ran.made_up = True
    evaluate(cfg, place, 'A')
    cfg.default_hooks.logger.interval = 7  # of no consequence
    evaluate(cfg, place, 'A')
    assert ran == ['A']
    change(cfg, place)
    evaluate(cfg, place, 'A')
    assert ran == ['A', 'A']


def test_augmentation_has_a_file_and_figures_of_its_own(cfg, place, ran):
    cfg.model.test_cfg = dict(mode='windows', crop_size=(48, 48), stride=(32, 32))
    plain = evaluate(cfg, place, 'AB')
    evaluate(cfg, place, 'AB', tta=True)
    augmented = read(place, 'benchmarks_iter_8_tta.json')
    assert ran == ['A', 'B'] * 2
    assert augmented['A'] != plain['A']
    evaluate(cfg, place, 'AB', tta=True)
    assert len(ran) == 4, 'finished, and its identity is the same in another call'


def test_predictions_and_pictures_in_folders_of_their_own(cfg, place, ran):
    evaluate(cfg, place, 'AB')
    out, shown = place / 'out', place / 'shown'
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    evaluate(cfg, place, 'AB', out=str(out), show_dir=str(shown))
    assert ran == ['A', 'B'] * 2, 'finished, but without the predictions asked for'
    for key in 'AB':
        files = {path.relative_to(out / key).as_posix() for path in (out / key).rglob('*.*')}
        assert files == {'names.json', 'x/1.png', 'y/1.png', 'y/2.png'}
        names = json.loads((out / key / 'names.json').read_text())
        assert (names['dataset'], names['names']) == (key, WORDS[key])
        assert len(list((shown / key).rglob('*.png'))) >= 2
    evaluate(cfg, place, 'AB', out=str(out), show_dir=str(shown))
    assert len(ran) == 4
    (out / 'B/names.json').unlink()
    evaluate(cfg, place, 'AB', out=str(out))
    assert ran[4:] == ['B']


def test_seen_is_what_the_model_was_trained_on(cfg, place):
    """Not what the data set config says; of a wrapper the names are not known without its data."""
    found = benchmark_config(cfg, BENCHMARKS[0])
    assert found.test_evaluator.seen == list(SEEN_NAMES)
    train = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=train, times=2)
    assert benchmark_config(cfg, BENCHMARKS[0]).test_evaluator.seen == 'coco_stuff171'


def test_overrides_of_data_and_metric_hold_for_every_benchmark(cfg):
    overrides = {
        'test_dataloader.num_workers': 3,
        'test_dataloader.dataset.pipeline.1.scale': (32, 48),
        'test_evaluator.iou_metrics': ['mDice'],
        'model.test_cfg.mode': 'of the model, merged before',
    }
    for benchmark in BENCHMARKS:
        found = benchmark_config(cfg, benchmark, overrides)
        assert found.test_dataloader.num_workers == 3
        assert found.test_dataloader.dataset.pipeline[1].scale == (32, 48)
        assert found.test_evaluator.iou_metrics == ['mDice']
        assert found.model == cfg.model
        assert found.test_dataloader.dataset.metainfo.classes == WORDS[benchmark.key]


def test_a_damaged_file_of_results(cfg, place, ran):
    (place / 'work').mkdir()
    for content in ('', '[]', '{}', '{"benchmarks": 3}'):
        (place / 'work/benchmarks_iter_8.json').write_text(content)
        with pytest.raises(ESCNetError, match=r'benchmarks_iter_8\.json is not a file of'):
            evaluate(cfg, place)
    assert ran == []


def test_what_is_kept_says_what_it_was_measured_with(cfg, place):
    cfg.model.test_cfg = dict(mode='windows', crop_size=(48, 48), stride=(32, 32))
    evaluate(cfg, place, 'A')
    content = json.loads((place / 'work/benchmarks_iter_8.json').read_text())
    entry = content['benchmarks']['A']
    assert entry['images'] == 3
    assert entry['checkpoint'] == str(place / 'iter_8.pth')
    assert len(entry['checkpoint_sha256']) == len(entry['settings']) == 64
    assert entry['protocol']['test_cfg']['stride'] == [32, 32]
    assert entry['protocol']['pipeline'][1]['scale'] == [64, 64]
