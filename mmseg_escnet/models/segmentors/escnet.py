"""The ESC-Net segmentor.

Shapes: B images, N classes, H x W pixels, h x w patch grid, D CLIP joint width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from ...errors import ESCNetError
from ...vocabulary import Vocabulary
from ..necks.esc_neck import ESCFeatures
from ..weights import check_fit, to_dense
from .window_inference import window_inference

# as mmcv's RandomFlip names them -> dimensions of (N, H, W)
_FLIP_DIMS = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}
_MODES = ('whole', 'slide', 'windows')
_CACHED_CLASSES = 20_000  # of which embeddings are kept: 60 MB at a width of 768


@MODELS.register_module()
class ESCNet(EncoderDecoder):
    """ESC-Net: segment an image into any words (Lee et al., CVPR 2025, arXiv 2411.14723).

    ::

        images ------> backbone (CLIP image tower) --> F_v, skips
        vocabulary --> text_encoder (CLIP text tower) --> F_l
        C_0 = cosine(F_v, F_l)
        C_0, F_v, F_l --> neck: T x [PPG -> SAM block -> VLF] --> E_T
        E_T, skips --> decode_head --> logits (B, N, 4h, 4w) --bilinear--> (B, N, H, W)

    The vocabulary is no part of the model: :meth:`set_vocabulary` changes it at run time, and
    the embeddings, ``num_classes``, ``out_channels``, ``dataset_meta`` and palette follow. When a
    runner trains or tests, ``VocabularyHook`` sets it from the data set.

    ``test_cfg.mode`` is 'windows' (CAT-Seg's protocol with our softmax: windows of ``crop_size``
    at ``stride`` and a global view, averaged after it, ``window_batch_size`` at a time), or
    MMSegmentation's 'whole' or 'slide'. In 'windows' mode ``seg_logits`` of the results holds the
    averaged probabilities.

    Args:
        backbone: Config of the CLIP model.
        text_encoder: Config of the text encoder.
        neck: Config of the ESC blocks.
        decode_head: Config of the decoder and loss.
        data_preprocessor: Config of MMSegmentation's SegDataPreProcessor.
        train_cfg: Unused by ESC-Net, part of the interface.
        test_cfg: See above.
        pretrained: None; MMSegmentation's ``init_model`` passes it.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ESCNetError: If ``test_cfg`` is not usable.
    """

    def __init__(
        self,
        *,
        backbone: dict,
        text_encoder: dict,
        neck: dict,
        decode_head: dict,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        pretrained: None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if pretrained is not None:
            raise ESCNetError(
                f'ESCNet takes no pretrained={pretrained!r}: set model.backbone.pretrained (CLIP) '
                'and model.neck.sam_pretrained (SAM).'
            )
        if isinstance(data_preprocessor, dict):  # found without a default scope, as all parts are
            data_preprocessor = MODELS.build(data_preprocessor)
        # not EncoderDecoder's own: it would build the neck before the widths of CLIP are known
        super(EncoderDecoder, self).__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.text_encoder = MODELS.build(text_encoder)
        self.neck = MODELS.build(neck, default_args=dict(image_dims=self.backbone.embed_dims))
        self.decode_head = MODELS.build(
            decode_head,
            default_args=dict(in_channels=self.neck.embed_dims, skip_dims=self.backbone.skip_dims),
        )
        self.align_corners = self.decode_head.align_corners
        self.train_cfg = train_cfg
        self.test_cfg = ConfigDict(dict(mode='whole'), **(test_cfg or {}))
        _check_test_cfg(self.test_cfg)
        self._vocabulary: Vocabulary | None = None
        # from all that embeddings depend on to embeddings, those used last at the end
        self._text_cache: OrderedDict[tuple, Tensor] = OrderedDict()

    # -- vocabulary ------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        """The words in use.

        Raises:
            ESCNetError: If none have been set.
        """
        if self._vocabulary is None:
            raise ESCNetError(
                'The model has no vocabulary yet: call '
                "model.set_vocabulary(['taxi', 'wet road', ...]) first."
            )
        return self._vocabulary

    def set_vocabulary(
        self, names: Sequence[str] | Vocabulary, palette: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Segment into other words from now on.

        Args:
            names: N class names, each may hold synonyms; class i of the results is names[i].
            palette: N colours (R, G, B); by default one that depends on the name alone.

        Raises:
            ESCNetError: If the names are no list of different non-empty strings, or one is longer
                than CLIP's context. The vocabulary in use is kept then.
        """
        if not isinstance(names, Vocabulary):
            names = Vocabulary.create(names, palette)
        self.text_encoder.check(names, self.backbone.clip.context_length)
        self._vocabulary = names
        self.num_classes = self.out_channels = len(names)
        self.decode_head.num_classes = self.decode_head.out_channels = len(names)

    @property
    def dataset_meta(self) -> dict | None:
        """The vocabulary as MMSegmentation's meta information; setting it sets the vocabulary."""
        return None if self._vocabulary is None else self._vocabulary.dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self.set_vocabulary(meta['classes'], meta.get('palette'))

    def text_features(self) -> Tensor:
        """F_l (N, D) of the vocabulary, unit norm.

        Computed anew with a gradient in training; otherwise once per vocabulary and weights, as
        long as it is among the vocabularies used last (20 000 classes in all).
        """
        parameters = list(self.backbone.clip.text.parameters())
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self._encode_vocabulary()
        # everything the embeddings depend on; a version counts the in-place changes of a tensor,
        # but not those through .data (averaged weights), which the sums show
        weights = (
            tuple(
                (p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in parameters
            ),
            self._last_layer_sums(),
            bool(self.backbone.quick_gelu),
        )
        key = (weights, self.text_encoder.key, self.vocabulary.key)
        cache = self._text_cache
        if any(known[0] != weights for known in cache):  # those never come back
            cache.clear()
        if key not in cache:
            # not as an inference tensor, which a later use with a gradient could not save
            with torch.inference_mode(False), torch.no_grad():
                cache[key] = self._encode_vocabulary()
            while len(cache) > 1 and sum(map(len, cache.values())) > _CACHED_CLASSES:
                cache.popitem(last=False)
        cache.move_to_end(key)
        return cache[key]

    def _encode_vocabulary(self) -> Tensor:
        # in full precision also under autocast: once per vocabulary, and every pixel depends on it
        with torch.autocast(self.backbone.logit_scale.device.type, enabled=False):
            return self.text_encoder(self.backbone.clip, self.vocabulary)

    def _last_layer_sums(self) -> tuple[float, ...]:
        last = self.backbone.clip.text.transformer.resblocks[-1]
        return tuple(torch.stack([p.detach().float().sum() for p in last.parameters()]).tolist())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        # every way to load a checkpoint comes by here, also those that only warn of a misfit
        own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        check_fit(self, own, source='The checkpoint', prefix=prefix)
        state_dict.update(to_dense(own, source='The checkpoint'))  # a copy made for loading
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # -- network ---------------------------------------------------------------------------------

    def extract_feat(self, inputs: Tensor, keep_blocks: bool = False) -> ESCFeatures:
        """From images to what the decode head reads.

        Args:
            inputs: (B, 3, H, W) RGB, normalised.
            keep_blocks: Also return what every ESC block left behind, to look inside.
        """
        features = self.backbone(inputs)
        text = self.text_features()
        return self.neck(
            features,
            correlate(features.image, text),
            text,
            self.backbone.logit_scale,
            keep_blocks=keep_blocks,
        )

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (B, N, H, W) of images (B, 3, H, W), at their own size."""
        logits = self.decode_head(self.extract_feat(inputs))
        return F.interpolate(
            logits, inputs.shape[-2:], mode='bilinear', align_corners=self.align_corners
        )

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Scores (B, N, H, W): probabilities in 'windows' mode, otherwise logits."""
        if self.test_cfg.mode != 'windows':
            return super().inference(inputs, batch_img_metas)
        return window_inference(
            inputs,
            lambda images: self.encode_decode(images, batch_img_metas).float().softmax(dim=1),
            crop_size=tuple(self.test_cfg.crop_size),
            stride=tuple(self.test_cfg.stride),
            global_view=self.test_cfg.get('global_view', True),
            batch_size=self.test_cfg.get('window_batch_size', 1),
        )

    def postprocess_result(
        self, seg_logits: Tensor, data_samples: OptSampleList = None
    ) -> SampleList:
        """Bring scores back to the original images and choose the best class of every pixel.

        Unlike MMSegmentation's own, a vocabulary of one word is a class like any other and not a
        binary problem.

        Args:
            seg_logits: Scores (B, N, H, W) at the size of the network's input.
            data_samples: B samples with the padding, flip and original size of their images.

        Returns:
            The samples with ``pred_sem_seg`` (1, H0, W0), int64, and ``seg_logits`` (N, H0, W0).
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in seg_logits]
        for scores, sample in zip(seg_logits, data_samples, strict=True):
            meta = sample.metainfo
            scores = undo_padding_and_flip(scores, meta)[None]
            if 'ori_shape' in meta:
                scores = F.interpolate(
                    scores,
                    meta['ori_shape'][:2],
                    mode='bilinear',
                    align_corners=self.align_corners,
                )
            sample.set_data(
                {
                    'seg_logits': PixelData(data=scores[0]),
                    'pred_sem_seg': PixelData(data=scores[0].argmax(dim=0, keepdim=True)),
                }
            )
        return data_samples


def undo_padding_and_flip(scores: Tensor, meta: dict) -> Tensor:
    """Bring scores back to the image as it was before it was padded and flipped.

    Args:
        scores: (N, H, W) at the size of the network's input.
        meta: Meta information of the image's sample.

    Returns:
        (N, H - padding, W - padding).
    """
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    height, width = scores.shape[-2:]
    scores = scores[:, top : height - bottom, left : width - right]
    if meta.get('flip', False):
        scores = scores.flip(dims=_FLIP_DIMS[meta['flip_direction']])
    return scores


def correlate(image_features: Tensor, text: Tensor) -> Tensor:
    """The correlation C_0 of image and text: cosines (paper, section 3.1).

    Args:
        image_features: Dense CLIP features F_v (B, D, h, w).
        text: F_l (N, D), unit norm.

    Returns:
        (B, N, h, w), in the precision of the text.
    """
    # a step of half precision at logit scale 100 would move pixels over PPG's threshold
    with torch.autocast(image_features.device.type, enabled=False):
        image = F.normalize(image_features.to(text.dtype), dim=1)
        return torch.einsum('bdhw,nd->bnhw', image, text)


def _check_test_cfg(test_cfg: ConfigDict) -> None:
    mode = test_cfg.mode
    if mode not in _MODES:
        raise ESCNetError(f'test_cfg.mode={mode!r} must be one of {_MODES}.')
    if mode == 'whole':
        return
    for key in ('crop_size', 'stride'):
        value = test_cfg.get(key)
        if not isinstance(value, (tuple, list)) or len(value) != 2 or min(value) < 1:
            raise ESCNetError(
                f'test_cfg.{key}={value!r} must be (height, width) in pixels for mode={mode!r}.'
            )
    if any(step > size for step, size in zip(test_cfg.stride, test_cfg.crop_size, strict=True)):
        raise ESCNetError(
            f'test_cfg.stride={test_cfg.stride} is larger than crop_size={test_cfg.crop_size}: '
            'windows would leave gaps; make it smaller.'
        )
