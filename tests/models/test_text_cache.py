"""TextCache: nothing stale, damaged or foreign is ever used, and nothing is encoded twice."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import ROOT, toy_clip_cfg, toy_model_cfg
from mmseg.registry import MODELS
from safetensors.torch import save_file

from mmseg_escnet import Vocabulary
from mmseg_escnet.models import OpenCLIPTextEncoder
from mmseg_escnet.models.clip_weights import set_activation
from mmseg_escnet.models.text_encoders import TextCache, text_cache

WORDS = ['cat', 'wet road', 'traffic light', 'sofa, couch']
TEMPLATES = ('a photo of a {}.', 'many {}', '{}')


def make_clip(seed=0, **text):
    torch.manual_seed(seed)
    cfg = toy_clip_cfg()
    cfg['text_cfg'] = cfg['text_cfg'] | dict(vocab_size=49408) | text
    clip = open_clip.CustomTextCLIP(**cfg).eval()
    set_activation(clip, False)
    for parameter in clip.text.parameters():  # random weights as built tell no two words apart
        parameter.data += 0.1 * torch.randn_like(parameter)
    return clip


@pytest.fixture(scope='module')
def clip():
    return make_clip()


@pytest.fixture(autouse=True)
def _all_goes_to_disk(monkeypatch):
    monkeypatch.setattr(text_cache, 'MIN_TEXTS', 1)


class Use:
    """A process that begins: a new cache on a folder; ``encoded`` are the phrases it encoded."""

    def __init__(self, folder, clip, words=WORDS, **options):
        self.cache, self.clip, self.encoded = TextCache(folder), clip, []
        self.encoder = OpenCLIPTextEncoder(**(dict(templates=TEMPLATES) | options))
        encode = self.encoder.encode

        def watched(clip, phrases, **kwargs):
            self.encoded += phrases
            return encode(clip, phrases, **kwargs)

        self.encoder.encode = watched
        self.features = self(words)

    def __call__(self, words):
        vocabulary = Vocabulary.create(words)
        features = self.cache.text_features(self.encoder, self.clip, vocabulary)
        with torch.no_grad():
            options = dict(templates=self.encoder.templates, synonyms=self.encoder.synonyms)
            expected = OpenCLIPTextEncoder(**options)(self.clip, vocabulary)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
        return features


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


# -- what is not encoded twice -----------------------------------------------------------------


def test_the_next_process_reads_what_the_last_one_made(tmp_path, clip):
    first = Use(tmp_path / 'new' / 'folder', clip)
    assert first.encoded == ['cat', 'wet road', 'traffic light', 'sofa']
    second = Use(tmp_path / 'new' / 'folder', clip)
    assert second.encoded == []
    assert second.features.equal(first.features)
    assert not second.features.requires_grad


def test_another_word_costs_that_word(tmp_path, clip):
    use = Use(tmp_path, clip)
    use.encoded.clear()
    use(['taxi', *WORDS[::-1]])
    assert use.encoded == ['taxi']
    use(['taxi'])
    assert use.encoded == ['taxi']
    assert Use(tmp_path, clip, ['wet road', 'taxi', 'cat']).encoded == []
    mean = Use(tmp_path, clip, synonyms='mean')  # the second synonym is new, the others are not
    assert mean.encoded == ['couch']
    assert not mean.features[3].equal(use(WORDS)[3])


def test_a_phrase_of_two_classes_is_encoded_once(tmp_path, clip):
    use = Use(tmp_path, clip, ['sofa, couch', 'sofa, settee', 'cat'])
    assert use.encoded == ['sofa', 'cat']
    assert use.features[0].equal(use.features[1])


def test_few_texts_stay_in_memory(tmp_path, clip, monkeypatch):
    """Four phrases in three templates; to encode them is cheaper than to read all weights."""
    monkeypatch.setattr(text_cache, 'MIN_TEXTS', 13)
    assert files(tmp_path) == []
    Use(tmp_path, clip)
    assert files(tmp_path) == []
    monkeypatch.setattr(text_cache, 'MIN_TEXTS', 12)
    Use(tmp_path, clip)
    assert len(files(tmp_path)) == 1


def test_an_interruption_keeps_what_is_finished(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(text_cache, '_TEXTS_AT_A_TIME', 6)
    encode, calls = OpenCLIPTextEncoder.encode, []

    def interrupted(self, clip, phrases, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(phrases)
        return encode(self, clip, phrases, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(OpenCLIPTextEncoder, 'encode', interrupted)
        with pytest.raises(KeyboardInterrupt):
            Use(tmp_path, clip)
    assert calls == [['cat', 'wet road']]
    assert Use(tmp_path, clip).encoded == ['traffic light', 'sofa']
    assert Use(tmp_path, clip).encoded == []


# -- what the embeddings depend on -------------------------------------------------------------


def in_place(clip):
    clip.text.transformer.resblocks[0].ln_1.bias.add_(0.1)


def last_bit(clip):
    weight = clip.text.token_embedding.weight
    weight[7, 3] = torch.nextafter(weight[7, 3], torch.tensor(9.0))


def loaded(clip):
    clip.load_state_dict(make_clip(seed=1).state_dict())


def averaged(clip):
    for parameter in clip.parameters():
        parameter.data.copy_(parameter.data + 0.1 * torch.randn_like(parameter))


def quick_gelu(clip):
    set_activation(clip, True)


def half(clip):
    clip.text.bfloat16()


@pytest.mark.parametrize('same_process', [True, False])
@pytest.mark.parametrize('change', [in_place, last_bit, loaded, averaged, quick_gelu, half])
@torch.no_grad()
def test_other_weights(tmp_path, change, same_process):
    clip = make_clip()
    use = Use(tmp_path, clip)
    before = use.features
    change(clip)
    if same_process:
        use.encoded.clear()
        after = use(WORDS)
    else:
        use = Use(tmp_path, clip)
        after = use.features
    assert len(use.encoded) == 4
    if change is not last_bit:
        assert (after - before).abs().max() > 1e-3
    assert len({path.name[:64] for path in files(tmp_path)}) == 2
    assert Use(tmp_path, make_clip()).encoded == []  # those of the first weights are still there


def test_a_change_that_memory_does_not_notice_gets_into_no_file(tmp_path):
    """Through ``.data``, and not in the last layer; the file must not be of the first weights."""
    clip = make_clip()
    use = Use(tmp_path, clip)
    clip.text.token_embedding.weight.data.mul_(2)
    with pytest.raises(AssertionError):
        use(WORDS)  # known limit: it serves what it has
    use.cache.text_features(use.encoder, clip, Vocabulary.create(['taxi']))
    unchanged = Use(tmp_path, make_clip(), ['taxi'])
    assert unchanged.encoded == ['taxi']


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(templates='scene'), {}),
        (dict(templates=TEMPLATES[::-1]), {}),
        (dict(templates=[*TEMPLATES[:2], '{} ']), {}),
        ({}, dict(heads=4)),  # which no weight tells
        ({}, dict(context_length=50)),
    ],
)
def test_other_settings(tmp_path, clip, options, text):
    Use(tmp_path, clip)
    other = make_clip(**text)
    assert len(Use(tmp_path, other, **options).encoded) == 4
    assert len({path.name[:64] for path in files(tmp_path)}) == 2


@pytest.mark.parametrize('precision', ['medium', 'high'])
def test_another_tokenizer_device_or_precision(tmp_path, clip, precision):
    use = Use(tmp_path, clip)
    settings = text_cache._settings(use.encoder, clip)
    use.encoder.tokenizer.vocab_size += 1
    assert text_cache._settings(use.encoder, clip) != settings
    use.encoder.tokenizer.vocab_size -= 1
    assert text_cache._settings(use.encoder, clip) == settings
    torch.set_float32_matmul_precision(precision)
    try:
        assert len(Use(tmp_path, clip).encoded) == 4
    finally:
        torch.set_float32_matmul_precision('highest')
    assert text_cache._settings(use.encoder, make_clip().to('meta')) != settings


def test_another_format(tmp_path, clip, monkeypatch):
    Use(tmp_path, clip)
    monkeypatch.setattr(text_cache, '_FORMAT', text_cache._FORMAT + 1)
    assert len(Use(tmp_path, clip).encoded) == 4


# -- damage ------------------------------------------------------------------------------------


def damage(path, content):
    path.write_bytes(content)


def is_rebuilt(folder, clip):
    """It is noticed with one warning, encoded anew, and whole from then on."""
    with pytest.warns(UserWarning, match='cannot be used') as caught:
        use = Use(folder, clip)
    assert len(caught) == 1
    assert len(use.encoded) == 4
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert Use(folder, clip).encoded == []
    return True


@pytest.fixture
def file(tmp_path, clip):
    Use(tmp_path, clip)
    (path,) = files(tmp_path)
    return path


def test_every_flipped_byte_is_noticed(file, clip):
    key = text_cache._FILE_NAME.fullmatch(file.name)
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], 'little')
    stored = json.loads(whole[8 : 8 + header])['__metadata__']['key']
    assert len(text_cache._read_file(file, stored, key[2], 32)) == 4
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        damage(file, content)
        with pytest.raises(ValueError, match='damaged'):
            text_cache._read_file(file, stored, key[2], 32)
    damage(file, content)
    assert is_rebuilt(file.parent, clip)


@pytest.mark.parametrize('part', [0, 4, 8, 200, -40, -1])
def test_a_file_cut_short(file, clip, part):
    damage(file, file.read_bytes()[:part])
    assert is_rebuilt(file.parent, clip)


def test_a_folder_in_place_of_the_file(file, clip):
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match='cannot be'):
        assert len(Use(file.parent, clip).encoded) == 4


def test_swapped_files(file, clip):
    """Each whole, each in the other's place."""
    other_clip = make_clip(seed=1)
    Use(file.parent, other_clip)
    (other,) = set(files(file.parent)) - {file}
    mine, theirs = file.read_bytes(), other.read_bytes()
    damage(file, theirs)
    damage(other, mine)
    assert is_rebuilt(file.parent, clip)
    assert is_rebuilt(file.parent, other_clip)


def test_a_file_under_the_name_of_other_weights(file, clip):
    """Its bytes are those of its name, and yet it is not what it says."""
    other_clip = make_clip(seed=1)
    Use(file.parent, other_clip)
    (other,) = set(files(file.parent)) - {file}
    shutil.move(other, file.with_name(file.name[:65] + other.name[65:]))
    file.unlink()
    with pytest.warns(UserWarning, match='of other weights or settings'):
        assert len(Use(file.parent, clip).encoded) == 4
    assert Use(file.parent, clip).encoded == []


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda rows: rows[:3], r'\(3, 32\) numbers for 4'),
        (lambda rows: rows[:, :31].contiguous(), r'\(4, 31\) numbers for 4'),
        (lambda rows: rows.half(), 'numbers for 4'),
        (lambda rows: rows.log(), 'not finite'),
        (None, 'embeddings'),
    ],
)
def test_whole_files_with_other_content(file, clip, change, message):
    """Such as a later version might write."""
    header = int.from_bytes(file.read_bytes()[:8], 'little')
    metadata = json.loads(file.read_bytes()[8 : 8 + header])['__metadata__']
    rows = torch.stack(
        list(text_cache._read_file(file, metadata['key'], file.name[65:129], 32).values())
    )
    tensors = {'others': rows} if change is None else {'embeddings': change(rows)}
    save_file(tensors, file, metadata)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.rename(file.with_name(f'{file.name[:65]}{digest}.safetensors'))
    with pytest.warns(UserWarning, match=message):
        assert len(Use(file.parent, clip).encoded) == 4
    assert Use(file.parent, clip).encoded == []


def test_weights_that_are_no_good_are_not_kept(tmp_path):
    clip = make_clip()
    clip.text.ln_final.bias.data[0] = torch.nan
    encoder, words = OpenCLIPTextEncoder(), Vocabulary.create(WORDS)
    assert TextCache(tmp_path).text_features(encoder, clip, words).isnan().any()
    assert files(tmp_path) == []


# -- folders -----------------------------------------------------------------------------------


def goes_on_without(folder, clip):
    with pytest.warns(UserWarning, match=r'cannot be kept in .*MMSEG_ESCNET_CACHE') as caught:
        use = Use(folder, clip)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        use(['taxi', *WORDS])
    assert len(caught) == 1
    assert use.encoded == ['cat', 'wet road', 'traffic light', 'sofa', 'taxi']
    return True


def test_a_folder_that_cannot_be(tmp_path, clip):
    (tmp_path / 'file').write_text('')
    assert goes_on_without(tmp_path / 'file', clip)
    assert goes_on_without(tmp_path / 'file' / 'text', clip)


def test_a_full_disk(tmp_path, clip, monkeypatch):
    def full(descriptor, mode):
        os.close(descriptor)
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fdopen', full)
        assert goes_on_without(tmp_path, clip)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_read(tmp_path, clip, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(Path, 'iterdir', refuse)
    assert goes_on_without(tmp_path, clip)


def test_the_files_used_last_are_kept(tmp_path, clip, monkeypatch):
    (tmp_path / 'notes.safetensors').write_text('not ours')
    names = {}
    for age, word in enumerate(['cat', 'dog', 'taxi']):
        before = set(files(tmp_path))
        Use(tmp_path, clip, [word])
        (names[word],) = set(files(tmp_path)) - before
        os.utime(names[word], (1000 + age, 1000 + age))
    for name, age in (('.old.part', 1000), ('.new.part', None)):
        (tmp_path / name).write_text('')
        os.utime(tmp_path / name, age and (age, age))
    assert Use(tmp_path, clip, ['cat']).encoded == []  # used last now
    monkeypatch.setattr(text_cache, 'MAX_BYTES', 3 * text_cache._LEAST_BYTES)
    Use(tmp_path, clip, ['sky'])
    kept = set(files(tmp_path))
    assert {word for word in names if names[word] in kept} == {'cat', 'taxi'}
    assert {path.name for path in kept if not text_cache._FILE_NAME.fullmatch(path.name)} == {
        'notes.safetensors',
        '.new.part',
    }
    assert Use(tmp_path, clip, ['cat', 'sky', 'taxi']).encoded == []


def test_a_file_that_another_process_has_just_removed(tmp_path, clip, monkeypatch):
    Use(tmp_path, clip, ['taxi'])
    (file,) = files(tmp_path)
    gone = file.with_name(f'{file.name[:65]}{"0" * 64}.safetensors')
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, 'iterdir', lambda self: iter([gone, *iterdir(self)]))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert Use(tmp_path, clip, ['taxi']).encoded == []
        assert Use(tmp_path, clip).encoded == ['cat', 'wet road', 'traffic light', 'sofa']


@pytest.mark.parametrize('off', ['', '0'])
def test_the_variable(monkeypatch, tmp_path, off):
    monkeypatch.setenv('MMSEG_ESCNET_CACHE', str(tmp_path))
    assert text_cache.default_folder() == tmp_path / 'text'
    monkeypatch.setenv('MMSEG_ESCNET_CACHE', off)
    assert text_cache.default_folder() is None
    monkeypatch.delenv('MMSEG_ESCNET_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert text_cache.default_folder() == tmp_path / 'xdg/mmseg_escnet/text'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert text_cache.default_folder() == tmp_path / 'home/.cache/mmseg_escnet/text'


# -- in a model --------------------------------------------------------------------------------


def make_model(**backbone):
    torch.manual_seed(0)
    cfg = toy_model_cfg()
    cfg['backbone'].update(backbone)
    model = MODELS.build(cfg)
    model.set_vocabulary(WORDS)
    return model.eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_ESCNET_CACHE', str(tmp_path))
    return tmp_path / 'text'


@torch.no_grad()
def test_a_model_keeps_its_text_on_disk(folder, monkeypatch):
    features = make_model().text_features()
    assert len(files(folder)) == 1
    with monkeypatch.context() as patch:
        patch.delattr(OpenCLIPTextEncoder, 'encode')
        assert make_model().text_features().equal(features)
    monkeypatch.setenv('MMSEG_ESCNET_CACHE', '0')
    shutil.rmtree(folder)
    torch.testing.assert_close(make_model().text_features(), features)
    assert files(folder) == []


def test_training_neither_reads_nor_writes(folder):
    """Also not in the validation in between, after which the weights are gone."""
    model = make_model().train()
    assert model.text_features().requires_grad
    with torch.no_grad():
        model.eval().text_features()
    assert files(folder) == []
    frozen = make_model(trainable='none').train()  # stays what it is
    frozen.text_features()
    assert len(files(folder)) == 1


def test_it_is_seen_by_the_profiler():
    model = make_model()
    with torch.profiler.profile() as profile, torch.no_grad():
        model.text_features()
    assert 'escnet/text' in {event.key for event in profile.key_averages()}


WRITER = f"""
import sys
sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT / 'tests/models')!r}]
from pathlib import Path
from test_text_cache import Use, make_clip, text_cache
text_cache.MIN_TEXTS = 1
use = Use(Path(sys.argv[1]), make_clip())
for most in (4, 1000):  # files; while both make room, and while both only write
    text_cache.MAX_BYTES = most * text_cache._LEAST_BYTES
    print('ready', flush=True)
    sys.stdin.readline()
    for i in range(12):
        use.cache = text_cache.TextCache(use.cache.folder)
        use(['cat', f'word {{most}} {{i}}', f'{{sys.argv[2]}} {{most}} {{i}}'])
"""


def test_several_processes_at_once(tmp_path):
    """They begin together and encode the same and other words."""
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', WRITER, tmp_path, own],
            env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in ('left', 'right')
    ]
    for _ in range(2):
        for process in processes:
            assert process.stdout.readline() == 'ready\n'
        for process in processes:
            process.stdin.write('\n')
            process.stdin.flush()
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
        assert 'cannot be' not in errors
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        words = [f'{own} 1000 {i}' for own in ('left', 'right', 'word') for i in range(12)]
        assert Use(tmp_path, make_clip(), words).encoded == []
