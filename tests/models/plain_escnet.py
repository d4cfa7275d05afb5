"""A deliberately plain ESC-Net, to test the real one against.

It reads the same parameters and computes what is written in the paper: all classes at once,
concatenations instead of split linear maps, torchvision's Swin block, segment_anything's prompt
encoder and two-way layers, attention with a weight for each pair of class and word, or of classes.

Shapes: B images, N classes, h x w patch grid, K objects per class, D CLIP joint width, C SAM width,
d correlation embedding width, W CLIP width, M = B * N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import PromptEncoder
from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformerBlock


@dataclass
class PlainBlock:
    """C_t (B, N, h, w), E_t (B, N, h, w, d) and F_v' (B, C, h, w)."""

    correlation: Tensor
    embedding: Tensor
    image_features: Tensor | None


def plain_neck(neck, image, correlation, text, logit_scale) -> list[PlainBlock]:
    """The ESC blocks, given F_v (B, D, h, w), C_0 (B, N, h, w) and F_l (N, D)."""
    blocks, embedding = [], None
    for block in neck.blocks:
        guidance = None
        if block.sam_block is not None:
            guidance = plain_understanding(neck, block.sam_block, image, correlation, logit_scale)
        elif block.image_proj is not None:
            guidance = F.conv2d(image, block.image_proj.weight, block.image_proj.bias)
        embedding = plain_fusion(block.fusion, correlation, embedding, guidance, text)
        if block.correlation_update is not None:
            correlation = correlation + embedding @ block.correlation_update.weight[0]
        blocks.append(PlainBlock(correlation, embedding, guidance))
    return blocks


def plain_understanding(neck, sam_block, image, correlation, logit_scale) -> Tensor:
    """F_v' from the prompts that the real PPG, tested elsewhere, reads off the correlation."""
    prompts = neck.prompt_generator(correlation, logit_scale)
    encoder = neck.prompt_encoder
    sam = plain_sam(encoder, *image.shape[-2:])
    sparse = plain_sparse(sam, prompts, encoder.prompts)
    dense = sam.no_mask_embed.weight[..., None, None].expand(len(sparse), -1, *image.shape[-2:])
    if 'masks' in encoder.prompts:
        dense = plain_dense(sam, prompts, as_logits=encoder.mask_as_logits)
    return plain_sam_block(sam_block, image, sparse, dense, sam.get_dense_pe(), prompts.presence)


def plain_sam(encoder, height, width) -> PromptEncoder:
    """SAM's own prompt encoder with the same weights, for an image of 8 pixels to the patch."""
    state = encoder.encoder.state_dict()
    width_of_sam = encoder.encoder.embed_dim
    channels = len(state['mask_downscaling.3.bias'])
    sam = PromptEncoder(width_of_sam, (height, width), (8 * height, 8 * width), channels)
    sam.to(state['no_mask_embed.weight'].dtype).load_state_dict(state)
    return sam.requires_grad_(False)


def plain_box(mask) -> list[float]:
    """(left, top, right, bottom) in [0, 1] of a (h, w) mask, pixel by pixel."""
    height, width = mask.shape
    pixels = [(x, y) for y in range(height) for x in range(width) if mask[y, x]]
    if not pixels:
        return [0.0, 0.0, 1.0, 1.0]
    left, right = min(x for x, _ in pixels), max(x for x, _ in pixels) + 1
    top, bottom = min(y for _, y in pixels), max(y for _, y in pixels) + 1
    return [left / width, top / height, right / width, bottom / height]


def plain_sparse(sam, prompts, kinds) -> Tensor:
    """Class by class: the points in one call of SAM's encoder, then box by box."""
    height, width = prompts.masks.shape[-2:]
    # SAM's pixel numbers, whose centres are at + 0.5
    size = prompts.points.new_tensor([8 * width, 8 * height])
    rows = []
    not_a_point = sam.not_a_point_embed.weight[None]
    for points, valid, masks in zip(
        prompts.points.flatten(0, 1),
        prompts.valid.flatten(0, 1),
        prompts.masks.flatten(0, 1),
        strict=True,
    ):
        tokens = []
        if 'points' in kinds:
            labels = torch.tensor([[1 if v else -1 for v in valid]])
            # with a box beside the points SAM adds no padding point
            box = points.new_zeros(1, 4) if 'boxes' in kinds else None
            embedded, _ = sam(points=(points[None] * size - 0.5, labels), boxes=box, masks=None)
            tokens.append(embedded[:, : len(points)] if 'boxes' in kinds else embedded)
        if 'boxes' in kinds:
            for mask, is_valid in zip(masks, valid, strict=True):
                if is_valid:
                    corners = points.new_tensor(plain_box(mask > 0)).view(2, 2)
                    box = (corners * size - 0.5).view(1, 4)
                    tokens.append(sam(points=None, boxes=box, masks=None)[0])
                else:
                    tokens += [not_a_point, not_a_point]
        rows.append(torch.cat(tokens, 1) if tokens else not_a_point)
    return torch.cat(rows)


def plain_dense(sam, prompts, *, as_logits=True) -> Tensor:
    """Class by class and object by object, each mask through SAM's encoder, then their mean."""
    rows = []
    for valid, masks in zip(prompts.valid.flatten(0, 1), prompts.masks.flatten(0, 1), strict=True):
        embedded = []
        for mask in masks[valid]:
            if as_logits:
                mask = mask.clamp(1e-4, 1 - 1e-4)
                mask = (mask / (1 - mask)).log()
            size = (4 * mask.shape[0], 4 * mask.shape[1])
            mask = F.interpolate(mask[None, None], size, mode='bilinear')
            embedded.append(sam(points=None, boxes=None, masks=mask)[1])
        no_mask = sam(points=None, boxes=None, masks=None)[1]
        rows.append(sum(embedded) / len(embedded) if embedded else no_mask)
    return torch.cat(rows)


def plain_sam_block(block, image, sparse, dense, position, presence) -> Tensor:
    """F_v' of F_v (B, D, h, w), prompts (M, tokens, C) and (M, C, h, w), presence (B, N)."""
    (batch, classes), (height, width) = presence.shape, image.shape[-2:]
    conv, norm = block.image_proj
    image = F.conv2d(image, conv.weight, conv.bias).movedim(1, -1)
    image = F.layer_norm(image, image.shape[-1:], norm.weight, norm.bias, norm.eps).movedim(-1, 1)
    queries = sparse
    keys = (image.repeat_interleave(classes, dim=0) + dense).flatten(2).transpose(1, 2)
    key_position = position.flatten(2).transpose(1, 2)
    for layer in block.layers.values():
        queries, keys = layer(queries=queries, keys=keys, query_pe=sparse, key_pe=key_position)
    maps = keys.transpose(1, 2).unflatten(2, (height, width)).unflatten(0, (batch, classes))
    if block.class_fusion == 'presence':
        pooled = (maps * presence[..., None, None, None]).sum(dim=1)
    else:
        pooled = maps.mean(dim=1)
    return F.conv2d(pooled, block.fuse.weight, block.fuse.bias)


def plain_fusion(fusion, correlation, embedding, image, text) -> Tensor:
    """E_t of C_{t-1} (B, N, h, w), E_{t-1} (B, N, h, w, d) or None, F_v' and F_l (N, D)."""
    values = correlation.double()  # mean 0 and variance 1 over classes and positions
    variance, mean = torch.var_mean(values, dim=(1, 2, 3), correction=0, keepdim=True)
    values = ((values - mean) / (variance + 1e-8).sqrt()).to(correlation.dtype)
    x = F.linear(values[..., None], fusion.correlation_embed.weight, fusion.correlation_embed.bias)
    if embedding is not None:
        x = x + embedding
    both, weight = x, fusion.correlation_proj.weight
    if image is not None:
        image = image[:, None].movedim(2, -1)
        both = torch.cat([x, image.expand(*x.shape[:-1], -1)], dim=-1)
        weight = torch.cat([weight, fusion.image_proj.weight], dim=1)
    x = x + F.linear(both, weight, fusion.correlation_proj.bias)
    maps = x.flatten(0, 1)
    for block in fusion.swin:
        maps = SwinTransformerBlock.forward(block, maps)
    x = maps.view_as(x)
    if fusion.text_attention is not None:
        return plain_text_attention(fusion.text_attention, x, text)
    if fusion.class_attention is not None:
        return plain_class_attention(fusion.class_attention, x, text)
    return x


def phi(value: Tensor) -> Tensor:
    """The kernel of linear attention, elu(x) + 1."""
    return torch.where(value > 0, value + 1, value.clamp(max=0).exp())


def plain_text_attention(block, x, text, of_classes=None) -> Tensor:
    """Class maps (B, N, h, w, d) that look at words (N', D): a weight for each pair of both."""
    tokens = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias)

    def normed(text: Tensor) -> Tensor:
        return F.layer_norm(text, text.shape[-1:], block.text_norm.weight, block.text_norm.bias)

    both, query_weight = tokens, block.query.weight
    if block.text_query is not None:
        own = normed(text if of_classes is None else of_classes)[None, :, None, None]
        both = torch.cat([tokens, own.expand(*x.shape[:-1], -1)], dim=-1)
        query_weight = torch.cat([query_weight, block.text_query.weight], dim=1)
    query = phi(F.linear(both, query_weight, block.query.bias)).unflatten(-1, (block.num_heads, -1))
    words = normed(text)
    key = phi(F.linear(words, block.key.weight, block.key.bias)).unflatten(
        -1, (block.num_heads, -1)
    )
    value = F.linear(words, block.value.weight, block.value.bias).unflatten(
        -1, (block.num_heads, -1)
    )
    weights = torch.einsum('bnhwac,mac->bnhwma', query, key)
    weights = weights / weights.sum(dim=-2, keepdim=True)
    attended = torch.einsum('bnhwma,mac->bnhwac', weights, value).flatten(-2)
    x = x + F.linear(attended, block.out.weight, block.out.bias)
    return plain_mlp(block, x)


def plain_mlp(block, x) -> Tensor:
    """The MLP of an attention block, if it has one."""
    if block.mlp is None:
        return x
    hidden = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias)
    return x + block.mlp[2](F.gelu(block.mlp[0](hidden)))


def plain_class_attention(block, x, text) -> Tensor:
    """Class tokens (B, N, h, w, d) that look at each other: a weight for each pair of classes."""
    classes, dims = x.shape[1], x.shape[-1]
    tokens = F.layer_norm(x, (dims,), block.norm1.weight, block.norm1.bias)
    text = F.layer_norm(text, text.shape[-1:], block.text_norm.weight, block.text_norm.bias)
    text = text.view(1, classes, 1, 1, -1).expand(*x.shape[:-1], -1)
    both = torch.cat([tokens, text], dim=-1)
    query_weight = torch.cat([block.query.weight, block.text_query.weight], dim=1)
    key_weight = torch.cat([block.key.weight, block.text_key.weight], dim=1)

    def heads(projected: Tensor) -> Tensor:  # (B, N, h, w, heads, d / heads)
        return projected.unflatten(-1, (block.num_heads, -1))

    query = phi(heads(F.linear(both, query_weight, block.query.bias)))
    key = phi(heads(F.linear(both, key_weight, block.key.bias)))
    value = heads(F.linear(tokens, block.value.weight, block.value.bias))
    weights = torch.einsum('bnhwac,bmhwac->bnmhwa', query, key)
    weights = weights / weights.sum(dim=2, keepdim=True)
    attended = torch.einsum('bnmhwa,bmhwac->bnhwac', weights, value).flatten(-2)
    return plain_mlp(block, x + F.linear(attended, block.out.weight, block.out.bias))


def plain_head(head, embedding, correlation_logits, skips) -> Tensor:
    """Logits (B, N, 4h, 4w) of E_T (B, N, h, w, d), C_T (B, N, h, w) and skips (B, W, h, w)."""
    batch, classes = embedding.shape[:2]
    shallow, deep = skips
    x = embedding.flatten(0, 1).permute(0, 3, 1, 2)
    for stage, skip in zip(head.stages, (deep, shallow), strict=True):
        x = plain_stage(stage, x, skip)
    logits = head.predict_logits(x).view(batch, classes, *x.shape[-2:])
    if head.residual:
        logits = logits + F.interpolate(correlation_logits, scale_factor=4, mode='bilinear')
    return logits


def plain_stage(stage, x, skip) -> Tensor:
    """Maps (M, ...) and the skips (B, W, h, w), upsampled and concatenated for each map."""
    size = [2 * side for side in x.shape[-2:]]
    reduce = stage.skip_up[0]
    x, skip = (F.interpolate(maps, size, mode='bilinear') for maps in (x, skip))
    skip = F.conv2d(skip, reduce.weight, reduce.bias)
    both = torch.cat([x, skip.repeat_interleave(len(x) // len(skip), dim=0)], dim=1)
    weight = torch.cat([stage.conv_map.weight, stage.conv_skip.weight], dim=1)
    return stage.refine(F.conv2d(both, weight, padding=1))
