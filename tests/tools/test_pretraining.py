"""The miniature CLIP and SAM of the toy world: how they are pretrained, with a few steps each."""

import copy
import json
import re
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmseg.registry import MODELS
from scipy import ndimage
from segment_anything.build_sam import _build_sam

from mmseg_escnet import ESCNetError
from mmseg_escnet.toyworld.scenes import IMAGE_SIZE, scene
from mmseg_escnet.toyworld.vocabulary import (
    ALL_NAMES,
    COLORS,
    SEEN_NAMES,
    SYNONYMS,
    UNSEEN_ATTRIBUTE_NAMES,
    UNSEEN_NAMES,
)
from mmseg_escnet.vocabulary import Vocabulary

FOLDER = ROOT / 'tools/toyworld'
TOY = ROOT / 'configs/_base_/models/escnet_toy.py'
SMALL = ['--steps', '5', '--batch-size', '4', '--scenes', '6']
TOKENS = 'text.token_embedding.weight'


@pytest.fixture(scope='module')
def tools():
    """The modules, with a checkpoint every second step and metrics of a single scene."""
    tools = SimpleNamespace(
        clip=load_tool('tools/toyworld/pretrain_clip.py'),
        sam=load_tool('tools/toyworld/pretrain_sam.py'),
        shared=sys.modules['pretraining'],
        crops=sys.modules['captioned_crops'],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.shared, 'CHECKPOINT_INTERVAL', 2)
        for tool in (tools.clip, tools.sam):
            patch.setattr(tool, 'NUM_CHECKED', 1)
        yield tools


@pytest.fixture(scope='module')
def run(tools, tmp_path_factory):
    """Run a tool in folders of its own: run(kind, name, *options) -> folder with last.pth."""
    base = tmp_path_factory.mktemp('pretraining')

    def call(kind, name, *options):
        folder = base / f'{kind}_{name}'
        command = ['--work-dir', str(folder), '--out', str(folder / 'out'), *SMALL, *options]
        getattr(tools, kind).main(command)
        return folder

    return call


@pytest.fixture(scope='module')
def finished(run, tools):
    """Uninterrupted runs; of CLIP also the model as the tool had it."""
    with pytest.MonkeyPatch.context() as patch:
        kept = []
        build = tools.clip.CompactText

        def build_and_keep(clip, tokenizer):
            kept.append(build(clip, tokenizer))
            return kept[-1]

        patch.setattr(tools.clip, 'CompactText', build_and_keep)
        folders = {kind: run(kind, 'whole') for kind in ('clip', 'sam')}
    return SimpleNamespace(**folders, text=kept[0])


def read(path):
    return torch.load(path, weights_only=True)


def assert_same(one, two):
    """Bit by bit, for tensors nested in dictionaries and lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one.to_dense(), two.to_dense())
    elif isinstance(one, (dict, list)):
        assert len(one) == len(two)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], two[key])
    else:
        assert one == two


# -- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['clip', 'sam'])
def test_resumed_run_ends_as_an_uninterrupted_one(tools, run, finished, monkeypatch, kind):
    factor, steps = tools.shared.learning_rate_factor, []

    def interrupt_once(step, num_steps):
        steps.append(step)
        if steps.count(3) == 1 and step == 3:
            raise KeyboardInterrupt
        return factor(step, num_steps)

    monkeypatch.setattr(tools.shared, 'learning_rate_factor', interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        run(kind, 'resumed')
    folder = run(kind, 'resumed')
    assert steps == [0, 1, 2, 3, 2, 3, 4]
    whole = getattr(finished, kind)
    assert_same(read(whole / f'out/{kind}.pth'), read(folder / f'out/{kind}.pth'))
    for part in ('model', 'optimizer', 'step', 'settings'):
        assert_same(read(whole / 'last.pth')[part], read(folder / 'last.pth')[part])
    state = read(whole / 'last.pth')
    expected = state['settings']['lr'] * factor(4, 5)
    assert state['optimizer']['param_groups'][0]['lr'] == pytest.approx(expected)
    curves = [json.loads((f / 'curve.json').read_text()) for f in (whole, folder)]
    for curve in curves:
        assert [record.pop('step') for record in curve] == [5]
        assert all(record.pop('seconds') >= 0 for record in curve)
    assert repr(curves[0]) == repr(curves[1])  # a metric without a pixel is NaN


@pytest.mark.parametrize('kind', ['clip', 'sam'])
def test_every_weight_is_trained(tools, finished, kind):
    torch.manual_seed(0)
    if kind == 'sam':
        before = tools.sam.build_sam().state_dict()
        fixed = ('gaussian_matrix',)  # the random frequencies are no parameter
    else:
        backbone, encoder = tools.clip.build_model()
        tools.clip.CompactText(backbone.clip, encoder.tokenizer)
        before = {f'clip.{key}': value for key, value in backbone.clip.state_dict().items()}
        fixed = ('attn_mask',)
        if backbone.clip.visual.positional_embedding.requires_grad is False:
            fixed += ('visual.positional_embedding',)
    after = read(getattr(finished, kind) / 'last.pth')['model']
    after = {key: value for key, value in after.items() if not key.startswith('word_head.')}
    assert before.keys() == after.keys()
    moved = {key: (before[key] - after[key]).abs().max().item() for key in before}
    assert [key for key, value in moved.items() if not value and not key.endswith(fixed)] == []
    assert max(moved.values()) < 3e-3, 'they began elsewhere'


@pytest.mark.parametrize('kind', ['clip', 'sam'])
def test_other_settings_are_refused(run, finished, kind):
    before = (getattr(finished, kind) / 'last.pth').read_bytes()
    with pytest.raises(ESCNetError, match=r'steps=5 instead of 6, seed=0 instead of 3\)'):
        run(kind, 'whole', '--steps', '6', '--seed', '3')
    assert (getattr(finished, kind) / 'last.pth').read_bytes() == before


@pytest.mark.parametrize('kind', ['clip', 'sam'])
def test_record(tools, finished, kind):
    folder = getattr(finished, kind)
    record = json.loads((folder / f'out/{kind}.json').read_text())
    program, tool, *options = shlex.split(record['command'])
    assert (program, tool) == ('python', f'tools/toyworld/pretrain_{kind}.py')
    assert record['settings']['lr'] > 0
    assert (record['seed'], record['torch'], record['steps']) == (0, torch.__version__, 5)
    last = record['curve'][-1]
    assert record['seconds'] == last['seconds']
    assert record['metrics'].items() <= last.items()
    key = dict(clip='mIoU_unseen_combination', sam='IoU_unseen_mask')[kind]
    assert key in record['metrics']
    # the recorded command finds the finished run
    weights = read(folder / f'out/{kind}.pth')
    (folder / f'out/{kind}.pth').unlink()
    getattr(tools, kind).main(options)
    assert_same(read(folder / f'out/{kind}.pth'), weights)


@pytest.mark.parametrize(
    ('option', 'value', 'allowed'),
    [
        ('--steps', '0', '1 to'),
        ('--scenes', '1000001', '1 to 1e+06'),  # they would meet those the metrics are taken on
        ('--seed', '-1', '0 to'),
        ('--lr', 'nan', '1e-09 to'),
    ],
)
def test_numbers_out_of_range(tools, tmp_path, option, value, allowed, capsys):
    with pytest.raises(SystemExit):
        tools.sam.main(['--work-dir', str(tmp_path / 'a'), '--out', str(tmp_path), option, value])
    error = capsys.readouterr().err
    assert f'argument {option}: {value} is out of range: give {allowed}' in error
    assert not list(tmp_path.iterdir())


def test_scenes_are_drawn_once(tools, tmp_path, monkeypatch):
    pool = tools.shared.scene_pool(tmp_path, seed=3, count=4, workers=1)
    assert pool.shape == (4, IMAGE_SIZE, IMAGE_SIZE, 4)
    for index in (0, 3):
        image, label = scene(3, tools.shared.POOL_OFFSET + index)
        assert np.array_equal(pool[index, ..., :3], image)
        assert np.array_equal(pool[index, ..., 3], label)
    monkeypatch.setattr(tools.shared, 'scene', None)
    assert np.array_equal(tools.shared.scene_pool(tmp_path, seed=3, count=4), pool)


def test_turns_are_all_eight(tools):
    square = np.arange(9).reshape(3, 3)
    turned = [tools.shared.turn(square, number) for number in range(8)]
    assert len({array.tobytes() for array in turned}) == 8
    assert all(array[1, 1] == 4 and {array[0, 0], array[2, 2]} <= {0, 2, 6, 8} for array in turned)


def test_learning_rate(tools):
    rates = [tools.shared.learning_rate_factor(step, 1000) for step in range(1000)]
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert set(rates[99:751]) == {1.0}
    assert rates[875] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.004)


# -- pictures of a world that tells where each pixel is from -------------------------------------


def telling_pool():
    """Four scenes: red is the id, green and blue the row and the column and the number."""
    pool = np.zeros((4, IMAGE_SIZE, IMAGE_SIZE, 4), np.uint8)
    rows, columns = np.indices((IMAGE_SIZE, IMAGE_SIZE))
    for number in range(4):
        pool[number, ..., 3] = pool[number, ..., 0] = scene(0, 2_000_000 + number)[1]
        pool[number, ..., 1] = rows + IMAGE_SIZE * (number % 2)
        pool[number, ..., 2] = columns + IMAGE_SIZE * (number // 2)
    return pool


def told(tools, image):
    """Id, row, column of each pixel, and the number of the scene, of a normalised picture."""
    values = (image * tools.shared.STD + tools.shared.MEAN).round().int().numpy()
    halves = values[1:] // IMAGE_SIZE
    assert (halves == halves[:, :1, :1]).all()
    return values[0], *values[1:] % IMAGE_SIZE, int(halves[0, 0, 0] + 2 * halves[1, 0, 0])


# -- captions ------------------------------------------------------------------------------------


def named_by(caption):
    """The names of the world that a caption speaks of, read from its words alone."""
    match = re.fullmatch(
        r'A photo of a (?P<a>.+?)(?: in the scene)?|There is a (?P<b>.+) in the scene', caption
    )
    *color, noun = (match['a'] or match['b']).split()
    noun = {synonym: word for word, synonym in SYNONYMS.items()}.get(noun, noun)
    assert len(color) <= 1
    assert set(color) <= set(COLORS)
    found = []
    for name in ALL_NAMES:
        words = name.split()
        if noun == 'thing':
            fits = len(words) == 2 and words[0] == color[0]
        else:
            fits = words[-1] == noun and (not color or words == [*color, noun])
        if fits:
            found.append(name)
    return found


def test_captions_are_true_of_what_is_shown(tools):
    pool = telling_pool()
    crops = tools.clip.CaptionedCrops(pool, seed=1, batch_size=6)
    counted = {}
    for step in range(4):
        images, captions, true, false = crops(step)
        side = tools.clip.CROP
        assert images.shape == (6, 3, side, side)
        assert true.shape == false.shape == (6, len(captions))
        named = [named_by(caption) for caption in captions]
        for image, is_true, is_false in zip(images, true, false, strict=True):
            ids, rows, columns, number = told(tools, image)
            for axis in (rows, columns):  # a square, every pixel once
                assert axis.max() - axis.min() + 1 == side
            assert len(np.unique(rows * IMAGE_SIZE + columns)) == side**2
            inside = np.bincount(ids.ravel(), minlength=72)
            whole = np.bincount(pool[number, ..., 3].ravel(), minlength=72)
            for column, names in enumerate(named):
                numbers = [ALL_NAMES.index(name) for name in names]
                well = any(inside[i] and inside[i] >= min(0.6 * whole[i], 400) for i in numbers)
                at_all = any(inside[i] for i in numbers)
                expected = 'true' if well else 'neither' if at_all else 'false'
                actual = {(1, 0): 'true', (0, 1): 'false', (0, 0): 'neither'}[
                    int(is_true[column]), int(is_false[column])
                ]
                assert actual == expected, captions[column]
                kind = {0: 'everyday', 1: 'one', 8: 'shape or colour'}[len(names)]
                counted[kind, expected] = counted.get((kind, expected), 0) + 1
    assert set(counted) == {
        (kind, what) for kind in ('one', 'shape or colour') for what in ('true', 'false', 'neither')
    } | {('everyday', 'false')}


# -- CLIP ----------------------------------------------------------------------------------------


def slow_contrastive_loss(scores, true, false):
    exp = scores.exp().tolist()
    sums = [0.0, 0.0]
    for b, row in enumerate(exp):
        for t, value in enumerate(row):
            if not true[b, t]:
                continue
            beside = sum(row[j] for j in range(len(row)) if false[b, j])
            above = sum(exp[i][t] for i in range(len(exp)) if false[i, t])
            for which, negatives in enumerate((beside, above)):
                sums[which] -= np.log(value / (value + negatives))
    return sum(sums) / 2 / int(true.sum())


def test_contrastive_loss(tools):
    scores = torch.randn(5, 7, dtype=torch.float64)
    kinds = torch.randint(3, (5, 7))  # true, false, neither
    kinds[:, 2] = 0  # true of all pictures: nothing to compare it with
    kinds[1], kinds[1, 3] = 2, 0  # nothing false of a picture
    true, false = kinds == 0, kinds == 1
    scores.requires_grad_()
    loss = tools.clip.contrastive_loss(scores, true, false)
    assert loss.item() == pytest.approx(slow_contrastive_loss(scores, true, false))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.isfinite().all()
    assert (gradient[kinds == 2] == 0).all()
    assert (gradient[true] <= 0).all()
    assert (gradient[false] >= 0).all()
    assert gradient.abs().sum() > 0


def test_clip_is_read_by_the_backbone(finished):
    """Strictly, as the toy config reads it, and it is the model that the tool had."""
    file = finished.clip / 'out/clip.pth'
    assert file.stat().st_size < 4e6  # 12 MB more if all tokens were in it
    content = read(file)
    assert content[TOKENS].layout == torch.sparse_coo
    assert content[TOKENS].shape == (49408, content[TOKENS].shape[1])
    cfg = Config.fromfile(TOY).model
    backbone = MODELS.build(dict(cfg.backbone, pretrained=str(file))).eval()
    encoder = MODELS.build(dict(cfg.text_encoder))
    backbone.init_weights()
    text = copy.deepcopy(finished.text)
    with torch.no_grad():
        for parameter in text.clip.parameters():
            parameter.copy_(parameter.half().float())  # as it was written
    expected = text.clip.state_dict()
    for key, value in backbone.clip.state_dict().items():
        if key != TOKENS:
            assert value.dtype == torch.float32, key
            assert torch.equal(value, expected[key].half().float()), key
    with torch.no_grad():
        actual = encoder(backbone.clip, Vocabulary.create(ALL_NAMES))
        texts = [encoder.templates[0].format(name) for name in ALL_NAMES]
        compact = text(texts)
    assert actual.shape == (72, backbone.embed_dims)
    torch.testing.assert_close(actual, compact, rtol=1e-5, atol=1e-6)
    assert (actual - actual[0]).abs().amax(1)[1:].min() > 1e-3  # they differ from one another


def test_words_of_the_large_vocabulary_have_tokens(finished):
    """What occurs nowhere is told apart too: none of its tokens is one that nothing uses."""
    weight = finished.text.state_dict()[TOKENS].to_dense()
    words = ('giraffe', 'pink moon', 'sea', 'red hoop')
    tokens = finished.text.tokenizer([f'A photo of a {word} in the scene' for word in words])
    assert (weight[tokens] != 0).any(-1).all()


def test_mixed_precision(run):
    record = json.loads((run('clip', 'bf16', '--bf16') / 'out/clip.json').read_text())
    assert '--bf16' in record['command']
    assert record['settings']['bf16'] is True
    assert np.isfinite(record['metrics']['dense'])


# -- SAM -----------------------------------------------------------------------------------------


def test_regions(tools):
    label = np.full((IMAGE_SIZE, IMAGE_SIZE), ALL_NAMES.index('brick'), np.uint8)
    red, held_out = ALL_NAMES.index(SEEN_NAMES[0]), ALL_NAMES.index(UNSEEN_NAMES[0])
    label[:, 50:60] = held_out  # parts the ground
    label[10:20, 10:20] = label[20:30, 20:30] = red  # meet at a corner
    label[70:76, 10:16] = red  # 36 pixels
    masks = tools.sam.objects_of(label, tools.sam.SEEN_IDS)
    assert sorted(int(mask.sum()) for mask in masks) == [
        100,
        100,
        36 * 96,
        50 * 96 - 200 - 36,
    ]
    assert all(mask.dtype == bool and mask.shape == label.shape for mask in masks)
    assert not any((mask & (label == held_out)).any() for mask in masks)
    (other,) = tools.sam.objects_of(label, tools.sam.OTHER_IDS)
    assert np.array_equal(other, label == held_out)
    assert tools.sam.objects_of(label, [5]) == []


HAS_MASKS = np.array([name not in UNSEEN_NAMES + UNSEEN_ATTRIBUTE_NAMES for name in ALL_NAMES])


class Recorder:
    """Takes the place of a SAM; its embedding of a picture is the picture."""

    def __init__(self, tools, pool, **kwargs):
        self.asked = []

        class Loss(tools.sam.PromptedLoss):
            def of_image(inner, image, masks, known, rng):
                self.asked.append((image[0].detach(), masks, known))
                return image.sum(), image.sum().detach()

        self.loss = Loss(self, pool, **kwargs)

    def image_encoder(self, images):
        return images.clone().requires_grad_()


def test_no_mask_of_an_unseen_name_is_asked_for(tools):
    recorder = Recorder(tools, telling_pool(), seed=2, batch_size=8)
    for step in range(12):
        recorder.loss(step)
    assert len(recorder.asked) > 80
    asked, there = set(), set()
    for picture, masks, known in recorder.asked:
        ids, *_ = told(tools, picture)
        there |= set(np.unique(ids).tolist())
        assert len(masks) == tools.sam.OBJECTS_PER_IMAGE
        assert known.dtype == bool
        assert np.array_equal(known, HAS_MASKS[ids])  # turned as the picture is
        for mask in masks:
            (class_id,) = np.unique(ids[mask])
            asked.add(int(class_id))
            regions, _ = ndimage.label(ids == class_id)
            assert np.array_equal(mask, regions == regions[mask][0])
    names, absent = {ALL_NAMES[i] for i in asked}, {ALL_NAMES[i] for i in there - asked}
    assert names <= set(SEEN_NAMES)
    assert len(names) > 8
    assert len(absent - set(SEEN_NAMES)) > 3, 'the pool has nothing to leave out'


def partly_known(tools):
    """Objects of a scene with much that has no masks; where masks are known, (96, 96)."""
    labels = [scene(0, 2_000_000 + number)[1] for number in range(8)]
    label = min(labels, key=lambda label: abs(HAS_MASKS[label].mean() - 0.6))
    masks = tools.sam.objects_of(label, tools.sam.SEEN_IDS)[:3]
    assert 0.2 < HAS_MASKS[label].mean() < 0.9
    assert len(masks) > 1
    return masks, HAS_MASKS[label]


def test_every_prompt_is_of_the_object_alone(tools, monkeypatch):
    """Of a real step: points labelled 1 are on a seen object, 0 on none; none is on the unknown."""
    calls = []

    def record(sam, image, coords, labels, mask, boxes=None):
        calls.append((coords, labels, mask, boxes))
        size = (len(coords), 4, tools.sam.LOW_RES, tools.sam.LOW_RES)
        # wrong nearly everywhere, also where nothing is known
        return torch.randn(size, requires_grad=True), torch.rand(size[:2], requires_grad=True)

    monkeypatch.setattr(tools.sam, 'predict', record)
    loss = tools.sam.PromptedLoss(None, telling_pool(), seed=0, batch_size=1)
    masks, known = partly_known(tools)
    rng, more_points, second_signs, boxed = np.random.default_rng(0), set(), set(), set()
    off_object = 0
    for _ in range(60):
        calls.clear()
        value, iou = loss.of_image(torch.zeros(1, 64, 12, 12), masks, known, rng)
        assert value.requires_grad
        assert 0 <= iou <= 1
        (coords, labels, none, boxes), (more, more_labels, prompt, no_boxes) = calls
        assert none is None
        assert no_boxes is None
        assert prompt.shape == (len(masks), 1, tools.sam.LOW_RES, tools.sam.LOW_RES)
        assert not prompt.requires_grad
        assert (labels == 1).all()
        assert 1 <= coords.shape[1] <= 5
        assert torch.equal(more[:, : coords.shape[1]], coords)
        boxed.add(boxes is not None)
        if boxes is not None:
            expected = [tools.sam.box_of(mask) for mask in masks]
            assert np.array_equal(boxes.numpy(), expected)
        more_points.add(more.shape[1] - coords.shape[1])
        second_signs.add(tuple(more_labels[:, 0].unique().tolist()))
        assert torch.equal(more, more.floor()), 'SAM adds half a pixel itself'
        for mask, points, signs in zip(masks, more, more_labels, strict=True):
            for (x, y), sign in zip(points.int().tolist(), signs, strict=True):
                assert known[y, x]
                assert sign == -1 or mask[y, x] == bool(sign)
                off_object += int(sign == 0)
    assert boxed == {True, False}
    assert more_points == {0, 1}
    assert second_signs == {(1.0,), (-1.0,)}  # or the mask alone
    assert off_object > 20


def test_what_is_not_known_does_not_count(tools, monkeypatch):
    """A step asks nothing of pixels of names without masks, of either prediction."""
    masks, known = partly_known(tools)
    low = tools.sam.LOW_RES
    # a cell of two by two pixels is known if all of it is
    unknown = torch.from_numpy(~known.reshape(low, 2, low, 2).all((1, 3)))
    assert 0.05 < unknown.float().mean() < 0.9
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(masks), 4, low, low, generator=generator)
    other = torch.where(unknown, 5 * torch.randn(logits.shape, generator=generator), logits)
    quality = torch.rand(len(masks), 4, generator=generator)
    loss = tools.sam.PromptedLoss(None, telling_pool(), seed=0, batch_size=1)

    def step(values, number):
        values = values.clone().requires_grad_()
        monkeypatch.setattr(tools.sam, 'predict', lambda *_, **__: (values, quality))
        value, iou = loss.of_image(None, masks, known, np.random.default_rng(number))
        (gradient,) = torch.autograd.grad(value, values)
        return value.item(), iou.item(), gradient

    for number in range(12):  # all kinds of prompts
        one, two = step(logits, number), step(other, number)
        assert one[:2] == pytest.approx(two[:2])
        torch.testing.assert_close(one[2], two[2])
        assert (one[2][:, :, unknown] == 0).all()
        assert one[2][:, 0, ~unknown].ne(0).all()
        assert step(logits + ~unknown, number)[0] != pytest.approx(one[0])


def test_points_and_boxes_as_sam_reads_them(tools, monkeypatch):
    """In the centre of their pixel, and tight."""
    read = []
    sam = tools.sam.build_sam()
    encode = sam.prompt_encoder.pe_layer.forward_with_coords

    def record(coords, image_size):
        read.append(coords)
        return encode(coords, image_size)

    monkeypatch.setattr(sam.prompt_encoder.pe_layer, 'forward_with_coords', record)
    masks = np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), bool)
    masks[0, 10:20, 30:37] = True
    masks[1, 95, 0] = True
    masks[2, 40, 50:60] = masks[2, 30:50, 55] = True
    boxes = torch.from_numpy(np.stack([tools.sam.box_of(mask) for mask in masks]))
    assert boxes.dtype == torch.float32
    rng = np.random.default_rng(0)
    points = torch.from_numpy(np.stack([tools.sam.points_in(mask, 6, rng) for mask in masks]))
    arguments = (sam, torch.randn(1, 64, 12, 12), points, torch.ones(3, 6), None)
    with torch.no_grad():
        from_points, quality = tools.sam.predict(*arguments)
        from_boxes, _ = tools.sam.predict(*arguments, boxes)
    low = tools.sam.LOW_RES
    assert from_points.shape == from_boxes.shape == (3, 4, low, low)
    assert quality.shape == (3, 4)
    assert not torch.equal(from_points, from_boxes)
    centres, corners = read
    for mask, places in zip(masks, centres[:, :6].tolist(), strict=True):
        for x, y in places:
            assert x % 1 == y % 1 == 0.5
            assert mask[int(y), int(x)]
    # left, top; right, bottom: the outer borders of the pixels
    assert corners.reshape(3, 4).tolist() == [
        [30, 10, 37, 20],
        [0, 95, 1, 96],
        [50, 30, 60, 50],
    ]


def test_batch_without_anything_to_ask_for(tools):
    pool = np.full((2, IMAGE_SIZE, IMAGE_SIZE, 4), ALL_NAMES.index(UNSEEN_NAMES[0]), np.uint8)
    recorder = Recorder(tools, pool, seed=0, batch_size=3)
    value, shown = recorder.loss(0)
    value.backward()
    assert value.item() == 0
    assert shown == {}
    assert recorder.asked == []


def test_mask_losses(tools):
    logits = torch.randn(3, 2, 5, 6, dtype=torch.float64)
    target = (torch.rand(3, 1, 5, 6) > 0.6).double()
    known = (torch.rand(1, 1, 5, 6) > 0.3).double()
    for where in (torch.ones_like(known), known):
        actual = tools.sam.mask_losses(logits, target, where)
        assert actual.shape == (3, 2)
        for m in range(3):
            for s in range(2):
                focal, overlap, total = [], 0.0, 0.0
                for value, wanted, counts in zip(
                    logits[m, s].ravel().tolist(),
                    target[m, 0].ravel().tolist(),
                    where.ravel().tolist(),
                    strict=True,
                ):
                    if not counts:
                        continue
                    probability = 1 / (1 + np.exp(-value))
                    right = probability if wanted == 1 else 1 - probability
                    focal.append(-((1 - right) ** 2) * np.log(right))
                    overlap += probability * wanted
                    total += probability + wanted
                dice = 1 - (2 * overlap + 1) / (total + 1)
                assert actual[m, s].item() == pytest.approx(20 * np.mean(focal) + dice)


def test_iou(tools):
    logits = torch.randn(2, 3, 4, 4)
    target = (torch.rand(2, 1, 4, 4) > 0.5).float()
    known = (torch.rand(1, 1, 4, 4) > 0.3).float()
    for where in (torch.ones_like(known), known):
        actual = tools.sam.iou_of(logits, target, where)
        assert actual.shape == (2, 3)
        counts = {i for i, value in enumerate(where.ravel().tolist()) if value}
        for m in range(2):
            truth = {i for i, value in enumerate(target[m, 0].ravel().tolist()) if value} & counts
            for s in range(3):
                mask = {i for i, value in enumerate(logits[m, s].ravel().tolist()) if value > 0}
                mask &= counts
                assert actual[m, s].item() == pytest.approx(len(mask & truth) / len(mask | truth))
    ones, zeros = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert (tools.sam.iou_of(-ones, zeros, ones) == 0).all()
    assert (tools.sam.iou_of(ones, ones, zeros) == 0).all()


def test_sam_has_the_layout_of_segment_anything(finished):
    """That of the published ones, without the image encoder's relative positions; half precision.

    The blocks of the toy config load it.
    """
    file = finished.sam / 'out/sam.pth'
    content = read(file)
    assert_same(content, {k: v.half() for k, v in read(finished.sam / 'last.pth')['model'].items()})
    with torch.device('meta'):
        official = _build_sam(
            encoder_embed_dim=96,
            encoder_depth=4,
            encoder_num_heads=3,
            encoder_global_attn_indexes=[1],
        )
    assert set(content) == {key for key in official.state_dict() if 'rel_pos' not in key}
    neck = Config.fromfile(TOY).model.neck
    MODELS.build(dict(neck, image_dims=128, sam_pretrained=str(file))).init_weights()
