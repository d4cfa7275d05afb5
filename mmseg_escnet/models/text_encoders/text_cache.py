"""In-memory cache of text embeddings.

Shapes: P phrases, N classes, D CLIP joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from ...vocabulary import Vocabulary
from .open_clip_text import OpenCLIPTextEncoder

MAX_PHRASES = 20_000  # 60 MB at width 768
_TEXTS_AT_A_TIME = 16_384  # bounds memory
_PROGRESS_AFTER_SECONDS = 3


class TextCache:
    """Cache of phrase embeddings, keyed by everything that they depend on.

    The cache stores phrases, not vocabularies, so a new vocabulary costs only its new words. An
    embedding depends on the phrase, the templates, the tokenizer, the weights and structure of the
    text tower, the device type and the matmul precision. Its last bits also depend on the texts of
    the same batch, as matrix products of other shapes are summed in another order (a difference of
    3e-6 was observed for a feature of size 4).

    Weights are identified by addresses, versions, and sums over the last layer, because a version
    counts in-place changes of a tensor but not those through ``.data`` (averaged weights). Threads
    may share a cache: at worst both encode the same words.
    """

    def __init__(self) -> None:
        self._weights: tuple | None = None
        self._embeddings: dict[tuple, Tensor] = {}
        self._last: tuple[tuple, Tensor] | None = None

    def text_features(
        self, encoder: OpenCLIPTextEncoder, clip: nn.Module, vocabulary: Vocabulary
    ) -> Tensor:
        """The result of ``encoder(clip, vocabulary)``, encoding only phrases that are not cached.

        Args:
            encoder: The text encoder.
            clip: open_clip's CustomTextCLIP.
            vocabulary: The class names.

        Returns:
            F_l (N, D), or (P, D) for ``synonyms='max'``; unit norm, without a gradient; do not
            modify it in place.
        """
        weights = _identity(clip)
        if weights != self._weights:  # old weights never return
            self._weights, self._embeddings, self._last = weights, {}, None
        settings = _settings(encoder, clip)
        key = (weights, settings, encoder.synonyms, encoder.phrases(vocabulary))
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        # not an inference tensor, which autograd could not save later
        with torch.inference_mode(False), torch.no_grad():
            features = encoder(
                clip, vocabulary, encode=lambda phrases: self._embed(encoder, clip, phrases)
            )
        self._last = (key, features)
        return features

    def _embed(
        self, encoder: OpenCLIPTextEncoder, clip: nn.Module, phrases: Sequence[str]
    ) -> Tensor:
        """Embeddings (P, D) of phrases."""
        settings, kept = _settings(encoder, clip), self._embeddings
        found = {phrase: kept.get((settings, phrase)) for phrase in phrases}
        missing = [phrase for phrase, embedding in found.items() if embedding is None]
        step = max(1, _TEXTS_AT_A_TIME // len(encoder.templates))
        with tqdm(
            total=len(missing) * len(encoder.templates),
            desc='text embeddings',
            unit='text',
            delay=_PROGRESS_AFTER_SECONDS,
            leave=False,
            disable=None,
        ) as bar:
            for start in range(0, len(missing), step):
                part = missing[start : start + step]
                embeddings = encoder.encode(clip, part, progress=bar.update)
                # clone, or a single phrase would keep the whole batch in memory
                found.update(zip(part, map(torch.clone, embeddings), strict=True))
        if len(kept) + len(missing) > MAX_PHRASES:
            kept.clear()
        kept.update(((settings, phrase), found[phrase]) for phrase in missing[:MAX_PHRASES])
        return torch.stack([found[phrase] for phrase in phrases])


def _settings(encoder: OpenCLIPTextEncoder, clip: nn.Module) -> tuple:
    """What embeddings depend on besides phrases and weights."""
    tokenizer = encoder.tokenizer
    return (
        encoder.templates,
        (type(tokenizer).__name__, tokenizer.vocab_size, clip.context_length),
        _structure(clip.text),
        clip.logit_scale.device.type,
        _matmul_precision(),
    )


def _matmul_precision() -> tuple[str, ...]:
    if torch.__version__ < (2, 9):
        return (torch.get_float32_matmul_precision(),)
    # since 2.9 each library has its own setting, and querying the common one may raise
    libraries = torch.backends.cuda, torch.backends.mkldnn
    settings = (library.matmul.fp32_precision for library in libraries)
    return tuple('ieee' if setting == 'none' else setting for setting in settings)


def _structure(tower: nn.Module) -> tuple:
    """Properties of the tower that its weights do not determine."""
    blocks = tower.transformer.resblocks
    return (
        tuple(block.attn.num_heads for block in blocks),
        tuple(bool(getattr(block.mlp.gelu, 'quick', False)) for block in blocks),
    )


def _identity(clip: nn.Module) -> tuple:
    """A cheap fingerprint that changes whenever the weights of the text tower do."""
    last = clip.text.transformer.resblocks[-1]
    sums = torch.stack([p.detach().float().sum() for p in last.parameters()]).tolist()
    return (
        tuple(
            (t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version)
            for t in chain(clip.text.parameters(), clip.text.buffers())
        ),
        tuple(sums),
    )
