"""A model of full width, random weights, on all six benchmarks, from raw folders as published.

The figures are compared with those of a confusion matrix that is filled from the raw label files
and the saved predictions, by nothing of what is under test.
"""

import json

import numpy as np
import pytest
import scipy.io
import torch
from conftest import ROOT, small_clip_cfg, write_openai_clip
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from tool_processes import run_tool

from mmseg_escnet.datasets import load_benchmark, vocabulary_names

CONFIG = ROOT / 'configs/escnet/escnet_vitb16_coco-stuff.py'
STEMS = ('2008_000001', '2008_000002')
IGNORED = -1


def picture(rng, height, width):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def blocks(rng, ids, height, width):
    """A map of some of the ids, and of all of them in a row if there is room."""
    return (
        rng.choice(ids, (-(-height // 8), -(-width // 8)))
        .repeat(8, 0)
        .repeat(8, 1)[:height, :width]
    )


def write_ade_full(folder, rng):
    """ADE20K_2021_17_01: index // 256 * 10 in red, % 256 in green; 0 is no class."""
    place = folder / 'images/ADE/validation/urban/street'
    place.mkdir(parents=True)
    raw_ids = [0, *(entry.raw_id for entry in load_benchmark('ade847'))]
    truths = {}
    for number, size in enumerate(((70, 90), (64, 64)), 1):
        stem = f'ADE_val_{number:08d}'
        index = blocks(rng, raw_ids, *size)
        pixels = np.stack([index // 256 * 10, index % 256, np.zeros_like(index)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f'{stem}_seg.png')
        picture(rng, *size).save(place / f'{stem}.jpg')
        lookup = {raw_id: i for i, raw_id in enumerate(raw_ids[1:])}
        truths[stem] = np.vectorize(lambda raw, lookup=lookup: lookup.get(raw, IGNORED))(index)
    return truths


def write_ade_150(folder, rng):
    """ADEChallengeData2016: 1 to 150, 0 is no class."""
    for kind in ('images', 'annotations'):
        (folder / kind / 'validation').mkdir(parents=True)
    truths = {}
    for number in (1, 2):
        stem = f'ADE_val_{number:08d}'
        ids = blocks(rng, np.arange(151), 60 + number, 80)
        Image.fromarray(ids.astype(np.uint8)).save(folder / f'annotations/validation/{stem}.png')
        picture(rng, *ids.shape).save(folder / f'images/validation/{stem}.jpg')
        truths[stem] = ids - 1  # 0 becomes IGNORED
    return truths


def write_context(folder, rng):
    """VOC2010 with PASCAL-Context: LabelMap of 1 to 459, 0 is no class."""
    for kind in ('trainval', 'JPEGImages', 'ImageSets/Main'):
        (folder / kind).mkdir(parents=True)
    (folder / 'ImageSets/Main/val.txt').write_text('\n'.join(STEMS) + '\n')
    names = {entry.raw_id: entry.name for entry in load_benchmark('pc459')}
    narrow = {name: i for i, name in enumerate(vocabulary_names('pc59'))}
    narrow['table'] = narrow.pop('diningtable')  # the one name that differs
    common = [raw_id for raw_id, name in names.items() if name in narrow]
    wide_truths, narrow_truths = {}, {}
    for stem, ids in zip(STEMS, (np.arange(460), [0, *common]), strict=True):
        label = blocks(rng, ids, 72, 88).astype(np.uint16)
        scipy.io.savemat(folder / f'trainval/{stem}.mat', dict(LabelMap=label))
        picture(rng, *label.shape).save(folder / f'JPEGImages/{stem}.jpg')
        wide_truths[stem] = label.astype(int) - 1
        narrow_truths[stem] = np.vectorize(lambda i: narrow.get(names.get(i), IGNORED))(label)
    return wide_truths, narrow_truths


def write_voc(folder, rng):
    """VOC2012: 0 background, 1 to 20, 255 the border."""
    for kind in ('SegmentationClass', 'JPEGImages', 'ImageSets/Segmentation'):
        (folder / kind).mkdir(parents=True)
    (folder / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(STEMS) + '\n')
    objects, with_background = {}, {}
    for stem in STEMS:
        ids = blocks(rng, [*range(21), 255], 66, 75)
        image = Image.fromarray(ids.astype(np.uint8), 'P')
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        image.save(folder / f'SegmentationClass/{stem}.png')
        picture(rng, *ids.shape).save(folder / f'JPEGImages/{stem}.jpg')
        objects[stem] = np.where(np.isin(ids, (0, 255)), IGNORED, ids - 1)
        with_background[stem] = np.where(ids == 255, IGNORED, np.where(ids == 0, 20, ids - 1))
    return objects, with_background


def run(folder, *arguments):
    done = run_tool(*arguments, cwd=folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def expected_figures(truths, predictions, num_classes, background_from=None):
    """(mIoU over the labelled classes, pixel accuracy), in percent."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    first_id = json.loads((predictions / 'names.json').read_text())['first_id']
    for stem, truth in truths.items():
        (file,) = predictions.rglob(f'{stem}*.png')
        predicted = np.array(Image.open(file)).astype(int) - first_id
        if background_from is not None:
            predicted = np.minimum(predicted, background_from)
        np.add.at(confusion, (truth[truth != IGNORED], predicted[truth != IGNORED]), 1)
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    labelled = confusion.sum(1) > 0
    iou = right[labelled] / union[labelled]
    return 100 * iou.mean(), 100 * right.sum() / confusion.sum()


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """The raw folders, converted; a checkpoint; and the truths."""
    place = tmp_path_factory.mktemp('benchmarks')
    rng = np.random.default_rng(0)
    data, raw = place / 'data', place / 'raw'
    truths = {'A-847': write_ade_full(raw / 'ADE20K_2021_17_01', rng)}
    truths['A-150'] = write_ade_150(data / 'ade/ADEChallengeData2016', rng)
    truths['PC-459'], truths['PC-59'] = write_context(raw / 'VOCdevkit/VOC2010', rng)
    truths['PAS-20'], truths['PAS-20b'] = write_voc(raw / 'VOCdevkit/VOC2012', rng)
    for script, source, out in (
        ('ade20k_847', 'ADE20K_2021_17_01', 'ADE20K_2021_17_01'),
        ('pascal_context', 'VOCdevkit/VOC2010', 'VOCdevkit/VOC2010'),
        ('pascal_voc', 'VOCdevkit/VOC2012', 'VOCdevkit/VOC2012'),
    ):
        tool = ROOT / f'tools/dataset_converters/{script}.py'
        options = ('--out', data / out, '--allow-partial', '--workers', '1')
        run(place, tool, raw / source, *options)
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.pretrained = cfg.neck.sam_pretrained = None
    cfg.neck.num_blocks = 1
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg).state_dict()), place / 'random.pth')
    return place, truths


def test_all_six(place):
    place, truths = place
    options = [  # one block, small pictures in a single pass; the rest is the benchmark's own
        'model.neck.num_blocks=1',
        'model.test_cfg.mode=whole',
        'test_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]
    command = [ROOT / 'tools/test.py', CONFIG, 'random.pth', '--benchmarks', 'all']
    command += ['--work-dir', 'work', '--out', 'out', '--cfg-options', *options]
    printed = run(place, *command)
    found = json.loads((place / 'work/benchmarks_random.json').read_text())['benchmarks']
    assert list(found) == ['A-847', 'PC-459', 'A-150', 'PC-59', 'PAS-20', 'PAS-20b']
    sizes = {'A-847': 847, 'PC-459': 459, 'A-150': 150, 'PC-59': 59, 'PAS-20': 20, 'PAS-20b': 21}
    for key, entry in found.items():
        background = 20 if key == 'PAS-20b' else None
        miou, accuracy = expected_figures(truths[key], place / 'out' / key, sizes[key], background)
        assert entry['metrics']['mIoU_gt'] == pytest.approx(miou, abs=0.006), key
        assert entry['metrics']['aAcc'] == pytest.approx(accuracy, abs=0.006), key
        (row,) = (
            line for line in printed.splitlines() if line.startswith('|') and f' {key} ' in line
        )
        assert f' {entry["metrics"]["mIoU_gt"]:.2f} ' in row
    assert 'finished before' in run(place, *command)


def test_clip_alone(place):
    """Without a checkpoint: figures, the number of images, and a sentence on the calibration."""
    place, truths = place
    write_openai_clip(place / 'ViT-B-16.pt')
    (place / 'small.py').write_text(
        f'_base_ = {str(ROOT / "configs/clip/clip_vitb16_readout.py")!r}\n'
        f'model = dict(backbone=dict(model_name=None, model_cfg={small_clip_cfg()!r},\n'
        "    pretrained='ViT-B-16.pt'))\n"
    )
    command = [ROOT / 'tools/test.py', 'small.py', '--benchmarks', 'PAS-20', 'PC-59']
    command += ['--work-dir', 'clip', '--out', 'clip_out', '--cfg-options']
    command += ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
    printed = run(place, *command)
    found = json.loads((place / 'clip/benchmarks_clip_correlative.json').read_text())['benchmarks']
    for key, size in (('PAS-20', 20), ('PC-59', 59)):
        miou, accuracy = expected_figures(truths[key], place / 'clip_out' / key, size)
        assert found[key]['metrics']['mIoU_gt'] == pytest.approx(miou, abs=0.006)
        assert found[key]['metrics']['aAcc'] == pytest.approx(accuracy, abs=0.006)
        resize = found[key]['protocol']['pipeline'][1]
        assert (resize['scale'], resize['keep_ratio']) == ([2048, 336], True)
    print(printed)
    (row,) = (line for line in printed.splitlines() if line.startswith('|') and ' PAS-20 ' in line)
    assert [cell.strip() for cell in row.split('|')[2:5:2]] == ['2 of 1449', '-']
    assert 'Calibration: nothing to compare' in printed
    done = run_tool(*command[:-2], 'model.backbone.pretrained=None', cwd=place)
    assert done.returncode == 2
    assert 'CLIP would be random' in done.stderr
