"""Does the trained miniature ESC-Net still perform as recorded, and would silent mistakes show?

Evaluates data/toyworld/escnet.pth on 50 fixed scenes, 10 of them larger and with the protocol of
the full model (windows and a global view), and compares mIoU and every pixel with the record. With
--breakages, each mistake of a list is introduced on purpose, one at a time. It must show: the mIoU
leaves its band, or too many pixels change.
"""

from __future__ import annotations

import mmseg_escnet.threads  # before torch

# isort: split

import mmseg_escnet.components  # before mmseg

# isort: split

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmseg_escnet
from mmseg_escnet.cli import run_tool
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.evaluation import OpenVocabIoUMetric
from mmseg_escnet.files import write_file
from mmseg_escnet.models.backbones import open_clip as backbone_module
from mmseg_escnet.models.clip_weights import set_activation
from mmseg_escnet.models.segmentors import open_vocab_segmentor as segmentor_module
from mmseg_escnet.models.segmentors.scores import Scores
from mmseg_escnet.models.weights import read_state_dict
from mmseg_escnet.toyworld.drawing import draw_scenes
from mmseg_escnet.toyworld.experiment import build_dataset, measure

ROOT = Path(mmseg_escnet.__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'
DATA = ROOT / 'data/toyworld'
RECORD = DATA / 'canary.json'
MAPS = DATA / 'canary.npz'
WINDOWS = dict(mode='windows', crop_size=(96, 96), stride=(32, 32), window_batch_size=5)
# name -> number of scenes, their size in pixels, test settings
SETS = {'whole': (40, 96, dict(mode='whole')), 'windows': (10, 128, WINDOWS)}
SEED = 7
# Rounding differs between processors and versions of PyTorch, which changes a few pixels.
BAND = 0.3  # mIoU points
CHANGED = 0.02  # percent of the pixels

Break = Callable[[object], contextlib.AbstractContextManager]


@dataclass
class Sighting:
    """The results of a model.

    Attributes:
        miou: mIoU (%) over the names that occur in the scenes.
        maps: Label maps (number of scenes, H, W), uint8, by set.
    """

    miou: float
    maps: dict[str, np.ndarray]

    def changed(self, recorded: dict[str, np.ndarray]) -> float:
        """Percent of the pixels that differ from recorded maps of at least as many scenes."""
        differ = [(maps != recorded[key][: len(maps)]).ravel() for key, maps in self.maps.items()]
        return 100 * float(np.concatenate(differ).mean())


def load_model(**changes):
    """The config and the trained model.

    Args:
        changes: Settings to change, by dotted name with '__' for the dots.
    """
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIG)
    untrained = {'model.backbone.pretrained': None, 'model.neck.sam_pretrained': None}
    cfg.merge_from_dict(
        untrained | {key.replace('__', '.'): value for key, value in changes.items()}
    )
    model = MODELS.build(cfg.model)
    model.load_state_dict(read_state_dict(DATA / 'escnet.pth')[0])
    return cfg, model


def look(cfg, model, scenes: Path, share: float = 1.0) -> Sighting:
    """Segment the first scenes of every set.

    Args:
        cfg: The config.
        model: The trained model.
        scenes: Folder filled by :func:`draw`.
        share: Fraction of the scenes to segment.
    """
    # without groups, since a few scenes may not have a name of each
    evaluator = dict(cfg.test_evaluator, groups=None)
    results, maps = [], {}
    for key, (count, _, test_cfg) in SETS.items():
        count = round(share * count)
        dataset = build_dataset(cfg, data_root=f'{scenes / key}/', indices=count)
        with mock.patch.object(model, 'test_cfg', ConfigDict(test_cfg)):
            found = measure(model, dataset, evaluator, description=f'canary, {key}', keep=count)
        results += found.results
        maps[key] = np.stack(found.predictions).astype(np.uint8)
    class_iou, _ = OpenVocabIoUMetric.class_iou(results)
    return Sighting(float(np.nanmean(class_iou)), maps)


def read_maps() -> dict[str, np.ndarray]:
    """The recorded label maps."""
    with np.load(MAPS, allow_pickle=False) as maps:
        return dict(maps)


def draw(scenes: Path) -> None:
    """Draw the scenes of every set into a folder."""
    for key, (count, size, _) in SETS.items():
        draw_scenes(scenes / key, val=count, seed=SEED, size=size)


# -- mistakes ------------------------------------------------------------------------------------


def _activation(model) -> contextlib.AbstractContextManager:
    set_activation(model.backbone.clip, False)
    return contextlib.nullcontext()


def _template(model) -> contextlib.AbstractContextManager:
    model.text_encoder.templates = ('{}',)
    return contextlib.nullcontext()


def _context(model) -> contextlib.AbstractContextManager:
    """Texts are truncated to a context of eight tokens."""
    whole = model.text_encoder.tokenizer

    class Short:
        encode = whole.encode
        vocab_size = whole.vocab_size

        def __call__(self, texts, context_length):
            return F.pad(whole(texts, context_length=8), (0, context_length - 8))

    model.text_encoder.tokenizer = Short()
    return contextlib.nullcontext()


def _positions(model) -> contextlib.AbstractContextManager:
    """The embeddings fill the new grid one after the other, without resizing."""

    def not_resized(height: int, width: int) -> torch.Tensor:
        embedding = model.backbone.clip.visual.positional_embedding
        times = -(-height * width // (len(embedding) - 1))
        grid = embedding[1:].repeat(times, 1)[: height * width]
        return torch.cat([embedding[:1], grid])[None]

    return mock.patch.object(model.backbone, '_positional_embedding', not_resized)


def _readout(model) -> contextlib.AbstractContextManager:
    """The last block keeps its attention, as for the class token."""
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
    """SAM's transformers have random weights."""
    torch.manual_seed(0)
    fresh = MODELS.build(Config.fromfile(CONFIG).model)
    for block, other in zip(model.neck.blocks, fresh.neck.blocks, strict=True):
        block.sam_block.layers = other.sam_block.layers
    model.neck.prompt_encoder = fresh.neck.prompt_encoder
    return contextlib.nullcontext()


def _class_order(model) -> contextlib.AbstractContextManager:
    """Text i is compared for channel i + 1."""
    text_features = model.text_features

    def rolled() -> torch.Tensor:
        return text_features().roll(1, dims=0)

    return mock.patch.object(model, 'text_features', rolled)


def _windows(model) -> contextlib.AbstractContextManager:
    """Windows overwrite each other, and the global view is dropped."""

    def overwrite(*args, **kwargs):
        (found,) = right(*args, **kwargs | dict(global_view=False))
        result = torch.zeros(found.num_classes, *found.size, device=found.device)
        for view in found.versions[0].windows:
            height, width = view.resizer.target
            rows, columns = slice(view.top, view.top + height), slice(view.left, view.left + width)
            result[:, rows, columns] = view.part(slice(0, height), slice(0, len(result)))
        return [Scores.from_maps(result)]

    right = segmentor_module.window_inference
    return mock.patch.object(segmentor_module, 'window_inference', overwrite)


# name -> (settings of the config, change to the model)
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
    """The config and the model with one mistake, or none."""
    settings, breaks = BREAKAGES[name] if name else ({}, None)
    cfg, model = load_model(**settings)
    with breaks(model) if breaks else contextlib.nullcontext():
        yield cfg, model


def main() -> None:
    """Evaluate, and print a table of the mistakes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--breakages', action='store_true', help='introduce every mistake, one at a time'
    )
    parser.add_argument('--write', action='store_true', help='write the record')
    parser.add_argument('--share', type=float, default=1.0, help='fraction of the scenes, 0.1 to 1')
    args = parser.parse_args()
    if not 0.1 <= args.share <= 1:
        raise ESCNetError(f'--share {args.share} is out of range: give 0.1 to 1.')
    if args.write and args.share != 1:
        raise ESCNetError('--write needs all scenes: leave out --share.')
    with TemporaryDirectory() as folder:
        scenes = Path(folder)
        draw(scenes)
        right, rows = None, {}
        for name in (None, *(BREAKAGES if args.breakages else ())):
            start = time.monotonic()
            with broken(name) as (cfg, model):
                found = look(cfg, model, scenes, args.share)
            right = right or found
            rows[name] = dict(mIoU=found.miou, changed=found.changed(right.maps))
            print(
                f'{name or "as it should be":36s} {found.miou:6.2f} {found.miou - right.miou:+7.2f}'
                f' {rows[name]["changed"]:7.2f}%  {time.monotonic() - start:.0f} s',
                flush=True,
            )
    if args.write:
        record = dict(mIoU=right.miou, torch=torch.__version__, numpy=np.__version__)
        if args.breakages:
            record['broken'] = {name: row for name, row in rows.items() if name}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **right.maps)
        write_file(MAPS, buffer.getvalue())
        write_file(RECORD, json.dumps(record, indent=1).encode())


if __name__ == '__main__':
    run_tool(main)
