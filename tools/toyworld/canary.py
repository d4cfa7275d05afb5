"""Does the trained miniature ESC-Net still reach what it did? And would a silent mistake be seen?

Evaluates data/toyworld/escnet.pth on 50 fixed scenes by the protocol of the full model (windows and
a global view). With --breakages every mistake of a list is made on purpose, one at a time; it must
bring the mIoU out of the band that tests/test_canary.py allows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from measure import build_dataset, measure

import mmseg_escnet
from mmseg_escnet.cli import run_tool
from mmseg_escnet.datasets.conversion import write_atomically
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.models.backbones import open_clip as backbone_module
from mmseg_escnet.models.clip_weights import set_activation
from mmseg_escnet.models.segmentors import escnet as segmentor_module
from mmseg_escnet.models.weights import read_state_dict

ROOT = Path(mmseg_escnet.__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'
DATA = ROOT / 'data/toyworld'
RECORD = DATA / 'canary.json'
NUM_SCENES = 50
SCENE_SIZE = 128  # pixels; windows are 96, so there are four and a global view
SEED = 7
BAND = 0.3  # mIoU points: other processors and PyTorch versions move a few pixels

Break = Callable[[object], contextlib.AbstractContextManager]


def load_model(**changes):
    """The config with some settings changed, and the trained model.

    Args:
        changes: Settings by dotted name, with '__' for the dots.
    """
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            'model.backbone.pretrained': None,
            'model.neck.sam_pretrained': None,
            'model.test_cfg': dict(
                mode='windows', crop_size=(96, 96), stride=(32, 32), window_batch_size=5
            ),
        }
        | {key.replace('__', '.'): value for key, value in changes.items()}
    )
    model = MODELS.build(cfg.model)
    model.load_state_dict(read_state_dict(DATA / 'escnet.pth')[0])
    return cfg, model


def canary_miou(cfg, model, scenes: Path, num_scenes: int = NUM_SCENES) -> float:
    """mIoU (%) over the names that occur in the first scenes."""
    dataset = build_dataset(cfg, data_root=f'{scenes}/', indices=num_scenes)
    # IoU over all names that occur; few scenes need not have one of every group
    evaluator = dict(cfg.test_evaluator, groups=None)
    return measure(model, dataset, evaluator, description='canary').metrics['mIoU_gt']


def draw(scenes: Path) -> None:
    """Draw the 50 scenes into a folder."""
    import make_scenes

    options = ['--train', '0', '--val', str(NUM_SCENES), '--seed', str(SEED), '--workers', '1']
    make_scenes.main(['--out', str(scenes), '--size', str(SCENE_SIZE), *options])


# -- mistakes ------------------------------------------------------------------------------------


def _activation(model) -> contextlib.AbstractContextManager:
    set_activation(model.backbone.clip, False)
    return contextlib.nullcontext()


def _template(model) -> contextlib.AbstractContextManager:
    model.text_encoder.templates = ('{}',)
    return contextlib.nullcontext()


def _context(model) -> contextlib.AbstractContextManager:
    """Texts are cut where a context of eight tokens ends."""
    whole = model.text_encoder.tokenizer

    class Short:
        encode = whole.encode

        def __call__(self, texts, context_length):
            return F.pad(whole(texts, context_length=8), (0, context_length - 8))

    model.text_encoder.tokenizer = Short()
    return contextlib.nullcontext()


def _positions(model) -> contextlib.AbstractContextManager:
    """The embeddings are laid out in the new grid one after the other, not resized."""

    def not_resized(height: int, width: int) -> torch.Tensor:
        embedding = model.backbone.clip.visual.positional_embedding
        times = -(-height * width // (len(embedding) - 1))
        grid = embedding[1:].repeat(times, 1)[: height * width]
        return torch.cat([embedding[:1], grid])[None]

    return mock.patch.object(model.backbone, '_positional_embedding', not_resized)


def _readout(model) -> contextlib.AbstractContextManager:
    """The last block attends, as it does for the class token."""
    return mock.patch.object(backbone_module, 'value_path', lambda block, x: block(x))


def _points(model) -> contextlib.AbstractContextManager:
    generator = model.neck.prompt_generator
    forward = generator.forward

    def swapped(*args):
        prompts = forward(*args)
        prompts.points = prompts.points.flip(-1)
        return prompts

    return mock.patch.object(generator, 'forward', swapped)


def _sam(model) -> contextlib.AbstractContextManager:
    """SAM's transformers are those of a model that was never given any weights."""
    torch.manual_seed(0)
    _, fresh = load_untrained()
    for block, other in zip(model.neck.blocks, fresh.neck.blocks, strict=True):
        block.sam_block.layers = other.sam_block.layers
    model.neck.prompt_encoder = fresh.neck.prompt_encoder
    return contextlib.nullcontext()


def load_untrained():
    """The config and the model without any weights."""
    from mmengine.config import Config
    from mmseg.registry import MODELS

    cfg = Config.fromfile(CONFIG)
    return cfg, MODELS.build(cfg.model)


def _class_order(model) -> contextlib.AbstractContextManager:
    """Text i is compared for channel i + 1."""
    text_features = model.text_features

    def rolled() -> torch.Tensor:
        return text_features().roll(1, dims=0)

    return mock.patch.object(model, 'text_features', rolled)


def _windows(model) -> contextlib.AbstractContextManager:
    """Windows are written over each other, and the global view is forgotten."""

    def overwrite(inputs, score, *, crop_size, stride, **_):
        result = None
        for top in range(0, inputs.shape[-2] - crop_size[0] + 1, stride[0]):
            for left in range(0, inputs.shape[-1] - crop_size[1] + 1, stride[1]):
                rows, columns = slice(top, top + crop_size[0]), slice(left, left + crop_size[1])
                scores = score(inputs[..., rows, columns])
                if result is None:
                    result = scores.new_zeros(*scores.shape[:2], *inputs.shape[-2:])
                result[..., rows, columns] = scores
        return result

    return mock.patch.object(segmentor_module, 'window_inference', overwrite)


# name -> (settings of the config, what is done to the model)
BREAKAGES: dict[str, tuple[dict, Break | None]] = {
    'images in BGR': (dict(model__data_preprocessor__bgr_to_rgb=False), None),
    "ImageNet's mean and deviation": (
        dict(
            model__data_preprocessor__mean=[123.675, 116.28, 103.53],
            model__data_preprocessor__std=[58.395, 57.12, 57.375],
        ),
        None,
    ),
    'GELU in place of QuickGELU': ({}, _activation),
    "template '{}'": ({}, _template),
    'texts cut after 8 tokens': ({}, _context),
    'positional embeddings not resized': ({}, _positions),
    'dense read-out with attention': ({}, _readout),
    'PPG threshold 0.9': (dict(model__neck__prompt_generator__threshold=0.9), None),
    'points as (y, x)': ({}, _points),
    "SAM's weights not loaded": ({}, _sam),
    'text of the neighbouring class': ({}, _class_order),
    'windows not averaged': ({}, _windows),
}


@contextlib.contextmanager
def broken(name: str | None) -> Iterator[tuple]:
    """The config and the model with one mistake in it, or none."""
    settings, breaks = BREAKAGES[name] if name else ({}, None)
    cfg, model = load_model(**settings)
    with breaks(model) if breaks else contextlib.nullcontext():
        yield cfg, model


def main() -> None:
    """Measure, and print the table of mistakes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--breakages', action='store_true', help='make every mistake once')
    parser.add_argument('--write', action='store_true', help=f'write {RECORD.relative_to(ROOT)}')
    parser.add_argument('--scenes', type=int, default=NUM_SCENES, help='number of scenes, 1 to 50')
    args = parser.parse_args()
    if not 1 <= args.scenes <= NUM_SCENES:
        raise ESCNetError(f'--scenes {args.scenes} is out of range: give 1 to {NUM_SCENES}.')
    if args.write and args.scenes != NUM_SCENES:
        raise ESCNetError('--write is for all scenes: leave out --scenes.')
    with TemporaryDirectory() as folder:
        scenes = Path(folder)
        draw(scenes)
        found = {}
        for name in (None, *(BREAKAGES if args.breakages else ())):
            start = time.monotonic()
            with broken(name) as (cfg, model):
                found[name] = canary_miou(cfg, model, scenes, args.scenes)
            drop = found[None] - found[name]
            print(
                f'{name or "as it should be":36s} {found[name]:6.2f} {-drop:+7.2f}  '
                f'{time.monotonic() - start:.0f} s',
                flush=True,
            )
    if args.write:
        record = dict(
            mIoU=found.pop(None),
            band=BAND,
            torch=torch.__version__,
            numpy=np.__version__,
        ) | (dict(broken=found) if args.breakages else {})
        write_atomically(RECORD, json.dumps(record, indent=1).encode())


if __name__ == '__main__':
    run_tool(main)
