"""Pseudo prompts for SAM from an image-text correlation map.

Shapes: B images, N classes, h x w patch grid, L = h * w, K objects per class, M = B * N maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ...errors import ESCNetError
from ..layers import ClassChunks

_MAPS_AT_A_TIME = 256  # finding objects takes several times K values per pixel


@dataclass
class PseudoPrompts:
    """The prompts of one ESC block, for all classes at once.

    Attributes:
        points: (B, N, K, 2), the point (x, y) of each object, in [0, 1] image coordinates.
        valid: (B, N, K) bool, False where a class has fewer than K objects; the point and mask of
            such an object are meaningless and must be ignored.
        masks: (B, N, K, h, w), each object's peak-normalised probability, 0 outside the object.
        region: (B, N, h, w) bool, the thresholded map, partitioned by the objects.
        presence: (B, N), how likely each class is in the image: softmax over the classes of the
            highest correlation (ours).
    """

    points: Tensor
    valid: Tensor
    masks: Tensor
    region: Tensor
    presence: Tensor

    def split(self, chunks: ClassChunks) -> Iterator[PseudoPrompts]:
        """The prompts of some classes at a time."""
        # by name, as torch.compile knows no vars()
        values = (self.points, self.valid, self.masks, self.region, self.presence)
        parts = [chunks.split(value, dim=1) for value in values]
        return map(PseudoPrompts, *parts)


def farthest_point_seeds(
    coordinates: Tensor, region: Tensor, peak: Tensor, num_seeds: int, min_distance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Choose the initial k-means centres by farthest-point sampling, starting at the peak.

    Deterministic: ties go to the first pixel in row-major order.

    Args:
        coordinates: (L, 2) pixel coordinates.
        region: (M, L) bool, the candidate pixels.
        peak: (M,) index of each map's first seed.
        num_seeds: K.
        min_distance: Seeds must be farther than this from all earlier ones.

    Returns:
        Centres (M, K, 2) and their validity (M, K) bool; if there are fewer than K candidates, or
        none far enough, the last centres are invalid.
    """
    num_maps, length = region.shape
    index = peak
    # -1: pixels outside the region are never the farthest
    distance = coordinates.new_full((num_maps, length), torch.inf).masked_fill(~region, -1.0)
    centers, valid = [], []
    for _ in range(num_seeds):
        center = coordinates[index]
        centers.append(center)
        farthest = distance.gather(1, index[:, None]).squeeze(1)
        valid.append(farthest > min_distance**2)
        new = (coordinates[None] - center[:, None]).square().sum(-1)
        distance = torch.minimum(distance, new)
        index = distance.argmax(dim=1)
    return torch.stack(centers, 1), torch.stack(valid, 1)


def batched_kmeans(
    coordinates: Tensor, region: Tensor, centers: Tensor, valid: Tensor, num_iterations: int
) -> Tensor:
    """Lloyd's algorithm on M point sets at once.

    Args:
        coordinates: (L, 2) pixel coordinates, shared by all sets.
        region: (M, L) bool, the points of each set.
        centers: (M, K, 2) initial centres.
        valid: (M, K) bool, the centres in use.
        num_iterations: Fixed number of updates; a converged set does not change.

    Returns:
        (M, K, L) bool, one-hot assignment of each point to its nearest valid centre, ties to the
        first; points outside the region belong to none. A centre without points does not move.
    """
    objects = torch.arange(centers.shape[1], device=centers.device, dtype=torch.int32)[:, None]
    x, y = coordinates.unbind(-1)

    def assign(centers: Tensor) -> Tensor:
        centers = centers.masked_fill(~valid[..., None], torch.inf)
        distance = (x - centers[..., :1]).square() + (y - centers[..., 1:]).square()  # (M, K, L)
        # argmin over K, written out: torch's own takes ten times as long on such a short dimension
        least = distance[:, 0]
        nearest = torch.zeros_like(least, dtype=objects.dtype)
        for index in range(1, distance.shape[1]):
            nearest = nearest.masked_fill(distance[:, index] < least, index)
            least = torch.minimum(least, distance[:, index])
        return (nearest[:, None] == objects) & region[:, None] & valid[..., None]

    for _ in range(num_iterations):
        members = assign(centers).to(coordinates.dtype)
        count = members.sum(-1, keepdim=True)
        mean = members @ coordinates / count.clamp(min=1)
        centers = torch.where(count > 0, mean, centers)
    return assign(centers)


@MODELS.register_module()
class PseudoPromptGenerator(BaseModule):
    """PPG: from a correlation map to K points and K masks per class (paper, section 3.2).

    ::

        C --softmax over positions, / max--> p^ --(>= threshold)--> region
          --k-means on pixel coordinates--> K objects --> K points (argmax of p^), K masks (p^)

    Not differentiable; computed in float32 without a gradient. Has no parameters.

    Args:
        threshold: alpha in (0, 1]; pixels with at least this fraction of the peak probability form
            the region. The paper does not give its value (ours: 0.5, where SAM's mask logit crosses
            zero).
        num_objects: K, or 'auto': as many objects as are farther apart than ``auto_distance``,
            at most ``max_objects`` (ours; the paper names the fixed K as its first limitation).
        num_iterations: Lloyd iterations.
        max_objects: Maximum number of objects per class with 'auto'.
        auto_distance: Minimum distance between seeds with 'auto', as a fraction of the longer side
            of the image.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        num_objects: int | Literal['auto'] = 5,
        num_iterations: int = 10,
        max_objects: int = 8,
        auto_distance: float = 0.25,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 < threshold <= 1:
            raise ESCNetError(
                f'PseudoPromptGenerator: threshold={threshold} must lie in (0, 1], a fraction of '
                'the peak probability.'
            )
        automatic = num_objects == 'auto'
        if automatic and max_objects < 1:
            raise ESCNetError(
                f'PseudoPromptGenerator: max_objects={max_objects} must be at least 1.'
            )
        if not automatic and not (isinstance(num_objects, int) and num_objects >= 1):
            raise ESCNetError(
                f"PseudoPromptGenerator: num_objects={num_objects!r} must be 'auto' or an "
                'integer of at least 1.'
            )
        self.threshold = threshold
        self.num_objects = max_objects if automatic else num_objects
        self.min_distance = auto_distance if automatic else 0.0
        self.num_iterations = num_iterations

    @torch.no_grad()
    def forward(self, correlation: Tensor, logit_scale: Tensor) -> PseudoPrompts:
        """Generate the prompts of every class of every image.

        Args:
            correlation: (B, N, h, w) image-text correlation.
            logit_scale: CLIP's logit scale, a scalar; the inverse softmax temperature (ours).

        Returns:
            The prompts, float32.
        """
        batch, num_classes, height, width = correlation.shape
        with torch.autocast(correlation.device.type, enabled=False):
            logits = correlation.detach().float().flatten(0, 1).flatten(1) * logit_scale.float()
            coordinates = _pixel_coordinates(height, width, device=logits.device)
            # no loop while tracing, which would fix the number of classes
            tracing = getattr(torch.compiler, 'is_compiling', bool)()
            maps = (logits,) if tracing else logits.split(_MAPS_AT_A_TIME)
            parts = [
                self._find_objects(some, coordinates, width=width, height=height) for some in maps
            ]
            points, valid, masks, region = map(torch.cat, zip(*parts, strict=True))
            presence = logits.amax(dim=1).view(batch, num_classes).softmax(dim=1)
        shape = (batch, num_classes, self.num_objects)
        return PseudoPrompts(
            points=points.view(*shape, 2),
            valid=valid.view(shape),
            masks=masks.view(*shape, height, width),
            region=region.view(batch, num_classes, height, width),
            presence=presence,
        )

    def _find_objects(
        self, logits: Tensor, coordinates: Tensor, *, width: int, height: int
    ) -> tuple[Tensor, ...]:
        """Points (M, K, 2), validity (M, K), masks (M, K, L) and region (M, L) of maps (M, L)."""
        peak_value, peak = logits.max(dim=1)
        # softmax divided by its own maximum: the normaliser cancels
        probability = (logits - peak_value[:, None]).exp()
        region = probability >= self.threshold
        centers, valid = farthest_point_seeds(
            coordinates, region, peak, self.num_objects, self.min_distance * max(height, width)
        )
        members = batched_kmeans(coordinates, region, centers, valid, self.num_iterations)
        masks = probability[:, None] * members
        points = (coordinates[masks.argmax(dim=-1)] + 0.5) / coordinates.new_tensor([width, height])
        return points, valid & members.any(-1), masks, region


def _pixel_coordinates(height: int, width: int, *, device: torch.device) -> Tensor:
    """(L, 2) coordinates (x, y) of the pixels in row-major order, in pixels."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing='ij'
    )
    return torch.stack([x, y], -1).flatten(0, 1).float()
