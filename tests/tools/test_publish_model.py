"""mmseg-escnet publish: the file, its card, and how both are used, for real checkpoints."""

import functools
import hashlib
import http.server
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, load_tool
from huggingface_hub import ModelCard
from mmengine.config import Config
from PIL import Image
from tool_processes import run_tool, tool_of

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import OpenVocabInferencer, model_card
from mmseg_escnet.apis.inference_file import read_words
from mmseg_escnet.config import parse_config
from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import to_seen_ids
from mmseg_escnet.version import __version__

CONFIG = str(ROOT / 'configs/toyworld/escnet_toy.py')
CHECKPOINT = str(ROOT / 'data/toyworld/escnet.pth')
CONFIGS = [*sorted((ROOT / 'configs/escnet').glob('*.py')), Path(CONFIG)]


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/model_converters/publish_model.py')


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """A checkpoint of two steps, with the figures of mmseg-escnet test beside it."""
    root = tmp_path_factory.mktemp('scenes')
    for split in ('train', 'val'):
        for number in range(2):
            image, label = scene(1, number)
            label = to_seen_ids(label) if split == 'train' else label
            for kind, pixels in (('images', image), ('annotations', label)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / kind / split / f'{number}.png')
    phases = ('train', 'val', 'test')
    options = [f'{phase}_dataloader.dataset.data_root={root}/' for phase in phases]
    options += [f'{phase}_dataloader.num_workers=0' for phase in phases]
    options += ['train_dataloader.batch_size=2', 'model.neck.num_blocks=1']
    options += ['train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2']
    work_dir = root / 'work'
    same = ['--work-dir', work_dir, '--cfg-options', *options]
    for command in (['tools/train.py', CONFIG], ['tools/test.py', CONFIG, work_dir / 'iter_2.pth']):
        done = run_tool(*command, *same)
        assert done.returncode == 0, done.stderr[-2000:]
    return work_dir / 'iter_2.pth'


@pytest.fixture(scope='module')
def measured(trained) -> dict:
    """The entry of the figures."""
    content = json.loads((trained.parent / 'test_iter_2.json').read_text())
    return content['benchmarks']['ToyWorldDataset']


@pytest.fixture(scope='module')
def published(tool, trained, tmp_path_factory) -> Path:
    """The weights file; its card and its entry are beside it."""
    out = tmp_path_factory.mktemp('published') / 'new'
    tool.main([str(trained), '--out-dir', str(out)])
    (folder,) = out.iterdir()  # nothing is left behind
    assert {path.name for path in folder.iterdir()} == {
        folder.name + suffix for suffix in ('.safetensors', '.md', '.yml')
    }
    return folder / f'{folder.name}.safetensors'


@pytest.fixture(scope='module')
def url(published):
    """Of the weights file, on a server of this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=published.parent)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}/{published.name}'
        server.shutdown()


def publish(tool, folder, *arguments) -> str:
    """The card."""
    tool.main([*map(str, arguments), '--out-dir', str(folder)])
    (card,) = folder.glob('*/*.md')
    return card.read_text()


def test_the_name(published, trained):
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    today = torch.load(trained, weights_only=False)['meta']['experiment_name'].split('_')[-2]
    assert published.stem == f'escnet_toy_{today}-{digest[:8]}'
    assert digest in published.with_suffix('.md').read_text()


def test_the_same_checkpoint_gives_the_same_name_and_is_not_written_twice(tool, published, trained):
    before = published.stat().st_mtime_ns
    with pytest.raises(ESCNetError, match=f'{published.stem} exists'):
        tool.main([str(trained), '--out-dir', str(published.parents[1])])
    assert published.stat().st_mtime_ns == before
    assert os.listdir(published.parents[1]) == [published.stem]


def test_the_card_has_what_was_recorded_and_measured(published, trained, measured):
    text = published.with_suffix('.md').read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name) == ('apache-2.0', 'mmseg_escnet')
    assert (data.pipeline_tag, data.datasets) == ('image-segmentation', ['ToyWorldDataset'])
    on_card = {result.metric_name: result.metric_value for result in data.eval_results}
    means = {k: v for k, v in measured['metrics'].items() if 'mIoU' in k and v is not None}
    assert on_card == means
    assert 'mIoU_gt' in on_card
    words = ' '.join(text.split())
    seg = OpenVocabInferencer(published, device='cpu')
    for fact in (
        'steps | 2 |',
        'images in a step | 2 for each process',
        'training data | ToyWorldDataset |',
        f'parameters | {sum(p.numel() for p in seg.model.parameters())} |',
        f'ToyWorldDataset, with mmseg_escnet {__version__}:',
        json.dumps(measured['protocol']),
        f'test.py {CONFIG} {trained} --work-dir',
        f'{measured["metrics"]["aAcc"]:.2f} |',
        'num_blocks=1',  # of the config
    ):
        assert fact in words, fact
    for absent in ('not recorded', 'started from', 'Check the licence', 'not the version'):
        assert absent not in words
    (entry,) = yaml.safe_load(published.with_suffix('.yml').read_text())['Models']
    assert (ROOT / entry['Config']).samefile(CONFIG)
    assert entry['Metadata']['Iterations'] == 2
    assert entry['Results'][0]['Metrics'] == measured['metrics']


def test_the_lines_of_the_card_work(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / published.name).symlink_to(published)
    Image.fromarray(scene(0, 3)[0]).save('photo.jpg')
    text = published.with_suffix('.md').read_text()
    (python,) = re.findall(r'^```python\n(from .*?)^```', text, re.DOTALL | re.MULTILINE)
    exec(python, names := {})
    assert names['result'].classes == ('taxi', 'wet road', 'sofa | couch')
    assert (tmp_path / 'overlay.png').is_file()
    (command,) = re.findall(r'^mmseg-escnet infer .*$', text, re.MULTILINE)
    infer, *arguments = tool_of(command)
    done = run_tool(ROOT / infer, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'work_dirs/infer/labels/photo.jpg.png').is_file()


def test_from_a_url(published, url, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    image = scene(0, 3)[0]
    fetched = OpenVocabInferencer(url, device='cpu')(image)
    local = OpenVocabInferencer(published, device='cpu')(image)
    np.testing.assert_array_equal(fetched.scores, local.scores)
    assert '100' in capsys.readouterr().err  # progress
    Image.fromarray(image).save(tmp_path / 'photo.png')
    command = [ROOT / 'tools/infer.py', 'photo.png', '--checkpoint', f'{url}?download=true']
    done = run_tool(*command, cwd=tmp_path, TORCH_HOME=str(tmp_path / 'other'))
    assert done.returncode == 0, done.stderr
    label = Image.open(tmp_path / 'work_dirs/infer/labels/photo.png.png')
    np.testing.assert_array_equal(np.array(label), local.labels)
    assert os.listdir(tmp_path / 'other/hub/checkpoints') == [published.name]


def test_a_file_is_verified_before_it_is_read(published, tmp_path):
    other = tmp_path / published.name
    other.write_bytes(b'this is not safetensors')
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(ESCNetError, match=f'{digest}, not {published.stem[-8:]}'):
        OpenVocabInferencer(other)
    with pytest.raises(ESCNetError, match=f'not {published.stem[-8:]}'):
        OpenVocabInferencer(CONFIG, other)
    Image.new('RGB', (8, 8)).save(tmp_path / 'photo.png')
    done = run_tool(ROOT / 'tools/infer.py', 'photo.png', '--checkpoint', other, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, '')
    assert f'not {published.stem[-8:]}' in done.stderr
    whole = hashlib.sha256(published.read_bytes()).hexdigest()
    renamed = tmp_path / 'renamed.safetensors'
    renamed.symlink_to(published)
    OpenVocabInferencer(renamed, device='cpu', sha256=whole)
    with pytest.raises(ESCNetError, match='is not the published file'):
        OpenVocabInferencer(renamed, sha256=whole[::-1])
    with pytest.raises(ESCNetError, match='--sha256 is of a --checkpoint'):
        load_tool('tools/infer.py').main(['photo.png', '--sha256', whole])
    with pytest.raises(ESCNetError, match='sha256 is of an inference file'):
        OpenVocabInferencer(CONFIG, CHECKPOINT, sha256=whole)


def test_what_a_checkpoint_does_not_say_is_not_guessed(tool, tmp_path):
    (tmp_path / 'words.txt').write_text('red circle\nwood: wood | planks\nwater\n')
    options = ['--config', CONFIG, '--half', '--classes-file', tmp_path / 'words.txt']
    text = publish(tool, tmp_path / 'out', CHECKPOINT, *options)
    words = ' '.join(text.split())
    for fact in ('training data', 'steps', 'images in a step', 'written'):
        assert f'| {fact} | not recorded |' in words
    assert '3: red circle, wood, water' in words
    assert 'float16' in words
    assert 'None: there are no results' in words
    assert ModelCard(text).data.license == 'other'  # that of the training data is not known
    (file,) = tmp_path.glob('out/*/*.safetensors')
    assert read_words(file).synonyms[1] == ('wood', 'planks')
    (entry,) = yaml.safe_load(file.with_suffix('.yml').read_text())['Models']
    assert entry['Metadata']['Iterations'] is None


def test_figures_of_another_checkpoint(tool, trained, measured, tmp_path):
    other = measured | dict(checkpoint_sha256='0' * 64, checkpoint='iter_9.pth')
    path = tmp_path / 'test_iter_2.json'
    path.write_text(json.dumps(dict(benchmarks=dict(mine=measured, A=other))))
    with pytest.raises(ESCNetError, match=r'figures of A in .*iter_9\.pth with the SHA-256 0000'):
        publish(tool, tmp_path / 'out', trained, '--results', path)
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'iter_2.pth').symlink_to(trained)  # beside a file of figures, some its own
    first_look = dict(benchmarks=dict(glance=measured | dict(note='first look')))
    (tmp_path / 'test_iter_2_subset2.json').write_text(json.dumps(first_look))
    text = publish(tool, tmp_path / 'out', tmp_path / 'iter_2.pth')
    assert '| mine | 2 |' in ' '.join(text.split())
    assert ' A ' not in text
    assert 'glance' not in text


def test_what_is_said_of_figures(tool, trained, measured, tmp_path):
    changes = {
        'A': (dict(version='0.1.9'), 'A, with mmseg_escnet 0.1.9, **not the version that made'),
        'B': (dict(images=2, published_images=5000), '| B | 2 of 5000 |'),
        'C': (dict(protocol=dict(augmented=True)), '| C, augmented | 2 |'),
        'D': (dict(metrics=dict(mIoU_gt=None)), '| D | 2 | - | - |'),
    }
    entries = {key: measured | change for key, (change, _) in changes.items()}
    del entries['D']['version'], entries['D']['command']
    (tmp_path / 'some.json').write_text(json.dumps(dict(benchmarks=entries)))
    options = ['--half', '--results', tmp_path / 'some.json']
    card = publish(tool, tmp_path / 'out', trained, *options)
    text = ' '.join(card.split())
    for _, said in changes.values():
        assert said in text
    assert 'D, with mmseg_escnet of a version that is not recorded, **not' in text
    assert '# not recorded' in text
    (model,) = yaml.safe_load(card.split('---')[1])['model-index']
    assert [each['dataset']['name'] for each in model['results']] == ['A', 'C, augmented']
    (entry,) = yaml.safe_load(next(tmp_path.glob('out/*/*.yml')).read_text())['Models']
    assert [each['Dataset'] for each in entry['Results']] == ['A', 'C, augmented', 'D']
    assert all('value' in metric for each in model['results'] for metric in each['metrics'])
    assert 'before its weights were rounded to float16' in text


def test_output_is_whole_or_absent(tool, trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        (part,) = (tmp_path / 'out').iterdir()
        assert list(part.rglob('*.safetensors'))
        raise KeyboardInterrupt

    monkeypatch.setattr(model_card, 'describe', fail)
    with pytest.raises(KeyboardInterrupt):
        publish(tool, tmp_path / 'out', trained)
    assert os.listdir(tmp_path / 'out') == []


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['none.pth'], r'none\.pth does not exist'),
        ([CHECKPOINT], r'escnet\.pth has no config in it'),
        ([CHECKPOINT, '--config', 'none.py'], r'none\.py does not exist'),
        (
            [CHECKPOINT, '--config', CONFIG, '--results', 'none.json'],
            r'none\.json is not a file of',
        ),
        (
            [CHECKPOINT, '--config', CONFIG, '--cfg-options', 'model.neck.num_blocks=1'],
            'does not fit|not in',
        ),
        ([CHECKPOINT, '--config', CONFIG, '--out-dir', 'file'], r'file/.* cannot be written'),
    ],
)
def test_bad_input(arguments, said, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ESCNetError, match=said):
        tool.main(arguments)
    assert os.listdir(tmp_path) == ['file']
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize(
    ('part', 'terms'),
    [
        (dict(clip='openai'), 'CLIP of OpenAI: MIT'),
        (dict(clip='laion2b_s34b_b88k'), 'CLIP of OpenCLIP: MIT'),
        (dict(clip='merged2b_s8b_b131k'), 'EVA-02-CLIP: '),
        (dict(clip='metaclip_400m'), 'CLIP metaclip_400m: None'),
        (dict(clip='openai.pt'), 'CLIP openai.pt: None'),
        (dict(sam='data/weights/sam_vit_b_01ec64.pth'), 'decoder of SAM: '),
        (dict(sam='mine/other.pth'), 'SAM other.pth: None'),
        (dict(data='COCOStuff171Dataset'), 'COCO-Stuff: '),
        (dict(data='FolderDataset'), 'data FolderDataset: None'),
        (dict(start='work_dirs/a/iter_9.pth'), 'checkpoint iter_9.pth: None'),
    ],
)
def test_licences(part, terms):
    model = dict(backbone=dict(pretrained=part.get('clip')))
    model['neck'] = dict(sam_pretrained=part.get('sam'))
    data = [part.get('data', 'ToyWorldDataset')]
    found = model_card._licences(model, data, part.get('start'))
    assert len(found) == (1 if 'data' in part else 2)
    assert any(f'{name}: {text}'.startswith(terms) for name, text in found.items())


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_our_configs_in_a_checkpoint(path):
    """They are read as they were, and the licence of each part is known."""
    cfg = Config.fromfile(path)
    read = parse_config(cfg.pretty_text)
    assert read.to_dict() == cfg.to_dict()
    data = read.train_dataloader.dataset.type
    assert all(model_card._licences(read.model, [data], read.load_from).values())


@pytest.mark.parametrize(
    'text',
    [
        "a = open('ran', 'w')",
        "a = dict(b=[open('ran', 'w')])",
        "a = dict([open('ran', 'w')])",
        "open('ran', 'w')",
        "import os\na = os.remove('x')",
        'a = dict(**b)',
        "a = dict({'b': 1}, c=2)",
        'a = inf',
        'a =',
        'a = ' + '[' * 3000,
    ],
)
def test_a_config_in_a_checkpoint_is_not_executed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ESCNetError, match='config in the checkpoint cannot be read'):
        parse_config(text)
    assert os.listdir(tmp_path) == []
