"""What the two pretraining tools share.

Their options, scenes in memory, a resumable training, and the record of it.
"""

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
    f'the same command resumes from the last checkpoint (there is one every {CHECKPOINT_INTERVAL} '
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
    add, natural = parser.add_argument, _number(int, 1)
    add('--out', type=Path, default=DATA, help='folder for the weights')
    add(
        '--work-dir',
        type=Path,
        default=Path(f'work_dirs/toyworld_{name}'),
        help='folder for the scenes and the checkpoint',
    )
    add('--steps', type=natural, default=steps)
    add('--batch-size', type=natural, default=batch_size, help='pictures a step')
    most = CHECK_OFFSET - POOL_OFFSET
    add('--scenes', type=_number(int, 1, most), default=scenes, help='scenes that pictures are of')
    add('--lr', type=_number(float, 1e-9), default=lr, help='highest learning rate')
    add('--seed', type=_number(int, 0), default=0)
    add('--threads', type=natural, help='of PyTorch; by default as many as cores')
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
    """Make the folders, set threads and seed."""
    for folder in (args.work_dir, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)


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
    args: argparse.Namespace,
    model: nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    evaluate: Callable[[], dict[str, float]],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> list[dict]:
    """Train until the last step, from the checkpoint in ``args.work_dir`` if there is one.

    What a step does depends on its number, the settings and the weights alone, so an interrupted
    run ends as any other.

    Args:
        args: Options of :func:`argument_parser`.
        model: What is trained.
        loss: From the number of a step to its loss and what to show of it.
        evaluate: Metrics of the model as it is.
        betas: Of AdamW.

    Returns:
        One record an evaluation, the last after the last step: step, seconds of training until
        then, what the step showed, metrics.

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
    """The options on which the result depends."""
    return {key: getattr(args, key) for key in _SETTINGS if key in args}


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
    """Write NAME.pth and NAME.json: the weights, how they were made, and what they reach.

    Args:
        args: Options of :func:`argument_parser`.
        name: 'clip' or 'sam'.
        state_dict: The weights.
        curve: What :func:`pretrain` returned.
        argv: The words of the command line, if not those of this process.
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
