"""Shared by the two pretraining tools: options, scenes in memory, a resumable training loop."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from mmseg_escnet.datasets.parallel import default_workers, parallel_map
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import write_file
from mmseg_escnet.toyworld.scenes import IMAGE_SIZE, WORLD_VERSION, scene

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / 'data/toyworld'
# CLIP's, for values from 0 to 255
MEAN, STD = (
    255 * torch.tensor(values)[:, None, None]
    for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
)
# Scenes below are those of make_scenes.py, scenes from here on are for pretraining alone
POOL_OFFSET = 2_000_000
CHECK_OFFSET = 3_000_000  # from here on, for its evaluation
CHECKPOINT_INTERVAL = 200  # steps
EVALUATION_INTERVAL = 250  # steps
INTERRUPTED = (
    f'the same command resumes from the last checkpoint (there is one every {CHECKPOINT_INTERVAL} '
    'steps)'
)
_SETTINGS = ('steps', 'batch_size', 'scenes', 'lr', 'seed', 'bf16', 'pooling')


# -- command line --------------------------------------------------------------------------------


def argument_parser(
    description: str, *, name: str, steps: int, batch_size: int, scenes: int, lr: float
) -> argparse.ArgumentParser:
    """The options of both tools.

    Args:
        description: Of the tool.
        name: 'clip' or 'sam'.
        steps: Default, as are the next ones.
        batch_size: Images per step.
        scenes: Number of scenes.
        lr: Peak learning rate.
    """
    parser = argparse.ArgumentParser(description=description)
    add, natural = parser.add_argument, _number(int, 1)
    add('--out', type=Path, default=DATA, help='folder for the weights')
    add(
        '--work-dir',
        type=Path,
        default=Path(f'work_dirs/toyworld_{name}'),
        help='folder for the scenes and the checkpoint',
    )
    add('--steps', type=natural, default=steps)
    add('--batch-size', type=natural, default=batch_size, help='images per step')
    most = CHECK_OFFSET - POOL_OFFSET
    add('--scenes', type=_number(int, 1, most), default=scenes, help='scenes to train on')
    add('--lr', type=_number(float, 1e-9), default=lr, help='peak learning rate')
    add('--seed', type=_number(int, 0), default=0)
    add('--threads', type=natural, help='of PyTorch (default: one per core)')
    return parser


def _number(kind: type, least: float, most: float = 1e9) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f'{text} is out of range: give {least} to {most:g}')
        return value

    parse.__name__ = kind.__name__  # in argparse's message
    return parse


def prepare(args: argparse.Namespace) -> None:
    """Create the folders; set the number of threads and the seed."""
    for folder in (args.work_dir, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)


# -- scenes --------------------------------------------------------------------------------------


def normalize(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8, RGB -> (B, 3, H, W) float32 with CLIP's mean and standard deviation."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - MEAN) / STD


def turn(array: np.ndarray, number: int) -> np.ndarray:
    """One of the eight rotations and reflections of axes 0 and 1."""
    array = np.rot90(array, number % 4)
    return array[:, ::-1] if number >= 4 else array


def _draw(indices: range, *, seed: int) -> np.ndarray:
    pictures = []
    for index in indices:
        image, label = scene(seed, POOL_OFFSET + index)
        pictures.append(np.concatenate([image, label[..., None]], axis=-1))
    return np.stack(pictures)


def scene_pool(folder: Path, *, seed: int, count: int, workers: int | None = None) -> np.ndarray:
    """Scenes to pretrain on, drawn once and cached in a file.

    Args:
        folder: Of the file.
        seed: Seed of the world.
        count: Number of scenes.
        workers: Drawing processes; by default one per core.

    Returns:
        (count, 96, 96, 4), uint8: red, green, blue, id in the vocabulary 'all'.
    """
    file = folder / f'scenes_v{WORLD_VERSION}_seed{seed}_{count}.npy'
    if not file.exists():
        pool = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 4), np.uint8)
        parts = [range(start, min(start + 100, count)) for start in range(0, count, 100)]
        draw = partial(_draw, seed=seed)
        workers = default_workers() if workers is None else workers
        for outcome in parallel_map(draw, parts, workers=workers, description='scenes/100'):
            pool[outcome.item.start : outcome.item.stop] = outcome.result
        buffer = io.BytesIO()
        np.save(buffer, pool)
        write_file(file, buffer.getbuffer())
    return np.load(file, mmap_mode='r')


# -- training ------------------------------------------------------------------------------------


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up over 100 steps, then constant, linear decay over the last quarter."""
    return min(1.0, (step + 1) / 100, 4 * (num_steps - step) / num_steps)


def pretrain(
    args: argparse.Namespace,
    model: nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    evaluate: Callable[[], dict[str, float]],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> list[dict]:
    """Train to the last step, from the checkpoint in ``args.work_dir`` if there is one.

    A step depends on its number, the settings and the weights alone, so a resumed run ends exactly
    like an uninterrupted one.

    Args:
        args: Options of :func:`argument_parser`.
        model: The model to train.
        loss: Maps the number of a step to its loss and values to display.
        evaluate: Computes metrics of the current model.
        betas: Of AdamW.

    Returns:
        A record for each evaluation, the last after the last step: step, seconds of training so
        far, the displayed values, metrics.

    Raises:
        ESCNetError: If the checkpoint was made with other settings.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=betas, weight_decay=0.05)
    settings = _settings(args)
    first, seconds, curve = _resume(args.work_dir, model, optimizer, settings)
    with tqdm(total=args.steps, initial=first, unit='step', dynamic_ncols=True) as bar:
        for step in range(first, args.steps):
            start = time.monotonic()
            torch.manual_seed(args.seed + step)
            for group in optimizer.param_groups:
                group['lr'] = args.lr * learning_rate_factor(step, args.steps)
            value, shown = loss(step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seconds += time.monotonic() - start
            bar.update()
            bar.set_postfix({key: f'{number:.3f}' for key, number in shown.items()}, refresh=False)
            last = step + 1 == args.steps
            if (step + 1) % EVALUATION_INTERVAL == 0 or last:
                model.eval()
                curve.append(dict(step=step + 1, seconds=round(seconds), **shown, **evaluate()))
                model.train()
                bar.write(json.dumps(curve[-1]))
            if (step + 1) % CHECKPOINT_INTERVAL == 0 or last:
                state = dict(
                    settings=settings,
                    model=model.state_dict(),
                    optimizer=optimizer.state_dict(),
                    step=step + 1,
                    seconds=seconds,
                    curve=curve,
                )
                write_file(args.work_dir / 'last.pth', _saved(state))
                write_file(args.work_dir / 'curve.json', json.dumps(curve, indent=1).encode())
    return curve


def _settings(args: argparse.Namespace) -> dict:
    """The options that the result depends on."""
    return {key: getattr(args, key) for key in _SETTINGS if key in args}


def _resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict
) -> tuple[int, float, list[dict]]:
    """Load the checkpoint if there is one; steps, seconds and evaluations so far."""
    file = folder / 'last.pth'
    if not file.exists():
        return 0, 0.0, []
    state = torch.load(file, weights_only=True)
    found = state['settings']
    if found != settings:
        different = ', '.join(
            f'{key}={found.get(key)} instead of {settings.get(key)}'
            for key in {**found, **settings}
            if found.get(key) != settings.get(key)
        )
        raise ESCNetError(
            f'{file} was made with other settings ({different}): choose another --work-dir, or '
            'delete the file to start over.'
        )
    model.load_state_dict(state['model'])
    optimizer.load_state_dict(state['optimizer'])
    return state['step'], state['seconds'], state['curve']


def _saved(content: dict) -> memoryview:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


# -- results -------------------------------------------------------------------------------------


def write_results(
    args: argparse.Namespace,
    name: str,
    state_dict: Mapping[str, Tensor],
    curve: list[dict],
    argv: Sequence[str] | None,
) -> None:
    """Write NAME.pth, the weights, and NAME.json, their command, settings and metrics.

    Args:
        args: Options of :func:`argument_parser`.
        name: 'clip' or 'sam'.
        state_dict: The weights.
        curve: What :func:`pretrain` returned.
        argv: Command line arguments; None for those of this process.
    """
    # in half precision, as OpenAI's CLIP is published
    weights = {
        key: value.detach().half() if value.is_floating_point() else value.detach().clone()
        for key, value in state_dict.items()
    }
    write_file(args.out / f'{name}.pth', _saved(weights))
    final = dict(curve[-1])
    words = sys.argv[1:] if argv is None else argv
    record = dict(
        command=shlex.join(['python', f'tools/toyworld/pretrain_{name}.py', *words]),
        seed=args.seed,
        steps=final.pop('step'),
        seconds=final.pop('seconds'),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        metrics=final,
        settings=_settings(args),
        curve=curve,
    )
    write_file(args.out / f'{name}.json', json.dumps(record, indent=1).encode())
