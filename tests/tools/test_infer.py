"""tools/infer.py as a user calls it, with the trained miniature model."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT, small_clip_cfg, write_openai_clip
from PIL import Image
from pycocotools.coco import COCO

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis import inferencer as inferencer_module
from mmseg_escnet.apis.images import MAX_PIXELS
from mmseg_escnet.files import sha256
from mmseg_escnet.models.segmentors import ESCNet
from mmseg_escnet.toyworld.model import toy_model
from mmseg_escnet.toyworld.scenes import scene

SCENE = 1_000_000
WORDS = 'orange ring, wood, yellow heart, water'
IMAGES = ['a.jpg', 'a.png', 'sub/a.png']


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('infer_tool', ROOT / 'tools/infer.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def seg():
    return inferencer_module.OpenVocabInferencer(*toy_model(), 'cpu')


@pytest.fixture
def segmented(seg, monkeypatch) -> list[str]:
    """Names of the images that were segmented; the model is loaded once for all tests."""
    found, stream = [], seg.stream

    def watched(images, *args, **kwargs):
        found.extend(path.name for path in images)
        return stream(images, *args, **kwargs)

    monkeypatch.setattr(seg, 'stream', watched)
    monkeypatch.setattr(inferencer_module, 'OpenVocabInferencer', lambda *_, **__: seg)
    return found


@pytest.fixture
def photos(tmp_path):
    """photos/{a.jpg, a.png, sub/a.png}"""
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    for number, name in enumerate(IMAGES):
        Image.fromarray(scene(0, SCENE + number)[0]).save(folder / name)
    return folder


@pytest.fixture
def infer(tool, segmented, photos, capsys):
    """Call the tool on the photographs; returns its status, what it segmented and printed."""

    def call(*arguments, inputs=(photos,), classes=WORDS):
        segmented.clear()
        words = [] if classes is None else ['--classes', classes]
        out = ['--out-dir', photos.parent / 'out']
        status = tool.main([*map(str, [*inputs, *out, *words, *arguments])])
        return status, list(segmented), capsys.readouterr()

    return call


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_what_is_written(infer, photos, seg):
    status, segmented, printed = infer('--scores')
    out = photos.parent / 'out'
    assert status == 0
    assert len(segmented) == 3
    assert '3 images segmented, 0 already there, 0 failed' in printed.out
    assert 'the miniature model of the toy world' in printed.out
    kinds = ('labels', 'overlays', 'scores')
    expected = {f'{kind}/{name}.png' for kind in kinds for name in IMAGES}
    assert files(out) == expected | {'names.json'}
    for name in IMAGES:
        (result,) = seg([photos / name], classes=WORDS.split(', '))
        labels = read(out / f'labels/{name}.png')
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, result.labels)
        scores = read(out / f'scores/{name}.png') / 65535
        np.testing.assert_allclose(scores, result.scores, atol=1e-5)
        overlay = read(out / f'overlays/{name}.png')
        np.testing.assert_array_equal(overlay, np.array(result.overlay()))
    record = json.loads((out / 'names.json').read_text())
    assert record['names'] == WORDS.split(', ')
    assert record['ignore_index'] == 255
    assert len(record['checkpoint_sha256']) == 64


def test_resumes_where_it_was_interrupted(infer, photos):
    infer()
    out = photos.parent / 'out'
    (out / 'labels/a.png.png').unlink()
    (out / 'overlays/sub/a.png.png').write_bytes(b'')
    status, segmented, printed = infer()
    assert status == 0
    assert segmented == ['a.png', 'a.png']
    assert '2 images segmented, 1 already there' in printed.out
    assert infer()[1] == []
    assert infer('--scores')[1] == ['a.jpg', 'a.png', 'a.png'], 'there were no scores'
    assert infer('--no-overlay')[1] == [], 'more than needed exists'


def test_outdated_results_are_replaced(infer, photos):
    infer('--scores')
    out = photos.parent / 'out'
    before = read(out / 'labels/a.png.png')
    Image.fromarray(scene(0, SCENE + 9)[0]).save(photos / 'a.png')
    assert infer()[1] == ['a.png']
    assert (read(out / 'labels/a.png.png') != before).any()
    assert not (out / 'scores/a.png.png').exists(), 'scores of another image'
    assert (out / 'scores/a.jpg.png').exists()


def test_other_words_go_into_numbered_folders(infer, photos):
    """Nothing is lost, and every run resumes in its own folder, whatever the order."""
    out = photos.parent / 'out'
    infer()
    before = {name: (out / name).read_bytes() for name in files(out)}
    runs = (['--threshold', '0.5'], ['--background', 'sand'], ['--synonyms', 'first'])
    for number, options in enumerate(runs, start=2):
        status, segmented, printed = infer(*options)
        assert (status, len(segmented)) == (0, 3)
        assert f'{out} holds other results, so these go to {out}{number}' in printed.out
    infer('--scores', inputs=[photos / 'a.png'], classes='wood: planks | boards, water')
    record = json.loads((photos.parent / 'out5/names.json').read_text())
    assert record['names'] == ['wood', 'water']
    assert record['words'] == [['planks', 'boards'], ['water']]
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    for options in reversed(runs):
        assert infer(*options)[1] == [], 'it resumes'
    assert infer()[1] == []
    shutil.rmtree(photos.parent / 'out2')
    assert infer(*runs[1])[1] == [], 'a gap in the numbers'
    assert len(infer(classes='grass, stone')[1]) == 3
    names = json.loads((photos.parent / 'out2/names.json').read_text())['names']
    assert names == ['grass', 'stone'], 'the first free number'


def test_results_are_no_images_in_any_of_the_folders(infer, photos, monkeypatch):
    """Results beside the photographs, a folder of them that is not a result, the folder itself."""
    (photos / 'out3').mkdir()
    Image.fromarray(scene(0, SCENE)[0]).save(photos / 'out3/photo.png')
    for words, folder in (('wood, water', 'out'), ('wood, sky', 'out2'), ('wood, sand', 'out4')):
        assert len(infer('--out-dir', photos / 'out', classes=words)[1]) == 4
        assert len(list((photos / folder / 'labels').rglob('*.png'))) == 4
    assert len(list((photos / 'out3').iterdir())) == 1
    for folder in photos.glob('out*'):
        shutil.rmtree(folder)
    monkeypatch.chdir(photos)
    for words, folder in (('wood, water', photos), ('wood, sky', photos.with_name('photos2'))):
        assert len(infer('--out-dir', '.', classes=words)[1]) == 3
        assert len(list((folder / 'labels').rglob('*.png'))) == 3


def test_overwrite(infer, photos):
    infer('--scores', '--coco')
    out = photos.parent / 'out'
    inputs = [photos / 'a.png', photos / 'sub']
    status, segmented, _ = infer('--overwrite', inputs=inputs, classes='wood, water')
    assert (status, len(segmented)) == (0, 2)
    assert files(out) == {
        'names.json',
        'coco.json',
        *(f'{kind}/{name}.png' for kind in ('labels', 'overlays') for name in IMAGES[1:]),
    }
    assert json.loads((out / 'names.json').read_text())['names'] == ['wood', 'water']
    assert json.loads((out / 'coco.json').read_text())['images'] == []
    assert infer('--overwrite', inputs=inputs, classes='wood, water')[1] == [], 'it resumes'
    with pytest.raises(ESCNetError, match='tokens in the template'):
        infer('--overwrite', classes='word ' * 30)
    assert json.loads((out / 'names.json').read_text())['names'] == ['wood', 'water']
    # the label maps of a data set
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(out / 'labels/mine.png')
    with pytest.raises(ESCNetError, match=r'holds 1 files that are no results .*labels/mine\.png'):
        infer('--overwrite')
    assert (out / 'labels/mine.png').exists()
    infer()
    assert (photos.parent / 'out2/labels/a.jpg.png').exists()


def test_names_of_others_are_left_alone(infer, photos):
    """Predictions of a test, whose label maps and names.json are in the folder itself."""
    out = photos.parent / 'out'
    out.mkdir()
    (out / 'names.json').write_text('{"names": ["a"], "ignore_index": 255}')
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(out / 'a.png')
    before = {name: (out / name).read_bytes() for name in files(out)}
    assert len(infer()[1]) == 3
    with pytest.raises(ESCNetError, match=r'holds 1 files that are no results .*names\.json'):
        infer('--overwrite')
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    assert len(files(photos.parent / 'out2')) == 7


def test_two_runs_at_once(infer, tool, photos, seg, monkeypatch):
    """One begins while the other loads its model."""
    other = [str(photos), '--classes', 'wood, water', '--out-dir', str(photos.parent / 'out')]

    def load(*_, **__):
        monkeypatch.setattr(inferencer_module, 'OpenVocabInferencer', lambda *_, **__: seg)
        assert tool.main([*other, '--device', 'cpu']) == 0
        return seg

    monkeypatch.setattr(inferencer_module, 'OpenVocabInferencer', load)
    _, _, printed = infer()
    for folder, names in (('out', ['wood', 'water']), ('out2', WORDS.split(', '))):
        record = json.loads((photos.parent / folder / 'names.json').read_text())
        assert record['names'] == names
        assert len(files(photos.parent / folder)) == 7
    assert f'so these go to {photos.parent / "out2"}' in printed.out


def test_coco_and_polygons(infer, photos, seg):
    """For each image as in Python, and COCO for all of them in one file that pycocotools reads."""
    (photos / 'a.jpg').unlink()
    infer('--coco')
    Image.fromarray(scene(0, SCENE)[0]).save(photos / 'a.jpg')
    (photos / 'b.png').write_bytes(b'')
    status, segmented, _ = infer('--coco', '--polygons', '--no-overlay')
    assert (status, sorted(segmented)) == (1, ['a.jpg', 'a.png', 'a.png', 'b.png'])
    out = photos.parent / 'out'
    coco = COCO(out / 'coco.json')
    assert [coco.imgs[i]['file_name'] for i in coco.getImgIds()] == IMAGES
    assert [coco.cats[i]['name'] for i in range(4)] == WORDS.split(', ')
    for image_id, name in zip(coco.getImgIds(), IMAGES, strict=True):
        labels = read(out / f'labels/{name}.png')
        found = {a['category_id']: coco.annToMask(a) for a in coco.imgToAnns[image_id]}
        assert set(found) == set(np.unique(labels))
        for class_id, mask in found.items():
            np.testing.assert_array_equal(mask, labels == class_id)
        shapes = json.loads((out / f'polygons/{name}.geojson').read_text())
        (result,) = seg([photos / name], classes=WORDS.split(', '))
        assert shapes['features'] == json.loads(json.dumps(result.to_polygons()['features']))
    assert not (out / 'coco/b.png.json').exists()
    assert infer('--coco', '--polygons', '--no-overlay')[1] == ['b.png']


def test_plain_overlays(infer, photos, seg):
    """In the size of the image; those with a legend are replaced, and the other way round."""
    Image.fromarray(scene(0, SCENE)[0]).resize((1700, 40)).save(photos / 'a.png')
    infer()
    out = photos.parent / 'out'
    (result,) = seg([photos / 'a.png'], classes=WORDS.split(', '))
    for option, expected in ((['--plain-overlay'], result.plain_overlay()), ([], result.overlay())):
        assert len(infer(*option)[1]) == 3
        assert infer(*option)[1] == []
        np.testing.assert_array_equal(read(out / 'overlays/a.png.png'), np.array(expected))
    picture = np.array(result.plain_overlay(), float)
    assert picture.shape == result.image.shape == (40, 1700, 3)
    inside = cv2.erode((result.labels == result.labels[20, 850]).astype(np.uint8), np.ones((9, 9)))
    color = np.array(result.palette[result.labels[20, 850]])
    mixed = 0.55 * color + 0.45 * result.image[inside > 0]
    np.testing.assert_allclose(picture[inside > 0], mixed, atol=0.51)


def test_half_precision(tool, photos, monkeypatch):
    """It reaches the network, and is another run."""
    dtypes, logits = [], ESCNet.logits

    def watched(self, *args, **kwargs):
        dtypes.append(torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None)
        return logits(self, *args, **kwargs)

    monkeypatch.setattr(ESCNet, 'logits', watched)
    out = photos.parent / 'out'
    command = [str(photos / 'a.png'), '--classes', WORDS, '--out-dir', str(out), '--device', 'cpu']
    assert tool.main(command) == 0
    assert tool.main([*command, '--half']) == 0
    assert dtypes == [None, torch.bfloat16]
    whole, half = (read(f'{folder}/labels/a.png.png') for folder in (out, f'{out}2'))
    assert (whole == half).mean() > 0.95


def test_what_is_said_about_each_image(infer, photos, seg):
    _, _, printed = infer()
    out = photos.parent / 'out'
    for name in IMAGES:
        (result,) = seg([photos / name], classes=WORDS.split(', '))
        line = next(line for line in printed.out.splitlines() if line.startswith(f'{name}: '))
        largest = max(WORDS.split(', '), key=lambda word: result.mask(word).mean())
        share = 100 * result.mask(largest).mean()
        said = re.fullmatch(r'(.+): (.+?) ([\d.]+) %.* \(([\d.]+) s\) -> (.+)', line)
        assert said[2] == largest
        assert abs(float(said[3]) - share) < 0.06
        assert 0 < float(said[4]) < 60
        assert said[5] == str(out / f'overlays/{name}.png')
    assert f'{out}: 3 images' in printed.out
    _, _, printed = infer('--no-overlay', classes='wood, water')
    assert f'-> {out}2/labels/a.jpg.png' in printed.out


@pytest.mark.parametrize(
    ('options', 'note'),
    [
        (['--threshold', '0.25'], 'threshold=0.25 has no effect, because the best of 4 words'),
        (['--threshold', '0.26'], None),
        (['--background', '0.2'], 'background=0.2 has no effect, because the best of 4 words'),
        (['--background', '0.4', '--threshold', '0.4'], 'pixels below threshold=0.4 have no class'),
    ],
    ids=str,
)
def test_notes_on_values_that_cannot_act(infer, options, note):
    _, _, printed = infer(*options)
    notes = [line for line in printed.out.splitlines() if 'has no effect' in line]
    assert len(notes) == (note is not None)
    assert not notes or (notes[0].startswith('note: ') and note in notes[0])


def test_a_bad_image_is_skipped_and_reported(infer, photos):
    infer()
    (photos / 'b.jpg').write_bytes(b'')
    content = (photos / 'a.png').read_bytes()
    (photos / 'a.png').write_bytes(content[:-30])
    Image.fromarray(scene(0, SCENE)[0]).save(photos / 'z.png')
    (photos / 'gone.png').symlink_to('nowhere')
    long = photos / f'{"x" * 249}.png'
    Image.fromarray(scene(0, SCENE)[0]).save(long)
    status, segmented, printed = infer()
    assert status == 1
    assert 'z.png' in segmented, 'the others are segmented'
    assert '1 images segmented, 2 already there, 4 failed' in printed.out
    failed = [line for line in printed.err.splitlines() if line.startswith('failed: ')]
    assert [line.split(' cannot ')[0].rsplit('/', 1)[-1] for line in failed[:2]] == [
        'a.png',
        'b.jpg',
    ]
    assert 'gone.png is not a regular file' in failed[2]
    assert 'is too long to append .png' in failed[3]
    out = photos.parent / 'out'
    assert not (out / 'labels/a.png.png').exists(), 'of what the image once was'
    assert (out / 'labels/z.png.png').exists()


def test_results_in_the_folder_of_the_images(infer, photos):
    assert infer('--out-dir', photos)[1] == ['a.jpg', 'a.png', 'a.png']
    assert infer('--out-dir', photos)[1] == [], 'results are no images'
    assert infer('--out-dir', photos, inputs=[f'{photos}/**/*.png'])[1] == []


def test_classes_of_a_file_and_background(infer, photos, tmp_path):
    path = tmp_path / 'words.yaml'
    path.write_text('planks: wood | timber\nlake: [water]\n')
    options = ['--classes-file', path, '--background', 'orange ring, yellow heart']
    assert infer(*options, '--templates', 'a drawing of a {}', classes=None)[0] == 0
    record = json.loads((tmp_path / 'out/names.json').read_text())
    assert record['names'] == ['planks', 'lake', 'other']
    assert record['words'] == [['wood', 'timber'], ['water'], ['orange ring', 'yellow heart']]
    assert record['templates'] == ['a drawing of a {}']
    assert record['ignore_index'] == 255


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['*.nothing'], r'No image found in \*\.nothing'),
        (['{photos}', '--classes', ' , '], 'There are no classes'),
        (['{photos}', '--classes', 'word ' * 30], 'tokens in the template'),
        (['{photos}', '--threshold', '3'], 'threshold=3.0 is not a score'),
        (['{photos}', '--templates', 'poem'], "Templates 'poem' are unknown"),
        (['{photos}', '--checkpoint', 'x.pth'], '--config is missing: give both'),
        (['{photos}', '--config', '{config}', '--checkpoint', 'x.pth'], 'There are no words'),
    ],
    ids=str,
)
def test_bad_input_ends_before_anything_is_written(tool, segmented, photos, arguments, message):
    places = dict(photos=photos, config=ROOT / 'configs/toyworld/escnet_toy.py')
    out = photos.parent / 'out'
    arguments = [argument.format(**places) for argument in arguments]
    if 'There are no words' in message:
        arguments[-1] = str(ROOT / 'data/toyworld/escnet.pth')
    with pytest.raises(ESCNetError, match=message):
        tool.main([*arguments, '--out-dir', str(out)])
    assert not out.exists()
    assert segmented == []


@pytest.mark.parametrize('pixels', ['0', '-5', 'many', '1e6'])
def test_numbers_of_pixels(tool, photos, pixels, capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main([str(photos), '--max-pixels', pixels])
    assert caught.value.code == 2
    assert f"'{pixels}' is not a positive number of pixels" in capsys.readouterr().err
    assert tool.parse_args([str(photos)]).max_pixels == MAX_PIXELS


def test_where_nothing_can_be_written(tool, photos, monkeypatch):
    """An error before the model is loaded, and existing files stay as they are."""
    monkeypatch.setattr(inferencer_module, 'OpenVocabInferencer', None)
    file, link = photos / 'a.png', photos / 'link'
    before = file.read_bytes()
    link.symlink_to('nowhere')
    for out in (file, file / 'sub/deep', link):
        with pytest.raises(ESCNetError, match=r'cannot be written to .* is not a folder: choose'):
            tool.main([str(photos), '--out-dir', str(out)])
    assert file.read_bytes() == before
    monkeypatch.setattr(os, 'access', lambda path, mode: path != photos)
    with pytest.raises(ESCNetError, match=r'photos is not writable: choose another folder'):
        tool.main([str(photos), '--out-dir', str(photos / 'deep/out')])


def test_a_full_disk(infer, photos, monkeypatch):
    """One sentence; all files are complete, and the same command resumes."""
    writes, out = [], photos.parent / 'out'
    replace = os.replace

    def full(part, path):
        writes.append(path)
        if len(writes) == 5:  # names.json, two files of the first image, one of the second
            raise OSError(28, 'No space left on device')
        replace(part, path)

    with monkeypatch.context() as patch:
        patch.setattr('mmseg_escnet.files.os.replace', full)
        with pytest.raises(ESCNetError, match=r'labels/a\.png\.png cannot be written \(No space'):
            infer()
    assert files(out) >= {'names.json', 'labels/a.jpg.png', 'overlays/a.jpg.png'}
    status, segmented, printed = infer()
    assert (status, segmented) == (0, ['a.png', 'a.png'])
    assert '2 images segmented, 1 already there, 0 failed' in printed.out


def test_interrupted_by_a_key(tool, infer, segmented, photos, seg, monkeypatch):
    """Ctrl-C in the second image: the first one is kept, and the same command resumes."""
    stream = seg.stream

    def interrupted(images, *args, **kwargs):
        if images and images[0].name == 'a.png':
            raise KeyboardInterrupt
        return stream(images, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(seg, 'stream', interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer()
    out = photos.parent / 'out'
    assert files(out) == {'names.json', 'labels/a.jpg.png', 'overlays/a.jpg.png'}
    assert infer()[1] == ['a.png', 'a.png']
    source = (ROOT / 'tools/infer.py').read_text()
    assert "run_tool(main, interrupted='run the same command again to resume')" in source


def test_statuses_and_the_words_of_the_toy_world(photos):
    """The whole program: 72 words by default, status 1 for one bad image, 2 for a wrong path."""
    (photos / 'b.png').write_text('no image')
    (photos / 'sub/a.png').unlink()

    def run(*arguments):
        command = [sys.executable, ROOT / 'tools/infer.py', *arguments]
        return subprocess.run(
            list(map(str, command)),
            cwd=photos,
            env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
            capture_output=True,
            text=True,
        )

    done = run('.', '--out-dir', '../out', '--device', 'cpu')
    assert done.returncode == 1, done.stderr[-2000:]
    assert 'Traceback' not in done.stderr
    assert 'Warning' not in done.stderr
    assert 'failed: Image ' in done.stderr
    assert len(json.loads((photos.parent / 'out/names.json').read_text())['names']) == 72
    labels, (_, truth) = read(photos.parent / 'out/labels/a.png.png'), scene(0, SCENE + 1)
    assert (labels == truth).mean() > 0.8, 'it does not find what is drawn'
    done = run('nowhere.png')
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'error: Image nowhere.png does not exist: check the path, and put a glob in quotes.'
    ]


def test_clip_alone(tool, photos, tmp_path, monkeypatch, capsys):
    """By a name of open_clip and a file of its weights."""
    monkeypatch.setattr(open_clip, 'get_model_config', lambda name: small_clip_cfg())
    write_openai_clip(tmp_path / 'clip.pt')
    command = [str(photos), '--clip', f'ViT-B-16:{tmp_path / "clip.pt"}', '--device', 'cpu']
    command += ['--out-dir', str(tmp_path / 'out'), '--classes', 'grass | lawn, sky']
    assert tool.main(command) == 0
    record = json.loads((tmp_path / 'out/names.json').read_text())
    assert record['names'] == ['grass | lawn', 'sky']
    assert record['checkpoint'] == 'clip.pt'
    assert record['checkpoint_sha256'] == sha256(tmp_path / 'clip.pt')
    assert '3 images segmented' in capsys.readouterr().out
    assert tool.main(command) == 0
    assert '0 images segmented, 3 already there' in capsys.readouterr().out
    assert tool.main([*command, '--synonyms', 'max']) == 0
    assert '3 images segmented, 0 already there' in capsys.readouterr().out
    with pytest.raises(ESCNetError, match='--clip is a model of its own'):
        tool.main([*command, '--config', 'a.py'])
    with pytest.raises(ESCNetError, match='There are no words'):
        tool.main(command[:-2])
    monkeypatch.undo()
    with pytest.raises(ESCNetError, match="no architecture 'ViT-X'"):
        tool.main([str(photos), '--clip', 'ViT-X', '--classes', 'sky'])


def test_all_that_is_missing_at_once(tool, tmp_path, monkeypatch):
    """The words and CLIP, which is not downloaded as long as there are none."""
    monkeypatch.setattr(open_clip, 'download_pretrained', None)
    monkeypatch.setattr('mmseg_escnet.models.clip_weights._find_in_cache', lambda tag: None)
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    arguments = [tmp_path / 'a.png', '--clip', 'ViT-B-16', '--out-dir', tmp_path / 'out']
    with pytest.raises(ESCNetError, match='2 problems:') as caught:
        tool.main([*map(str, arguments)])
    assert 'There are no words' in str(caught.value)
    assert 'mmseg-escnet download clip --model ViT-B-16' in str(caught.value)
    assert not (tmp_path / 'out').exists()
