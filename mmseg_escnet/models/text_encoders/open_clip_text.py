"""Text embeddings of a vocabulary from the text tower of an open_clip model.

Shapes: N classes, S texts (phrases x templates), D CLIP joint width.
"""

from __future__ import annotations

import copy
import string
from collections.abc import Callable, Sequence
from typing import Literal

import open_clip
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from ...errors import ESCNetError
from ...vocabulary import Vocabulary, shown

NAMED_TEMPLATES = {
    'scene': ('A photo of a {} in the scene',),  # CAT-Seg's recipe for training
    'imagenet': tuple(
        template('{}') for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ),  # 80, of CLIP
}
# in the published list of A-847 these share their first word, as in the published figures
_SAME_IN_A847 = tuple(
    frozenset(group)
    for group in (
        (
            'bag',
            'bag, traveling bag, travelling bag, grip, suitcase',
            'bag, handbag, pocketbook, purse',
        ),
        ('pot, flowerpot', 'pot'),
        ('basket, handbasket', 'basket, basketball hoop, hoop'),
        ('screen, crt screen', 'screen, silver screen, projection screen'),
        ('pier, wharf, wharfage, dock', 'pier'),
        ('control panel', 'control panel, instrument panel, control board, board, panel'),
        ('pipe, pipage, piping', 'pipe, tube'),
        ('grill, grille, grillwork', 'grill'),
        ('patio', 'patio, terrace'),
    )
)


@MODELS.register_module()
class OpenCLIPTextEncoder(BaseModule):
    """Encodes a vocabulary as F_l: unit norm, averaged over templates.

    Has no parameters: the text tower belongs to the backbone's CLIP and is passed in, because both
    towers are one model.

    Args:
        templates: 'scene' (one, recipe), 'imagenet' (80), or a list of texts with one '{}' each.
        synonyms: Use the 'first' synonym of a name (recipe), the 'mean' embedding of all, or the
            'max' of their scores (CLIP alone).
        batch_size: Texts per batch.
    """

    def __init__(
        self,
        *,
        templates: str | Sequence[str] = 'scene',
        synonyms: Literal['first', 'mean', 'max'] = 'first',
        batch_size: int = 256,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.templates = _check_templates(templates)
        self.synonyms = _check_synonyms(synonyms)
        self.batch_size = batch_size
        self.tokenizer = open_clip.SimpleTokenizer()

    def with_options(
        self,
        *,
        templates: str | Sequence[str] | None = None,
        synonyms: Literal['first', 'mean', 'max'] | None = None,
    ) -> OpenCLIPTextEncoder:
        """A copy of this encoder with other options.

        Args:
            templates: See the class; None to keep this encoder's.
            synonyms: See the class; None to keep this encoder's.

        Raises:
            ESCNetError: If an option is invalid.
        """
        other = copy.copy(self)
        if templates is not None:
            other.templates = _check_templates(templates)
        if synonyms is not None:
            other.synonyms = _check_synonyms(synonyms)
        return other

    def phrases(self, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
        """The phrases to encode for each class."""
        if self.synonyms == 'first':
            return [synonyms[:1] for synonyms in vocabulary.synonyms]
        return list(vocabulary.synonyms)

    def class_of_phrase(self, vocabulary: Vocabulary) -> Tensor | None:
        """The class of each row of F_l (P,), ascending; None if every class has one row."""
        counts = torch.tensor([len(phrases) for phrases in vocabulary.synonyms])
        if self.synonyms != 'max' or counts.max() == 1:
            return None
        return torch.arange(len(counts)).repeat_interleave(counts)

    def check(self, vocabulary: Vocabulary, context_length: int) -> None:
        """Check that CLIP does not truncate any name, and can tell the classes apart.

        Raises:
            ESCNetError: Naming the first class whose text exceeds CLIP's context, or the first two
                whose texts are equal.
        """
        longest = max(self.templates, key=lambda t: len(self.tokenizer.encode(t.format(''))))
        first_of: dict[frozenset, str] = {}  # texts -> the first class that has them
        for name, phrases in zip(vocabulary.names, self.phrases(vocabulary), strict=True):
            texts = [tuple(self.tokenizer.encode(longest.format(phrase))) for phrase in phrases]
            other = first_of.setdefault(frozenset(texts), name)
            if other is not name and not any({name, other} <= group for group in _SAME_IN_A847):
                raise ESCNetError(
                    f'Classes {shown(other)} and {shown(name)} are both encoded as '
                    f'{shown(" | ".join(phrases))}, so the model cannot tell them apart: give them '
                    "different words; a comma within a name needs a bar at its end ('door, open |')"
                    ', or in a text file of classes quotes around the name.'
                )
            for text in texts:
                length = len(text) + 2  # start and end of text
                if length > context_length:
                    raise ESCNetError(
                        f'Class name {shown(name)} takes {length} tokens in the template '
                        f'{longest!r}, but CLIP reads only {context_length}: shorten it.'
                    )

    def forward(
        self,
        clip: nn.Module,
        vocabulary: Vocabulary,
        encode: Callable[[list[str]], Tensor] | None = None,
    ) -> Tensor:
        """Encode a vocabulary.

        Args:
            clip: open_clip's CustomTextCLIP.
            vocabulary: The class names.
            encode: Embeds phrases instead of :meth:`encode`.

        Returns:
            F_l (N, D), unit norm; with a gradient if enabled and the tower is trained. (P, D) for
            ``synonyms='max'``: one row per phrase.
        """
        phrases = self.phrases(vocabulary)
        flat = [phrase for synonyms in phrases for phrase in synonyms]
        features = self.encode(clip, flat) if encode is None else encode(flat)
        counts = [len(synonyms) for synonyms in phrases]
        if max(counts) > 1 and self.synonyms == 'mean':
            features = torch.stack([part.mean(dim=0) for part in features.split(counts)])
            features = F.normalize(features, dim=-1)
        return features

    def encode(
        self,
        clip: nn.Module,
        phrases: Sequence[str],
        progress: Callable[[int], object] = lambda texts: None,
    ) -> Tensor:
        """Encode phrases, each in all templates.

        Args:
            clip: open_clip's CustomTextCLIP.
            phrases: P phrases.
            progress: Called with the number of texts of each finished batch.

        Returns:
            (P, D), the normalised mean over templates; with a gradient as in :meth:`forward`.
        """
        texts = [template.format(phrase) for phrase in phrases for template in self.templates]
        tokens = self.tokenizer(texts, context_length=clip.context_length)
        # batch texts of equal length, which leaves hardly any padding
        lengths = tokens.argmax(dim=-1) + 1
        order = lengths.argsort(stable=True)
        features = []
        for indices in order.split(self.batch_size):
            batch = tokens[indices, : lengths[indices[-1]]]
            features.append(encode_text(clip, batch.to(clip.logit_scale.device)))
            progress(len(indices))
        features = torch.cat(features)[order.argsort().to(clip.logit_scale.device)]
        # the mean of unit vectors
        features = F.normalize(features.float(), dim=-1)
        features = features.unflatten(0, (-1, len(self.templates))).mean(dim=1)
        return F.normalize(features, dim=-1)


def _check_synonyms(synonyms: str) -> str:
    if synonyms not in ('first', 'mean', 'max'):
        raise ESCNetError(f"synonyms={synonyms!r} must be 'first', 'mean' or 'max'.")
    return synonyms


def _check_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(templates, str):
        if templates not in NAMED_TEMPLATES:
            raise ESCNetError(
                f'Templates {templates!r} are unknown: use one of {sorted(NAMED_TEMPLATES)} or a '
                "list of texts with one '{}' each."
            )
        return NAMED_TEMPLATES[templates]
    templates = tuple(templates)
    for template in templates:
        if not isinstance(template, str) or _fields(template) != ['']:
            raise ESCNetError(
                f"Template {template!r} must be a string with exactly one '{{}}', the place of the "
                'class name.'
            )
    if not templates:
        raise ESCNetError("The list of templates is empty: give at least one, such as '{}'.")
    return templates


def _fields(template: str) -> list[str] | None:
    try:
        return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError:  # unbalanced braces
        return None


def encode_text(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Encode tokens without trailing padding.

    CLIP's text tower is causal and pooled at the end-of-text token, so the padding after it has no
    effect. Without it (a name takes about 10 of 77 tokens) the features are the same at a fraction
    of the cost.

    Args:
        clip: open_clip's CustomTextCLIP.
        tokens: (S, length), length at most the context length.

    Returns:
        Text features (S, D), not normalised.
    """
    tower = clip.text
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)
    pooled = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
    projection = tower.text_projection
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection
