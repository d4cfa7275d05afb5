"""Pretrain the miniature SAM of the toy world: class-agnostic masks from prompts.

Image encoder, prompt encoder and mask decoder are ``segment_anything``'s own, at a small width.
Much as SAM was trained, the first prompt is one to five points on an object, or its box; the second
is the predicted mask, alone, with the same points, or with one more point where it is wrong.
Objects are the connected regions of the names with masks in training. Regions of other names are
never prompted, and their pixels are ignored. Writes OUT/sam.pth (with SAM's own keys) and
OUT/sam.json (command, settings and metrics).
"""

from __future__ import annotations

import mmseg_escnet.threads  # noqa: F401  before torch

# isort: split

from collections import defaultdict
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from pretraining import (
    CHECK_OFFSET,
    INTERRUPTED,
    argument_parser,
    normalize,
    prepare,
    pretrain,
    scene_pool,
    turn,
    write_results,
)
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor

from mmseg_escnet.cli import run_tool
from mmseg_escnet.toyworld.scenes import IMAGE_SIZE, scene
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES, SEEN_NAMES

PATCH = 8
GRID = IMAGE_SIZE // PATCH
LOW_RES = 4 * GRID  # of SAM's masks
WIDTH = 64
OBJECTS_PER_IMAGE = 4
MAX_POINTS = 5
BOX_SHARE = 0.2  # of the first prompts are boxes
SMALLEST_OBJECT = 40  # pixels
NUM_CHECKED = 60  # scenes of the evaluation
SEEN_IDS = [ALL_NAMES.index(name) for name in SEEN_NAMES]
OTHER_IDS = [class_id for class_id in range(len(ALL_NAMES)) if class_id not in SEEN_IDS]


def build_sam() -> Sam:
    """segment_anything's Sam at toy size."""
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=IMAGE_SIZE,
            patch_size=PATCH,
            embed_dim=96,
            depth=4,
            num_heads=3,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            out_chans=WIDTH,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(GRID, GRID),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=WIDTH,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=4, mlp_dim=256),
            iou_head_hidden_dim=WIDTH,
        ),
    )


def objects_of(label: np.ndarray, ids: list[int]) -> list[np.ndarray]:
    """Connected regions (96, 96), bool, of some ids of a label map, without the smallest."""
    masks = []
    for class_id in np.intersect1d(np.unique(label), ids):
        count, parts = cv2.connectedComponents((label == class_id).astype(np.uint8), connectivity=4)
        masks += [parts == part for part in range(1, count)]
    return [mask for mask in masks if mask.sum() >= SMALLEST_OBJECT]


def points_in(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random pixels (count, 2) of a non-empty mask, as (x, y)."""
    rows, columns = np.nonzero(mask)
    chosen = rng.integers(len(rows), size=count)
    return np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float32)


def box_of(mask: np.ndarray) -> np.ndarray:
    """The tight box (left, top, right, bottom) of a mask, less the half pixel that SAM adds."""
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return np.array(box, np.float32) - 0.5


def predict(
    sam: Sam,
    image: Tensor,
    coords: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    boxes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Masks and their predicted IoU.

    Args:
        sam: The model.
        image: Embedding of one image (1, C, 12, 12).
        coords: Points (M, P, 2) as (x, y) in pixels, to which SAM adds half a pixel.
        labels: (M, P): 1 on the object, 0 off it, -1 no point.
        mask: Mask logits (M, 1, 48, 48), or None.
        boxes: (M, 4) to use instead of the points, or None.

    Returns:
        Logits (M, 4, 48, 48), the first for an unambiguous prompt, and IoU (M, 4).
    """
    points = (coords, labels) if boxes is None else None
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=mask)
    return sam.mask_decoder.predict_masks(
        image_embeddings=image,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )


def mask_losses(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """20 x focal + dice loss of each mask.

    Args:
        logits: (M, S, 48, 48).
        target: (M, 1, 48, 48) in {0, 1}.
        known: (1, 1, 48, 48) in {0, 1}; the loss ignores the other pixels.

    Returns:
        (M, S).
    """
    target = target.expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    probability = logits.sigmoid()
    miss = torch.where(target > 0.5, 1 - probability, probability)
    focal = (known * cross_entropy * miss.square()).sum((2, 3)) / known.sum().clamp(min=1)
    probability, target = known * probability, known * target
    overlap = 2 * (probability * target).sum((2, 3)) + 1
    dice = 1 - overlap / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)
    return 20 * focal + dice


def iou_of(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """IoU (M, S) of masks (M, S, 48, 48), thresholded at 0, on the known pixels."""
    predicted, truth = (logits > 0) & (known > 0), (target > 0.5) & (known > 0)
    union = (predicted | truth).sum((2, 3)).clamp(min=1)
    return (predicted & truth).sum((2, 3)) / union


def _as_tensor(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]


def low_resolution(masks: Tensor, *, whole: bool = False) -> Tensor:
    """Masks (M, 1, 96, 96) in {0, 1} at the resolution of SAM's, (M, 1, 48, 48).

    A cell is 1 if more than half of it is, or with ``whole`` if all of it is.
    """
    share = F.interpolate(masks, (LOW_RES, LOW_RES), mode='area')
    return ((share > 0.999) if whole else (share > 0.5)).float()


class PromptedLoss:
    """The loss of a step, for masks from points or boxes, then for masks from those masks.

    Args:
        sam: The model.
        pool: See :func:`pretraining.scene_pool`.
        seed: Determines the batch, together with the step.
        batch_size: Images per step.
    """

    def __init__(self, sam: Sam, pool: np.ndarray, *, seed: int, batch_size: int) -> None:
        self.sam, self.pool, self.seed, self.batch_size = sam, pool, seed, batch_size

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, and values to display."""
        rng = np.random.default_rng([self.seed, step])
        chosen = np.sort(rng.integers(len(self.pool), size=self.batch_size))
        pictures = [
            turn(self.pool[index], int(kind))
            for index, kind in zip(chosen, rng.integers(8, size=self.batch_size), strict=True)
        ]
        images = normalize(np.ascontiguousarray(np.stack(pictures)[..., :3]))
        losses, ious = [], []
        embeddings = self.sam.image_encoder(images)
        for image, picture in zip(embeddings, pictures, strict=True):
            masks = objects_of(picture[..., 3], SEEN_IDS)
            if masks:
                picked = rng.integers(len(masks), size=OBJECTS_PER_IMAGE)
                known = np.isin(picture[..., 3], SEEN_IDS)
                loss, iou = self.of_image(image[None], [masks[i] for i in picked], known, rng)
                losses.append(loss)
                ious.append(iou)
        if not losses:  # no scene of a small batch has an object to prompt
            return 0 * embeddings.sum(), {}
        loss = torch.stack(losses).mean()
        return loss, dict(loss=loss.item(), iou=torch.stack(ious).mean().item())

    def of_image(
        self, image: Tensor, masks: list[np.ndarray], known: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Loss for some objects of one image, and mean IoU of the second masks.

        Args:
            image: Its embedding (1, C, 12, 12).
            masks: M objects (96, 96), bool.
            known: (96, 96), bool: pixels of names with masks in training. The others are ignored,
                since outlines of things without masks would be supervision.
            rng: Chooses the prompts.
        """
        num_points = int(rng.integers(1, MAX_POINTS + 1))
        coords = torch.from_numpy(np.stack([points_in(m, num_points, rng) for m in masks]))
        labels = torch.ones(coords.shape[:2])
        boxes = None
        if rng.random() < BOX_SHARE:
            boxes = torch.from_numpy(np.stack([box_of(mask) for mask in masks]))
        truth = torch.from_numpy(np.stack(masks)).float()[:, None]
        target, where = low_resolution(truth), low_resolution(_as_tensor(known), whole=True)

        logits, quality = predict(self.sam, image, coords, labels, None, boxes)
        # a single point is ambiguous: the best of three masks counts, as in SAM
        outputs = slice(1, 4) if num_points == 1 and boxes is None else slice(0, 1)
        first = mask_losses(logits[:, outputs], target, where)
        best = first.argmin(1, keepdim=True)
        quality_loss = (quality - iou_of(logits, target, where)).square().mean()
        prompt = (
            logits[:, outputs]
            .detach()
            .gather(1, best[..., None, None].expand(-1, -1, LOW_RES, LOW_RES))
        )

        if rng.random() < 0.5:  # another point, where the first mask is wrong
            found = F.interpolate(prompt, truth.shape[-2:], mode='bilinear') > 0
            wrong = (found.float() != truth) & _as_tensor(known).bool()
            extra = np.stack(
                [
                    points_in(w if w.any() else m, 1, rng)
                    for w, m in zip(wrong[:, 0].numpy(), masks, strict=True)
                ]
            )
            on_object = [
                bool(m[int(p[0, 1]), int(p[0, 0])]) for m, p in zip(masks, extra, strict=True)
            ]
            coords = torch.cat([coords, torch.from_numpy(extra)], dim=1)
            labels = torch.cat([labels, torch.tensor(on_object).float()[:, None]], dim=1)
        elif rng.random() < 0.5:  # the mask alone
            labels = torch.full_like(labels, -1)
        logits, quality = predict(self.sam, image, coords, labels, prompt)
        second = mask_losses(logits[:, :1], target, where)
        quality_loss = quality_loss + (quality - iou_of(logits, target, where)).square().mean()
        iou = iou_of(logits[:, :1].detach(), target, where).mean()
        return first.amin(1).mean() + second.mean() + quality_loss, iou


@torch.no_grad()
def prompt_metrics(sam: Sam) -> dict[str, float]:
    """Mean IoU (%) of masks from one point, five points, five points and their mask, and a box.

    Over objects of names with masks in training ('seen'), and of the others ('unseen').
    """
    rng = np.random.default_rng(0)
    everywhere = torch.ones(1, 1, LOW_RES, LOW_RES)
    found = defaultdict(list)
    for index in range(NUM_CHECKED):
        image, label = scene(0, CHECK_OFFSET + index)
        embedding = sam.image_encoder(normalize(image[None]))
        for kind, ids in (('seen', SEEN_IDS), ('unseen', OTHER_IDS)):
            masks = objects_of(label, ids)
            if not masks:
                continue
            target = low_resolution(torch.from_numpy(np.stack(masks)).float()[:, None])
            predicted = {}
            for count in (1, MAX_POINTS):
                coords = torch.from_numpy(np.stack([points_in(m, count, rng) for m in masks]))
                labels = torch.ones(coords.shape[:2])
                logits, quality = predict(sam, embedding, coords, labels, None)
                if count == 1:  # of the three masks, the one that SAM rates best
                    best = quality[:, 1:].argmax(1) + 1
                    logits = logits[torch.arange(len(masks)), best][:, None]
                predicted[f'{count}pt'] = logits[:, :1]
            previous = predicted[f'{MAX_POINTS}pt']
            predicted['mask'], _ = predict(sam, embedding, coords, labels, previous)
            boxes = torch.from_numpy(np.stack([box_of(mask) for mask in masks]))
            predicted['box'], _ = predict(sam, embedding, coords, labels, None, boxes)
            for name, logits in predicted.items():
                found[f'IoU_{kind}_{name}'].append(iou_of(logits[:, :1], target, everywhere)[:, 0])
    return {key: round(100 * float(torch.cat(values).mean()), 1) for key, values in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Pretrain and write the weights."""
    parser = argument_parser(
        __doc__.split('\n')[0], name='sam', steps=1500, batch_size=16, scenes=10000, lr=1e-3
    )
    args = parser.parse_args(argv)
    prepare(args)
    sam = build_sam()
    pool = scene_pool(args.work_dir, seed=args.seed, count=args.scenes)
    loss = PromptedLoss(sam, pool, seed=args.seed, batch_size=args.batch_size)
    curve = pretrain(args, sam, loss, partial(prompt_metrics, sam))
    write_results(args, 'sam', sam.state_dict(), curve, argv)


if __name__ == '__main__':
    run_tool(main, interrupted=INTERRUPTED)
