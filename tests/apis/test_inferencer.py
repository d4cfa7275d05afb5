"""OpenVocabInferencer with the trained miniature model: the same label maps as tools/test.py."""

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmseg.apis import inference_model
from PIL import Image

from mmseg_escnet import ESCNetError, Vocabulary
from mmseg_escnet.apis import OpenVocabInferencer, Query
from mmseg_escnet.files import decode_label_map
from mmseg_escnet.toyworld.model import TOY_VOCABULARY, toy_model
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import vocabulary_of

CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'
CHECKPOINT = ROOT / 'data/toyworld/escnet.pth'
SCENE = 1_000_000  # of those that the model was not trained on
WORDS = ['orange ring', 'wood', 'yellow heart', 'water']


@pytest.fixture(scope='module')
def seg() -> OpenVocabInferencer:
    return OpenVocabInferencer(CONFIG, CHECKPOINT, 'cpu')


@pytest.fixture(scope='module')
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A scene (96, 96, 3) in RGB and its label map of all 72 names."""
    return scene(0, SCENE)


@pytest.fixture
def encodings(seg, monkeypatch) -> list[int]:
    """Grows by the number of phrases whenever the text encoder works."""
    counts, encode = [], seg.model.text_encoder.encode

    def watched(clip, phrases, **kwargs):
        counts.append(len(phrases))
        return encode(clip, phrases, **kwargs)

    monkeypatch.setattr(seg.model.text_encoder, 'encode', watched)
    return counts


# -- the same as MMSegmentation's own ways -----------------------------------------------------


def test_label_maps_are_those_of_the_test_tool(seg, tmp_path):
    """72 names, two scenes, as a user calls it; equal pixel by pixel."""
    for kind in ('images', 'annotations'):
        (tmp_path / kind).mkdir()
    for number in range(2):
        image, label = scene(0, SCENE + number)
        Image.fromarray(image).save(tmp_path / f'images/{number}.png')
        Image.fromarray(label).save(tmp_path / f'annotations/{number}.png')
    dataset = 'test_dataloader.dataset'
    options = [
        f'{dataset}.data_root={tmp_path}/',
        f'{dataset}.data_prefix.img_path=images',
        f'{dataset}.data_prefix.seg_map_path=annotations',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]
    command = [sys.executable, 'tools/test.py', CONFIG, CHECKPOINT, '--out', tmp_path / 'out']
    command += ['--work-dir', tmp_path / 'work', '--cfg-options', *options]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = seg(tmp_path / 'images', classes=TOY_VOCABULARY)
    for number, result in enumerate(results):
        file = tmp_path / f'out/{number}.png'
        np.testing.assert_array_equal(result.labels, decode_label_map(file.read_bytes(), str(file)))
        assert len(result.areas) > 2


@pytest.mark.parametrize('mode', ['whole', 'slide', 'windows'])
def test_equal_to_inference_model(mode, tmp_path):
    """Names with synonyms, as the config treats them, and an image that is resized."""
    names = vocabulary_of('large')[:11]
    assert any('|' in name for name in names)
    Image.fromarray(scene(0, SCENE)[0]).resize((150, 110)).save(tmp_path / 'a.png')
    cfg = Config.fromfile(CONFIG)
    cfg.model.test_cfg = dict(mode=mode, crop_size=(96, 96), stride=(64, 64), keep_scores=True)
    cfg.test_pipeline.insert(1, dict(type='Resize', scale=(130, 120), keep_ratio=False))
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    seg = OpenVocabInferencer(cfg, CHECKPOINT, 'cpu')
    result = seg(tmp_path / 'a.png', classes=names, synonyms=None)

    seg.model.cfg = cfg
    seg.model.set_vocabulary(names)
    expected = inference_model(seg.model, str(tmp_path / 'a.png'))
    np.testing.assert_array_equal(result.labels, expected.pred_sem_seg.data[0].numpy())
    assert len(result.areas) > 1
    scores = expected.seg_logits.data
    probabilities = scores if mode == 'windows' else scores.softmax(dim=0)
    torch.testing.assert_close(torch.from_numpy(result.scores), probabilities.amax(dim=0))
    for index in (0, 5, 10):
        scores = torch.from_numpy(result.class_scores(index))
        torch.testing.assert_close(scores, probabilities[index])


# -- images ------------------------------------------------------------------------------------


def test_every_kind_of_image_is_the_same_image(seg, drawn, tmp_path):
    image, _ = drawn
    Image.fromarray(image).save(tmp_path / 'a.png')
    expected = seg(image, classes=WORDS)
    assert len(expected.areas) == 4
    alpha = np.dstack([image, np.zeros((96, 96, 1), np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(alpha).save(buffer, 'PNG')
    others = [
        str(tmp_path / 'a.png'),
        tmp_path / 'a.png',
        (tmp_path / 'a.png').read_bytes(),
        Image.open(tmp_path / 'a.png'),
        alpha,
        buffer.getvalue(),
        image.astype(np.uint16) * 256,
    ]
    for other in others:
        result = seg(other, classes=WORDS)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.image, image)
    swapped = seg(image[..., ::-1], classes=WORDS)
    assert (swapped.labels != expected.labels).mean() > 0.01, 'RGB or BGR makes no difference'


def test_lists_folders_and_globs(seg, drawn, tmp_path):
    image, _ = drawn
    (tmp_path / 'deeper').mkdir()
    Image.fromarray(image).save(tmp_path / 'b.png')
    Image.fromarray(image[:50]).save(tmp_path / 'deeper/a.png')
    (tmp_path / 'notes.txt').write_text('no image')
    found = seg(tmp_path, classes=WORDS)
    assert [result.labels.shape for result in found] == [(96, 96), (50, 96)]
    assert [os.path.basename(result.source) for result in found] == ['b.png', 'a.png']
    (only,) = seg(str(tmp_path / '*.png'), classes=WORDS)
    assert only.labels.shape == (96, 96)
    frames = seg.stream(iter([image, image[:50]]), classes=WORDS)
    assert [result.labels.shape for result in frames] == [(96, 96), (50, 96)]
    first, second = seg([image, tmp_path / 'deeper/a.png'], classes=WORDS)
    np.testing.assert_array_equal(first.labels, only.labels)
    np.testing.assert_array_equal(second.labels, found[1].labels)
    assert (first.source, second.source) == (None, str(tmp_path / 'deeper/a.png'))


def test_a_bad_image_is_named_after_the_results_before_it(seg, drawn, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'')
    results = seg.stream([drawn[0], tmp_path / 'bad.png', b'hello'], classes=WORDS)
    assert next(results).labels.shape == (96, 96)
    with pytest.raises(ESCNetError, match=r'bad\.png cannot be decoded \(it is empty\)'):
        next(results)
    with pytest.raises(ESCNetError, match=r'Image number 1 cannot be decoded'):
        seg([b'hello'], classes=WORDS)
    with pytest.raises(ESCNetError, match=r'nowhere\.png cannot be read'):
        seg('nowhere.png', classes=WORDS)


def test_exif_rotation(seg, drawn, tmp_path):
    image = Image.fromarray(drawn[0][:60])
    exif = Image.Exif()
    exif[0x112] = 6  # turn clockwise to see it upright
    image.save(tmp_path / 'a.png', exif=exif)
    upright = np.rot90(drawn[0][:60], -1)
    expected = seg(np.ascontiguousarray(upright), classes=WORDS)
    assert expected.labels.shape == (96, 60)
    for way in (tmp_path / 'a.png', Image.open(tmp_path / 'a.png')):
        result = seg(way, classes=WORDS)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.image, upright)


def test_any_size():
    seg = OpenVocabInferencer(*toy_model(), 'cpu')
    for size in ((1, 1), (1, 300), (200, 3)):
        result = seg(np.zeros((*size, 3), np.uint8), classes=WORDS)
        assert result.labels.shape == result.scores.shape == size


# -- words -------------------------------------------------------------------------------------


def test_words_are_encoded_once(seg, drawn, encodings):
    """New words cost the text encoder, known ones nothing, also after others."""
    image, _ = drawn
    first = ['violet comet', 'gravel', 'marble']  # in no other test: the model is shared
    seg(image, classes=first)
    seg(image, classes=first)
    assert encodings == [3]
    seg(image, classes=[*first[:2], 'pink comet'])
    before = seg(image, classes=first)
    assert encodings == [3, 1]
    seg(image, classes=first, templates=['a drawing of a {}'])
    assert encodings == [3, 1, 3]
    np.testing.assert_array_equal(seg(image, classes=first).labels, before.labels)
    assert encodings == [3, 1, 3], 'the templates of the config, and of the cache, are back'


def test_the_order_of_words(seg, drawn):
    image, _ = drawn
    forward, backward = seg(image, classes=WORDS), seg(image, classes=WORDS[::-1])
    assert backward.classes == tuple(WORDS[::-1])
    assert (forward.labels == 3 - backward.labels).mean() > 0.999
    assert len(set(forward.palette)) == len(set(backward.palette)) == 4


def test_synonyms_and_phrases_count(seg, drawn):
    image, _ = drawn

    def scores(name, **options):
        result = seg(
            image, classes={name: None, 'water': None} | options.pop('more', {}), **options
        )
        return result.class_scores(0)

    one = scores('wood')
    both = scores('wood | red circle')
    assert np.abs(both - one).max() > 0.01
    np.testing.assert_array_equal(scores('wood | red circle', synonyms='first'), one)
    np.testing.assert_array_equal(scores('wood | red circle', synonyms=None), one)
    result = seg(image, classes={'planks': ['wood'], 'water': None})
    assert result.classes == ('planks', 'water')
    np.testing.assert_array_equal(result.class_scores('planks'), one)


def test_background_words_are_one_class(seg, drawn):
    image, _ = drawn
    alone = seg(image, classes=WORDS)
    result = seg(image, classes=WORDS[:2], background=WORDS[2:])
    assert result.classes == ('orange ring', 'wood', 'other')
    np.testing.assert_array_equal(result.labels, alone.labels.clip(max=2))
    np.testing.assert_array_equal(result.scores, alone.scores)
    best = np.maximum(alone.class_scores(2), alone.class_scores(3))
    np.testing.assert_allclose(result.class_scores('other'), best)
    named = seg(image, classes=WORDS[:2], background={'the rest': WORDS[2:]})
    assert named.classes[-1] == 'the rest'


def test_background_that_is_a_low_score(seg, drawn):
    image, _ = drawn
    alone = seg(image, classes=WORDS)
    bound = float(np.quantile(alone.scores, 0.1))
    result = seg(image, classes=WORDS, background=bound)
    assert result.classes == (*WORDS, 'other')
    low = alone.scores < bound
    assert 0 < low.sum() < low.size / 5
    assert (result.labels[low] == 4).all()
    np.testing.assert_array_equal(result.labels[~low], alone.labels[~low])
    np.testing.assert_allclose(result.class_scores('other'), 1 - alone.scores)


def test_threshold(seg, drawn):
    image, _ = drawn
    alone = seg(image, classes=WORDS)
    bound = float(np.quantile(alone.scores, 0.1))
    result = seg(image, classes=WORDS, threshold=bound)
    low = alone.scores < bound
    assert result.no_class == 255
    assert (result.labels[low] == 255).all()
    np.testing.assert_array_equal(result.labels[~low], alone.labels[~low])
    np.testing.assert_array_equal(result.scores, alone.scores)


def test_a_single_word_is_everywhere_with_a_warning(seg, drawn):
    with pytest.warns(UserWarning, match="The only class is 'wood', so every pixel"):
        result = seg(drawn[0], classes=['wood'])
    assert not result.labels.any()
    assert (result.scores == 1).all()
    against = seg(drawn[0], classes=['wood'], background='other')
    assert 0.5 < against.mask('wood').mean() < 0.8


def test_more_classes_than_a_byte_counts(seg, drawn):
    names = [*(f'word {number}' for number in range(260)), *WORDS]
    result = seg(drawn[0], classes=names, threshold=0.1)
    assert result.labels.dtype == np.uint16
    assert result.no_class == 65535
    present = set(np.unique(result.labels).tolist())
    assert present & {260, 261, 262, 263}, 'the largest ids are there'
    assert present <= {*range(264), 65535}


@pytest.mark.parametrize(
    ('classes', 'options', 'message'),
    [
        ([], {}, 'There are no classes'),
        (7, {}, 'must be a list of names, or names with phrases, not 7'),
        ([f'word {number}' for number in range(100_000)], {}, r'100000 words .* at most 10000'),
        (['word ' * 40], {}, 'tokens in the template'),
        (['a\x1b[31mb', 'c'], {}, 'control character'),
        (WORDS, dict(templates='a drawing of a {}'), 'are unknown'),
        (WORDS, dict(templates=['{}'] * 60_000), '60000 templates are 240000 texts'),
        (WORDS, dict(threshold=30), 'threshold=30 is not a score'),
    ],
    ids=['none', 'number', 'many', 'long', 'control', 'templates', 'texts', 'threshold'],
)
def test_words_that_are_refused(seg, drawn, classes, options, message):
    """Before any image is read; the next call is not affected."""
    with pytest.raises(ESCNetError, match=message):
        seg.stream(['nowhere.png'], classes, **options)
    assert seg(drawn[0], classes=WORDS).classes == tuple(WORDS)


def test_interleaved_calls(seg, drawn):
    """Two streams of different words, one result of each at a time, and one in a thread."""
    image, _ = drawn
    expected = seg(image, classes=WORDS), seg(image, classes=WORDS[:2])
    first, second = seg.stream([image] * 2, WORDS), seg.stream([image] * 2, WORDS[:2])
    for _ in range(2):
        for stream, result in ((first, expected[0]), (second, expected[1])):
            np.testing.assert_array_equal(next(stream).labels, result.labels)
    found = []
    thread = threading.Thread(target=lambda: found.append(seg(image, classes=WORDS[:2])))
    thread.start()
    mine = seg(image, classes=WORDS)
    thread.join()
    np.testing.assert_array_equal(mine.labels, expected[0].labels)
    np.testing.assert_array_equal(found[0].labels, expected[1].labels)


def test_a_query(seg, drawn):
    query = Query.create(Vocabulary.create(WORDS[:2]), background=WORDS[2:])
    result = seg(drawn[0], query)
    assert result.query is query


def test_scores_that_are_not_kept(seg, drawn):
    result = seg(drawn[0], classes=WORDS, keep_class_scores=False)
    assert result.score_maps is None
    with pytest.raises(ESCNetError, match='keep_class_scores=True'):
        result.class_scores('wood')


# -- models ------------------------------------------------------------------------------------


def test_models_that_are_refused(tmp_path):
    half = tmp_path / 'half.pth'
    half.write_bytes(CHECKPOINT.read_bytes()[:100_000])
    cases = [
        (('nowhere.py', CHECKPOINT, 'cpu'), 'config nowhere.py does not exist'),
        ((CONFIG, 'nowhere.pth', 'cpu'), 'nowhere.pth does not exist'),
        ((CONFIG, half, 'cpu'), 'cannot be read'),
        ((CONFIG, CHECKPOINT, 'abacus'), "device 'abacus' cannot be used"),
        ((CONFIG, CHECKPOINT, 'cuda:99'), "device 'cuda:99' cannot be used"),
    ]
    for arguments, message in cases:
        with pytest.raises(ESCNetError, match=message):
            OpenVocabInferencer(*arguments)
    with pytest.raises(ESCNetError, match='does not fit ESCNet'):
        OpenVocabInferencer(CONFIG, CHECKPOINT, 'cpu', cfg_options={'model.neck.num_blocks': 3})


def test_out_of_memory_is_one_sentence(seg, drawn, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ...")

    monkeypatch.setattr(seg.model, 'scores', fail)
    monkeypatch.setattr(seg.model.backbone, 'forward', fail)
    with pytest.raises(ESCNetError, match=r'96x96 pixels with 4 words, does not fit into the mem'):
        seg(drawn[0], classes=WORDS)
    with pytest.raises(ESCNetError, match=r'96x96 pixels, does not fit .* make the image smaller'):
        seg.dense_features(drawn[0])


def test_kept_text_features(seg):
    """They take the place of the text encoder, and wrong ones are refused."""
    image = scene(0, 5)[0]
    text = seg.text_features(WORDS, templates=['{}'])
    (found,) = seg.stream([image], WORDS, text_features=text)
    (expected,) = seg.stream([image], WORDS, templates=['{}'])
    np.testing.assert_array_equal(found.scores, expected.scores)
    for wrong, message in ((text[1:], 'has the shape'), (2 * text, 'rows of norm 2 to 2')):
        with pytest.raises(ESCNetError, match=message):
            seg.stream([image], WORDS, text_features=wrong)


def test_a_checkpoint_is_read_once(monkeypatch):
    """Checked, and its words and weights taken, in one go."""
    reads, load = [], torch.load

    def watched(file, *args, **kwargs):
        reads.append(str(file))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, 'load', watched)
    seg = OpenVocabInferencer(CONFIG, CHECKPOINT, 'cpu')
    assert reads == [str(CHECKPOINT)]
    assert seg.vocabulary == Vocabulary.create(vocabulary_of('seen')), 'also its colours'
