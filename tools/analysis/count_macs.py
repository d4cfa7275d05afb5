"""Multiply-adds (MACs) of matrix products, convolutions and attention, by part of ESC-Net."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode, flop_registry

# the modules of each part
PARTS = {
    'clip': r'\w+CLIPBackbone',
    'sam': r'ESCNeck\.(prompt_encoder|blocks\.\d+\.sam_block(\.image_proj|\.fuse)?)',
    'vlf': r'ESCNeck\.blocks\.\d+\.fusion',
    'decoder': 'OpenVocabularyHead',
}


def _attention_layer(query, key, value, width, *args, **kwargs) -> int:
    """FLOPs on (batch, tokens, width): four projections, scores, their product with the values."""
    batch, queries, keys = *query.shape[:2], key.shape[1]
    return 4 * batch * width * ((queries + keys) * width + queries * keys)


# attention as a CPU computes it, which PyTorch's counter leaves out
_aten, _flash = torch.ops.aten, '_scaled_dot_product_flash_attention'
flop_registry[_aten._native_multi_head_attention] = _attention_layer
for _end in ('', '_backward'):
    if _on_cpu := getattr(_aten, f'{_flash}_for_cpu{_end}', None):
        flop_registry[_on_cpu] = flop_registry[getattr(_aten, _flash + _end)]


def count_macs(run: Callable[[], object]) -> dict[str, int]:
    """MACs of a call: 'whole', each of :data:`PARTS`, and the 'rest' (all, before PyTorch 2.4)."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = {name: sum(found.values()) // 2 for name, found in counter.get_flop_counts().items()}
    parts = {
        part: sum(count for name, count in counts.items() if re.fullmatch(modules, name))
        for part, modules in PARTS.items()
    }
    return dict(whole=counts['Global'], **parts, rest=counts['Global'] - sum(parts.values()))


@torch.no_grad()
def count_view(cfg: Config, classes: int, network: Callable | None = None) -> dict[str, int]:
    """MACs of one crop, as :func:`count_macs`, without those of encoding the words.

    Neck and head are linear in the number of classes: counted with 2 and 4, and extrapolated. All
    cosines are alike, so that each class has all its objects. ``network(neck, head, features,
    correlation, text, logit_scale)`` replaces the model's own.
    """
    network = network or (lambda neck, head, *inputs: head(neck(*inputs)))
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        crop = torch.empty(1, 3, *cfg.model.data_preprocessor.size)
    clip, features = count_macs(lambda: model.backbone(crop)), model.backbone(crop)
    image, *skips = (torch.randn(maps.shape) for maps in (features.image, *features.skips))
    features = replace(features, image=image, skips=tuple(skips))
    neck = MODELS.build(cfg.model.neck, default_args=dict(image_dims=image.shape[1])).eval()
    widths = dict(in_channels=neck.embed_dims, skip_dims=model.backbone.skip_dims)
    head = MODELS.build(cfg.model.decode_head, default_args=widths).eval()

    def run(number: int) -> None:
        text = torch.randn(number, image.shape[1])
        correlation = 0 * torch.einsum('bdhw,nd->bnhw', image, text)
        network(neck, head, features, correlation, text, torch.ones(()))

    two, four = (count_macs(lambda n=n: run(n)) for n in (2, 4))
    return {key: clip[key] + two[key] + (four[key] - two[key]) * (classes - 2) // 2 for key in clip}
