"""How much of what the SAM block hands on depends on its prompts?

Runs the committed miniature ESC-Net on a few scenes and replaces the prompts of each block in turn:
exchanged among the classes, none at all, or those of another scene. Prints how far F_v' moves, as a
share of its own deviation over the positions, and how many pixels get another label.
"""

from __future__ import annotations

import mmseg_escnet.threads  # noqa: F401  before torch

# isort: split

import argparse
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from canary import load_model
from experiment import make_scenes_for
from measure import build_dataset
from mmengine.dataset import pseudo_collate
from torch import Tensor

from mmseg_escnet.cli import run_tool

Prompts = tuple[Tensor, Tensor]  # sparse (M, tokens, C), dense (M, C, h, w) embeddings


def exchanged(prompts: Prompts, _: Prompts) -> Prompts:
    """Every class gets the prompts of its neighbour."""
    return tuple(part.roll(1, dims=0) for part in prompts)


def absent(prompts: Prompts, _: Prompts) -> Prompts:
    """SAM's "not a point", which ends every row of points, and no mask."""
    sparse, dense = prompts
    return sparse[:, -1:].expand_as(sparse), torch.zeros_like(dense)


def of_another_scene(_: Prompts, other: Prompts) -> Prompts:
    """Points and masks where other things are."""
    return other


CHANGES = {
    'exchanged among the classes': exchanged,
    'none': absent,
    'of another scene': of_another_scene,
}


@dataclass
class Influence:
    """What a change of the prompts does, summed over scenes.

    Attributes:
        moved: Squared distance of F_v' from what it was, by block.
        deviation: Squared deviation of F_v' from its mean over the positions, by block.
        changed: Pixels with another label.
        pixels: All pixels.
    """

    moved: Tensor
    deviation: Tensor
    changed: int = 0
    pixels: int = 0


@torch.no_grad()
def measure_influence(model, images: list[Tensor]) -> dict[str, Influence]:
    """Change the prompts of all blocks at once.

    Args:
        model: The trained ESCNet; its vocabulary is set.
        images: Preprocessed images (1, 3, H, W).
    """
    encoder, blocks = model.neck.prompt_encoder, len(model.neck.blocks)
    encode = encoder.forward

    def run(image: Tensor, change=None, others: list[Prompts] | None = None):
        seen = []

        def forward(prompts):
            own = encode(prompts)
            seen.append(own)
            return own if change is None else change(own, others[len(seen) - 1])

        with mock.patch.object(encoder, 'forward', forward):
            features = model.extract_feat(image, keep_blocks=True)
        labels = model.decode_head(features).argmax(1)
        return [block.image_features for block in features.blocks], labels, seen

    plain = [run(image) for image in images]
    found = {}
    for name, change in CHANGES.items():
        influence = Influence(torch.zeros(blocks), torch.zeros(blocks))
        for number, image in enumerate(images):
            guidance, labels, _ = plain[number]
            others = plain[(number + 1) % len(images)][2]
            new_guidance, new_labels, _ = run(image, change, others)
            for t, (old, new) in enumerate(zip(guidance, new_guidance, strict=True)):
                influence.moved[t] += (new - old).square().sum()
                centred = old - old.mean(dim=(-2, -1), keepdim=True)
                influence.deviation[t] += centred.square().sum()
            influence.changed += int((labels != new_labels).sum())
            influence.pixels += labels.numel()
        found[name] = influence
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scenes', type=int, default=20)
    args = parser.parse_args()
    cfg, model = load_model()
    model.eval()
    with TemporaryDirectory() as folder:
        make_scenes_for(Path(folder), (0, args.scenes))
        dataset = build_dataset(cfg, data_root=f'{folder}/')
        model.set_vocabulary(dataset.metainfo['classes'], dataset.metainfo['palette'])
        images = [
            model.data_preprocessor(pseudo_collate([dataset[number]]), False)['inputs']
            for number in range(len(dataset))
        ]
    print(f"{'prompts':30s}  F_v' moves by, block by block   other labels (4 x 4 px cells)")
    for name, influence in measure_influence(model, images).items():
        shares = (influence.moved / influence.deviation).sqrt().tolist()
        moves = '  '.join(f'{100 * share:5.1f}%' for share in shares)
        print(f'{name:30s}  {moves:30s} {100 * influence.changed / influence.pixels:8.2f}%')


if __name__ == '__main__':
    run_tool(main)
