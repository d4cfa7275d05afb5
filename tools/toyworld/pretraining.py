"""What the two pretraining tools share.

Their options, scenes in memory, a training that can be gone on with, and the record of it.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import time
from collections.abc import Callable, Mapping
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
# Of CLIP; in units of 0..255
MEAN, STD = (
    255 * torch.tensor(values)[:, None, None]
    for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
)
# Scenes from here on are drawn for pretraining alone (make_scenes.py draws those before) ...
POOL_OFFSET = 2_000_000
CHECK_OFFSET = 3_000_000  # ... and the metrics are taken on those from here on.
CHECKPOINT_INTERVAL = 200  # steps
EVALUATION_INTERVAL = 250  # steps
INTERRUPTED = (
    f'the same command goes on from the last checkpoint (there is one every {CHECKPOINT_INTERVAL} '
    'steps)'
)
_SETTINGS = ('steps', 'batch_size', 'scenes', 'lr', 'seed', 'bf16', 'pooling')


# -- command line --------------------------------------------------------------------------------


def argument_parser(
    description: str, *, name: str, steps: int, batch_size: int, scenes: int, lr: float
) -> argparse.ArgumentParser:
    """The options that both tools have.

    Args:
        description: What the help begins with.
        name: What is pretrained: 'clip' or 'sam'.
        steps: Default of the option, as are the next.
        batch_size: In pictures.
        scenes: Number of them.
        lr: The highest learning rate.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--out', type=Path, default=DATA, help='folder for the weights')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path(f'work_dirs/toyworld_{name}'),
        help='folder for the scenes and the checkpoint',
    )
    parser.add_argument('--steps', type=int, default=steps)
    parser.add_argument('--batch-size', type=int, default=batch_size, help='pictures a step')
    parser.add_argument('--scenes', type=int, default=scenes, help='scenes that pictures are of')
    parser.add_argument('--lr', type=float, default=lr, help='highest learning rate')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, help='of PyTorch; by default as many as cores')
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Check the options, make the folders, set threads and seed.

    Raises:
        ESCNetError: If a number is out of range.
    """
    limits = {
        'steps': (1, None),
        'batch_size': (1, None),
        'scenes': (1, CHECK_OFFSET - POOL_OFFSET),
        'seed': (0, None),
        'threads': (1, None),
    }
    for key, (least, most) in limits.items():
        value = getattr(args, key)
        if value is not None and not least <= value <= (most or value):
            allowed = f'{least} to {most}' if most else f'{least} or more'
            raise ESCNetError(f'{_option(key)} {value} is out of range: give {allowed}.')
    if not 0 < args.lr < float('inf'):
        raise ESCNetError(f'--lr {args.lr} is out of range: give a positive number.')
    for folder in (args.work_dir, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)


def settings_of(args: argparse.Namespace) -> dict:
    """What makes a run another one; its checkpoint is of no use to a run with others."""
    return {key: getattr(args, key) for key in _SETTINGS if key in args}


def command_line(parser: argparse.ArgumentParser, args: argparse.Namespace, *, script: str) -> str:
    """The command with every option that is not at its default, folders apart.

    Args:
        parser: Knows the defaults.
        args: The options.
        script: File name of the tool.
    """
    words = ['python', f'tools/toyworld/{script}']
    for key, value in vars(args).items():
        if key not in ('out', 'work_dir') and value != parser.get_default(key):
            words += [_option(key)] if value is True else [_option(key), str(value)]
    return shlex.join(words)


def _option(key: str) -> str:
    return '--' + key.replace('_', '-')


# -- scenes --------------------------------------------------------------------------------------


def normalize(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8, RGB -> (B, 3, H, W) float32 with CLIP's mean and deviation."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - MEAN) / STD


def turn(array: np.ndarray, number: int) -> np.ndarray:
    """One of the eight turns and reflections of a square, axes 0 and 1."""
    array = np.rot90(array, number % 4)
    return array[:, ::-1] if number >= 4 else array


def _draw(indices: range, *, seed: int) -> np.ndarray:
    pictures = []
    for index in indices:
        image, label = scene(seed, POOL_OFFSET + index)
        pictures.append(np.concatenate([image, label[..., None]], axis=-1))
    return np.stack(pictures)


def scene_pool(folder: Path, *, seed: int, count: int, workers: int | None = None) -> np.ndarray:
    """Scenes to pretrain on, drawn once and kept in a file.

    Args:
        folder: Where the file is.
        seed: Seed of the world.
        count: Number of scenes.
        workers: Processes that draw; by default as many as cores.

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
    """Linear warm-up over 100 steps, flat, linear towards zero over the last quarter."""
    return min(1.0, (step + 1) / 100, 4 * (num_steps - step) / num_steps)


def pretrain(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    num_steps: int,
    folder: Path,
    settings: dict,
    evaluate: Callable[[], dict[str, float]],
) -> list[dict]:
    """Train until the last step, from the checkpoint in the folder if there is one.

    What a step does depends on its number, the settings and the weights alone, so a run that was
    interrupted ends as any other.

    Args:
        model: What is trained.
        optimizer: Its optimiser; ``lr`` is the highest rate.
        loss: From the number of a step to its loss and what to show of it.
        num_steps: Steps in all.
        folder: Where ``last.pth`` and ``curve.json`` are kept.
        settings: See :func:`settings_of`.
        evaluate: Metrics of the model as it stands.

    Returns:
        One record an evaluation, the last after the last step: step, seconds of training until
        then, what the step showed, metrics.

    Raises:
        ESCNetError: If the folder's checkpoint was made with other settings.
    """
    rates = [group['lr'] for group in optimizer.param_groups]
    first, seconds, curve = _resume(folder, model, optimizer, settings)
    with tqdm(total=num_steps, initial=first, unit='step', dynamic_ncols=True) as bar:
        for step in range(first, num_steps):
            start = time.monotonic()
            torch.manual_seed(settings['seed'] + step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group['lr'] = rate * learning_rate_factor(step, num_steps)
            value, shown = loss(step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seconds += time.monotonic() - start
            bar.update()
            bar.set_postfix({key: f'{number:.3f}' for key, number in shown.items()}, refresh=False)
            last = step + 1 == num_steps
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
                write_file(folder / 'last.pth', _saved(state))
                write_file(folder / 'curve.json', json.dumps(curve, indent=1).encode())
    return curve


def _resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict
) -> tuple[int, float, list[dict]]:
    """Load the checkpoint if there is one; steps and seconds so far, and the evaluations."""
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
            'delete the file to begin anew.'
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
    out: Path,
    name: str,
    *,
    state_dict: Mapping[str, Tensor],
    command: str,
    settings: dict,
    curve: list[dict],
) -> None:
    """Write NAME.pth and NAME.json: the weights, how they were made, and what they reach.

    Args:
        out: Folder.
        name: 'clip' or 'sam'.
        state_dict: The weights.
        command: What was called.
        settings: With which settings.
        curve: What :func:`pretrain` returned.
    """
    # in half precision, as OpenAI's CLIP is published
    weights = {
        key: value.detach().half() if value.is_floating_point() else value.detach().clone()
        for key, value in state_dict.items()
    }
    write_file(out / f'{name}.pth', _saved(weights))
    final = dict(curve[-1])
    record = dict(
        command=command,
        seed=settings['seed'],
        steps=final.pop('step'),
        seconds=final.pop('seconds'),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        metrics=final,
        settings=settings,
        curve=curve,
    )
    write_file(out / f'{name}.json', json.dumps(record, indent=1).encode())
