"""Pretrain the miniature CLIP of the toy world on images and captions, never on masks.

An image is a crop of a scene, roughly centred on a thing. A caption names one visible thing, or its
colour or shape ('A photo of a red disc in the scene', 'There is a red thing in the scene', 'A photo
of a disc'), or a ground. Label maps decide where to crop and which captions are true, also for the
names whose masks ESC-Net never sees; no loss compares a prediction with them. The loss is
contrastive, with every true caption of an image as a positive, on two similarities: that of the
class token, and the log-mean-exp over the patches of the dense read-out. A linear head on both
predicts the colours, shapes and grounds in the image; it speeds up training and is discarded.
Writes OUT/clip.pth (with open_clip's own keys) and OUT/clip.json (command, settings and metrics).
"""

from __future__ import annotations

import mmseg_escnet.threads  # noqa: F401  before torch

# isort: split

import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from captioned_crops import CROP, TEMPLATES, CaptionedCrops
from pretraining import (
    CHECK_OFFSET,
    INTERRUPTED,
    ROOT,
    argument_parser,
    normalize,
    prepare,
    pretrain,
    scene_pool,
    write_results,
)
from torch import Tensor

from mmseg_escnet.cli import run_tool
from mmseg_escnet.models.backbones.open_clip import value_path
from mmseg_escnet.models.sparse_rows import sparse_rows
from mmseg_escnet.models.text_encoders.open_clip_text import OpenCLIPTextEncoder, encode_text
from mmseg_escnet.toyworld.backbone import ToyCLIPBackbone
from mmseg_escnet.toyworld.scenes import IMAGE_SIZE, scene
from mmseg_escnet.toyworld.vocabulary import (
    ALL_NAMES,
    COLORS,
    LARGE_NAMES,
    SHAPES,
    SYNONYMS,
    TEXTURES,
    THING_NAMES,
    vocabulary_of,
    with_synonyms,
)
from mmseg_escnet.vocabulary import split_synonyms

CONFIG = ROOT / 'configs/_base_/models/escnet_toy.py'
NUM_CHECKED = 100  # scenes of the evaluation
WORDS = (*SHAPES, *(f'{color} thing' for color in COLORS), *TEXTURES)  # of the linear head
WORD_WEIGHT = 5.0  # of its loss
TOKENS = 'text.token_embedding.weight'


# -- model ---------------------------------------------------------------------------------------


def build_model() -> tuple[ToyCLIPBackbone, OpenCLIPTextEncoder]:
    """Image and text side of the toy config's CLIP, all of it trainable."""
    from mmengine.config import Config
    from mmseg.registry import MODELS

    cfg = Config.fromfile(CONFIG).model
    backbone = MODELS.build(dict(cfg.backbone, pretrained=None, trainable='all', with_cp=False))
    backbone.clip.logit_scale.requires_grad_(True)
    return backbone, MODELS.build(dict(cfg.text_encoder))


class CompactText:
    """The text side of a CLIP with embeddings for the tokens in use only.

    These are the tokens of all captions and of the large vocabulary; the other of the 49408 rows
    would never be trained. Their order is kept, so the end-of-text token still has the highest id.

    Args:
        clip: open_clip's CustomTextCLIP; its token embedding is replaced.
        tokenizer: Its tokenizer.
    """

    def __init__(self, clip: nn.Module, tokenizer: Callable[..., Tensor]) -> None:
        self.clip, self.tokenizer = clip, tokenizer
        words = [word for name in LARGE_NAMES for word in split_synonyms(with_synonyms(name))]
        words += [f'{color} thing' for color in COLORS] + [*SHAPES, *SYNONYMS.values()]
        texts = [template.format(word) for word in words for template in (*TEMPLATES, '{}')]
        self.tokens_used = self._tokenize(texts).unique()
        embedding = clip.text.token_embedding
        self.vocab_size = embedding.num_embeddings
        clip.text.token_embedding = nn.Embedding.from_pretrained(
            embedding.weight.detach()[self.tokens_used].clone(), freeze=False
        )
        self.lookup = torch.full((self.vocab_size,), -1)
        self.lookup[self.tokens_used] = torch.arange(len(self.tokens_used))

    def _tokenize(self, texts: list[str]) -> Tensor:
        return self.tokenizer(texts, context_length=self.clip.context_length)

    def __call__(self, texts: list[str]) -> Tensor:
        """Features (T, D), unit norm, of texts made of these tokens."""
        tokens = self.lookup[self._tokenize(texts)]
        tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]
        return F.normalize(encode_text(self.clip, tokens).float(), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """open_clip's own, with a sparse token embedding that is zero for unused tokens."""
        state = {key: value.detach() for key, value in self.clip.state_dict().items()}
        rows = state[TOKENS]
        weight = rows.new_zeros(self.vocab_size, rows.shape[1])
        weight[self.tokens_used] = rows
        return {**state, TOKENS: sparse_rows(weight)}


def both_readouts(backbone: ToyCLIPBackbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, D) of the class token and (B, L, D) of the patches, of images (B, 3, H, W)."""
    visual = backbone.clip.visual
    tokens, _ = backbone.penultimate(images)
    last = visual.transformer.resblocks[-1]
    class_token, patches = last(tokens)[:, 0], value_path(last, tokens[:, 1:])
    return tuple(visual.ln_post(x) @ visual.proj for x in (class_token, patches))


# -- loss ----------------------------------------------------------------------------------------


def contrastive_loss(scores: Tensor, true: Tensor, false: Tensor) -> Tensor:
    """InfoNCE with several positives, in both directions.

    Args:
        scores: (B, T) scaled similarities.
        true: (B, T) bool, the positives; each is contrasted with the negatives only.
        false: (B, T) bool, the negatives.
    """
    losses = []
    for dim in (1, 0):
        negatives = scores.masked_fill(~false, -torch.inf).logsumexp(dim, keepdim=True)
        losses.append(F.softplus(negatives - scores)[true].mean())
    return (losses[0] + losses[1]) / 2


def logmeanexp(scores: Tensor) -> Tensor:
    """Pool over the patches, between mean and maximum: (B, L, T) -> (B, T)."""
    return scores.logsumexp(dim=1) - np.log(scores.shape[1])


def _plain_attention() -> contextlib.AbstractContextManager:
    """Attention without fused kernels, which are slow in bf16 on a CPU."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # torch < 2.3
        return contextlib.nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


class ReadoutLoss:
    """The loss of a step: contrastive plus linear head, each on class token and patches.

    Args:
        backbone: The image side.
        text: The text side.
        crops: Images and captions of a step.
        word_head: Maps features (..., D) to logits of WORDS.
        pooling: Of the patches' scores: 'logmeanexp' or 'mean'.
        bf16: Mixed precision.
    """

    def __init__(
        self,
        backbone: ToyCLIPBackbone,
        text: CompactText,
        crops: CaptionedCrops,
        word_head: nn.Linear,
        *,
        pooling: str = 'logmeanexp',
        bf16: bool,
    ) -> None:
        self.backbone, self.text, self.crops, self.bf16 = backbone, text, crops, bf16
        self.pool = logmeanexp if pooling == 'logmeanexp' else partial(torch.mean, dim=1)
        self.word_head = word_head
        self.words = [crops.names.index(word) for word in WORDS]

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a step, and values to display."""
        images, captions, true, false = self.crops(step)
        with _plain_attention(), torch.autocast('cpu', torch.bfloat16, enabled=self.bf16):
            class_token, patches = both_readouts(self.backbone, images)
            texts = self.text(captions)
        scale = self.backbone.clip.logit_scale.exp().clamp(max=100)
        whole = F.normalize(class_token.float(), dim=-1) @ texts.T * scale
        cosines = F.normalize(patches.float(), dim=-1) @ texts.T
        pooled = self.pool(cosines * scale)
        losses = [contrastive_loss(scores, true, false) for scores in (whole, pooled)]
        word_scores = [
            self.word_head(class_token.float()),
            self.pool(self.word_head(patches.float())),
        ]
        true, known = true[:, self.words], (true | false)[:, self.words]
        words = [
            F.binary_cross_entropy_with_logits(scores[known], true[known].float())
            for scores in word_scores
        ]
        shown = dict(
            whole=losses[0].item(),
            dense=losses[1].item(),
            words=words[1].item(),
            scale=scale.item(),
        )
        return losses[0] + losses[1] + WORD_WEIGHT * (words[0] + words[1]), shown


# -- metrics -------------------------------------------------------------------------------------


@torch.no_grad()
def readout_metrics(
    backbone: ToyCLIPBackbone, text: CompactText, template: str
) -> dict[str, float]:
    """Zero-shot metrics of both read-outs with the 72 names of the vocabulary 'all'.

    Args:
        backbone: The image side.
        text: The text side.
        template: Prompt template of the names.

    Returns:
        In percent: mIoU of the dense read-out over each group of names; 'top1', the accuracy of the
        class token for the thing in the centre of a crop, among 64 names.
    """
    text_features = text([template.format(name) for name in ALL_NAMES])
    size = len(ALL_NAMES)
    confusion = torch.zeros(size, size)
    right = 0
    for index in range(NUM_CHECKED):
        image, label = scene(0, CHECK_OFFSET + index)
        dense = F.normalize(backbone(normalize(image[None])).image, dim=1)
        scores = torch.einsum('bdhw,nd->bnhw', dense, text_features)
        prediction = F.interpolate(scores, label.shape, mode='bilinear').argmax(1)[0]
        truth = torch.from_numpy(label).long()
        confusion += torch.bincount(
            (truth * size + prediction).ravel(), minlength=size * size
        ).view(size, size)
        whole = F.normalize(backbone.clip.visual(normalize(_one_thing(index))), dim=-1)
        things = text_features[: len(THING_NAMES)]
        right += int((whole @ things.T).argmax()) == index % len(THING_NAMES)
    hit = confusion.diag()
    iou = 100 * hit / (confusion.sum(0) + confusion.sum(1) - hit).clamp(min=1)
    result = dict(top1=round(100 * right / NUM_CHECKED, 1))
    for key in ('seen_things', 'unseen_combination', 'unseen_attribute', 'seen_stuff'):
        chosen = [ALL_NAMES.index(name) for name in vocabulary_of(key)]
        present = [i for i in chosen if confusion[i].sum() > 0]
        result[f'mIoU_{key}'] = round(float(iou[present].mean()), 1)
    return result


def _one_thing(index: int) -> np.ndarray:
    """A crop (1, 48, 48, 3) of a scene, centred on the thing of that number."""
    wanted = index % len(THING_NAMES)
    for attempt in range(10_000):
        image, label = scene(1, CHECK_OFFSET + 10_000 * index + attempt)
        rows, columns = np.nonzero(label == wanted)
        if len(rows) < 150:
            continue
        top, left = (
            int(np.clip(axis.mean() - CROP / 2, 0, IMAGE_SIZE - CROP)) for axis in (rows, columns)
        )
        return image[None, top : top + CROP, left : left + CROP]
    raise AssertionError(f'no scene has {THING_NAMES[wanted]}')


def main(argv: list[str] | None = None) -> None:
    """Pretrain and write the weights."""
    parser = argument_parser(
        __doc__.split('\n')[0], name='clip', steps=1000, batch_size=128, scenes=20000, lr=1.5e-3
    )
    parser.add_argument(
        '--bf16',
        action='store_true',
        help='mixed precision, for CPUs with AVX512-BF16 or AMX (slower on others)',
    )
    parser.add_argument(
        '--pooling',
        choices=('logmeanexp', 'mean'),
        default='logmeanexp',
        help="of the patches' scores; with the mean, CLIP localises as poorly as the real one",
    )
    args = parser.parse_args(argv)
    prepare(args)
    backbone, text_encoder = build_model()
    text = CompactText(backbone.clip, text_encoder.tokenizer)
    pool = scene_pool(args.work_dir, seed=args.seed, count=args.scenes)
    crops = CaptionedCrops(pool, seed=args.seed, batch_size=args.batch_size)
    model = nn.ModuleDict(
        dict(clip=backbone.clip, word_head=nn.Linear(backbone.embed_dims, len(WORDS)))
    )
    loss = ReadoutLoss(
        backbone, text, crops, model['word_head'], pooling=args.pooling, bf16=args.bf16
    )
    evaluate = partial(readout_metrics, backbone, text, text_encoder.templates[0])
    curve = pretrain(args, model, loss, evaluate, betas=(0.9, 0.98))
    write_results(args, 'clip', text.state_dict(), curve, argv)


if __name__ == '__main__':
    run_tool(main, interrupted=INTERRUPTED)
