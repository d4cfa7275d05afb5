"""From words and images to label maps, in Python.

Shapes: M words, N classes of the answer, H x W pixels of the image, h x w of the network's input.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor

from ..config import check_needs_no_checkpoint, is_inference_file, read_config
from ..device import find_device
from ..downloads import fetch
from ..errors import ESCNetError
from ..image_files import are_several, each_image, printable
from ..models.segmentors import ESCNet, OpenVocabSegmentor
from ..models.text_encoders.open_clip_text import OpenCLIPTextEncoder
from ..vocabulary import MAX_WORDS
from .clip_config import clip_config
from .images import MAX_PIXELS, ImageReader, build_pipeline
from .inference_file import read_inference_config, read_weights
from .inside import WordInside, look_inside, whole_view
from .query import Background, Query, Words
from .result import SegmentationResult

_MOST_TEXTS = 200_000  # words times templates
Templates = str | Sequence[str] | None
Synonyms = Literal['mean', 'first', 'max'] | None


class OpenVocabInferencer:
    """Segments images into any words.

    ::

        seg = OpenVocabInferencer('configs/escnet/escnet_vitl14_coco-stuff.py', 'escnet.pth')
        result = seg('street.jpg', classes=['taxi', 'wet road', 'zebra crossing'])
        result.labels  # (H, W): 0 is a taxi, 1 wet road, 2 a zebra crossing
        result.overlay().show()

    Without ``classes`` it segments into :attr:`vocabulary`. Images go through the pipeline and the
    protocol of the config's test data set, so that label maps equal those of ``mmseg-escnet test``
    for the same image and words. New words cost a pass of the text encoder, known ones nothing.
    Calls do not affect each other, so several threads may share an inferencer.

    Args:
        config: Path of a config, or a config; or the path or URL of an inference file, which
            contains everything.
        checkpoint: Path of its weights; None for an inference file, or for CLIP alone
            (:class:`.CLIPReadout`), which loads the CLIP weights of its config.
        device: A PyTorch device; 'auto' is the first GPU if there is one, otherwise the CPU.
        cfg_options: Settings of the config to override, nested keys with dots.
        max_pixels: Larger images are refused before they are decoded.
        max_words: More words at a time are refused.
        sha256: Of the inference file, see :func:`.downloads.fetch`.

    Attributes:
        vocabulary: The vocabulary stored with the weights; None if there is none.

    Raises:
        ESCNetError: If config or weights cannot be read or do not fit, or there is no such device.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        device: str = 'auto',
        *,
        cfg_options: Mapping[str, object] | None = None,
        max_pixels: int = MAX_PIXELS,
        max_words: int = MAX_WORDS,
        sha256: str | None = None,
    ) -> None:
        self.device = find_device(device)
        source = config if checkpoint is None else checkpoint
        if is_inference_file(source):
            path = fetch(source, sha256)
            config = read_inference_config(path) if checkpoint is None else config
            checkpoint = path
        elif sha256 is not None:
            raise ESCNetError('sha256 is of an inference file: leave it out, or give such a file.')
        self.cfg = read_config(config, cfg_options)
        self.max_words = max_words
        init_default_scope(self.cfg.get('default_scope', 'mmseg'))
        loader, self._pipeline = build_pipeline(self.cfg)
        self._reader = ImageReader(loader, max_pixels=max_pixels)
        weights, self.vocabulary = read_weights(checkpoint) if checkpoint else (None, None)
        self.model = MODELS.build(self.cfg.model)
        if not isinstance(self.model, OpenVocabSegmentor):
            raise ESCNetError(
                f'The model of the config is {type(self.model).__name__}, whose classes are fixed: '
                'give a config of ESCNet.'
            )
        if weights is None:
            check_needs_no_checkpoint(self.cfg)
            self.model.init_weights()
        else:
            self.model.load_state_dict(weights)
        self.model.to(self.device).eval()

    @classmethod
    def from_clip(
        cls, clip: str = 'ViT-B-16', device: str = 'auto', **options
    ) -> OpenVocabInferencer:
        """CLIP alone, which needs no training (:class:`.CLIPReadout`).

        Args:
            clip: See :func:`.clip_config.clip_config`: an architecture of open_clip, 'NAME:TAG' or
                'NAME:FILE'. Weights that are not on this machine are downloaded.
            device: As for the class.
            options: Other arguments of the class.
        """
        return cls(clip_config(clip), device=device, **options)

    def __call__(
        self, images: object, classes: object = None, **options
    ) -> SegmentationResult | list[SegmentationResult]:
        """Segment an image, or several.

        Args:
            images: An image: a path, the bytes of a file, a Pillow image, or an array (H, W, 3) in
                RGB order of uint8 (also RGBA, grey, and uint16). Or several: a list or an iterator
                of these, a folder or a glob. See :meth:`.images.ImageReader.read` and
                :func:`.image_files.find_images`.
            classes: See :meth:`.query.Query.create`; None for :attr:`vocabulary`.
            options: See :meth:`stream`.

        Returns:
            The result; for several images a list of results in their order, all in memory: use
            :meth:`stream` for many images.

        Raises:
            ESCNetError: If an image or a word cannot be used: the first such one.
        """
        results = self.stream(images, classes, **options)
        return list(results) if are_several(images) else next(results)

    def stream(
        self,
        images: object,
        classes: Words | None = None,
        *,
        background: Background = None,
        threshold: float | None = None,
        templates: Templates = None,
        synonyms: Synonyms = 'mean',
        keep_class_scores: bool = True,
        text_features: np.ndarray | None = None,
    ) -> Iterator[SegmentationResult]:
        """Segment images one by one, each when its result is requested.

        With a single class and no background every pixel is assigned to that class.

        Args:
            images: As for a call.
            classes: See :meth:`.query.Query.create`; or a query, which includes background and
                threshold; None for :attr:`vocabulary`.
            background: See :meth:`.query.Query.create`.
            threshold: Pixels whose best word is less probable have no class.
            templates: Texts with '{}' in place of the word: 'scene' (one), 'imagenet' (80), or a
                list; None for those of the config, with which the model was trained.
            synonyms: For several phrases of a class use the 'mean' of their embeddings, only the
                'first', as benchmarks do, or, for CLIP alone, the 'max' of their scores; None
                follows the config.
            keep_class_scores: Keep what :meth:`.SegmentationResult.class_scores` needs: M numbers
                for each of, as a rule, 96 x 96 positions of every view.
            text_features: (M, D) from :meth:`text_features` for these classes and ``synonyms``,
                perhaps computed in another process; ``templates`` are then ignored.

        Returns:
            An iterator over the results. Words are checked immediately, each image in its turn.

        Raises:
            ESCNetError: If an image or a word cannot be used.
        """
        query = self._query(classes, background=background, threshold=threshold)
        encoder = self._encoder(templates, synonyms)
        class_of_phrase = encoder.class_of_phrase(query.vocabulary)
        if text_features is None:
            text = self._embed(query, encoder)
        else:
            phrases = query.vocabulary if class_of_phrase is None else class_of_phrase
            text = self._check_text(text_features, len(phrases))
        if query is not classes:  # the notes of a query are its owner's
            for note in query.notes(encoder.synonyms):
                warnings.warn(note, stacklevel=2)
        return (
            self._segment(image, where, query, text, class_of_phrase, keep_class_scores)
            for image, where in each_image(images)
        )

    def look_inside(
        self,
        image: object,
        classes: Words,
        word: str | Sequence[str],
        *,
        background: Background = None,
        templates: Templates = None,
        synonyms: Synonyms = 'mean',
    ) -> WordInside | list[WordInside]:
        """Inspect what the ESC blocks compute for one word of an image.

        The whole image is one view here: a model with windows sees it resized to the size of one,
        which is its global view, whereas its label maps also depend on the windows.

        Args:
            image: A single image, as for a call.
            classes: As for a call: what a block computes for a word depends on the other words.
            word: One of the classes or of the words of the background; or several, for which the
                network runs once.
            background: See :meth:`.query.Query.create`.
            templates: See :meth:`stream`.
            synonyms: See :meth:`stream`.

        Returns:
            The correlation before and after each block, the pseudo prompts, and how the SAM block
            changes the features: arrays, and a figure of them. A list for a list of words.

        Raises:
            ESCNetError: If the image or a word cannot be used.
        """
        if not isinstance(self.model, ESCNet):
            raise ESCNetError(
                f'The model is {type(self.model).__name__}, which has no ESC blocks to look into: '
                'load an ESC-Net.'
            )
        query = self._query(classes, background=background)
        ids = [query.vocabulary.find(each) for each in ([word] if isinstance(word, str) else word)]
        text = self._embed(query, self._encoder(templates, synonyms))
        with self._pixels(image, num_words=len(query.vocabulary)) as pixels:
            view = whole_view(self.model, *self._inputs(pixels))
            names = {query.vocabulary.names[i]: i for i in ids}
            looks = look_inside(self.model, view, pixels[..., ::-1], text, names)
        found = dict(zip(names.values(), looks, strict=True))
        return found[ids[0]] if isinstance(word, str) else [found[i] for i in ids]

    @torch.no_grad()
    def dense_features(self, image: object, *, size: tuple[int, int] | None = None) -> np.ndarray:
        """Text-aligned features of an image.

        They are F_v, of this checkpoint's CLIP. F_v', which the ESC blocks make of it, is in SAM's
        space and cannot be compared with :meth:`text_features`.

        Args:
            image: A single image, as for a call.
            size: (height, width) in pixels that the image is resized to, which determines the
                grid. By default it is the view of :meth:`look_inside`.

        Returns:
            (D, h, w), float32, unit norm at every patch.

        Raises:
            ESCNetError: If the image cannot be used.
        """
        with self._pixels(image) as pixels:
            view = whole_view(self.model, *self._inputs(pixels), size)
            features = self.model.backbone(view).image
        return F.normalize(features[0].float(), dim=0).cpu().numpy()

    @torch.no_grad()
    def text_features(
        self,
        classes: Words,
        *,
        templates: Templates = None,
        synonyms: Synonyms = 'mean',
    ) -> np.ndarray:
        """Embed words in the space of :meth:`dense_features`.

        ``np.tensordot(text, features, 1)``, (M, h, w), are the cosines C_0 that the first block
        reads.

        Args:
            classes: See :meth:`.query.Query.create`.
            templates: See :meth:`stream`.
            synonyms: See :meth:`stream`.

        Returns:
            (M, D), float32, unit norm: the classes in their order, then, for a query, the words of
            its background; one row for each of their phrases for ``synonyms='max'``.

        Raises:
            ESCNetError: If a word cannot be used.
        """
        query = self._query(classes)
        encoder = self._encoder(templates, synonyms)
        return self._embed(query, encoder).float().cpu().numpy()

    def _query(self, classes: object, **options) -> Query:
        if isinstance(classes, Query):
            return classes
        if classes is None:
            if self.vocabulary is None:
                raise ESCNetError(
                    "There are no classes, and the weights come with none: give classes=['taxi', "
                    "'wet road']."
                )
            classes = self.vocabulary
        return Query.create(classes, **options, max_words=self.max_words)

    def _encoder(self, templates: Templates, synonyms: Synonyms) -> OpenCLIPTextEncoder:
        return self.model.text_encoder.with_options(templates=templates, synonyms=synonyms)

    @torch.no_grad()
    def _embed(self, query: Query, encoder: OpenCLIPTextEncoder) -> Tensor:
        """F_l (M, D) of the words of a query, after checking them."""
        texts = sum(map(len, encoder.phrases(query.vocabulary))) * len(encoder.templates)
        if texts > _MOST_TEXTS:
            raise ESCNetError(
                f'The words in {len(encoder.templates)} templates are {texts} texts, more than '
                f'{_MOST_TEXTS}: give fewer words or templates.'
            )
        encoder.check(query.vocabulary, self.model.backbone.clip.context_length)
        return self.model.embed(query.vocabulary, encoder)

    def _check_text(self, text_features: np.ndarray, rows: int) -> Tensor:
        """F_l (M, D) from the caller."""
        text = torch.as_tensor(np.asarray(text_features), dtype=torch.float32)
        shape, expected = tuple(text.shape), (rows, self.model.backbone.embed_dims)
        norms = text.norm(dim=-1)
        if shape != expected or not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
            raise ESCNetError(
                f'text_features has the shape {shape} and rows of norm {norms.min():.3g} to '
                f'{norms.max():.3g} instead of {expected} and 1: use what text_features() returns '
                'for these words and this model.'
            )
        return text.to(self.device)

    @torch.no_grad()
    def _segment(
        self,
        image: object,
        where: str,
        query: Query,
        text: Tensor,
        class_of_phrase: Tensor | None,
        keep_class_scores: bool,
    ) -> SegmentationResult:
        with self._pixels(image, where, len(query.vocabulary)) as pixels:
            inputs, meta = self._inputs(pixels)
            (scores,) = self.model.scores(inputs, text, [meta], class_of_phrase)
            best = scores.best()
        labels, confidence = query.assign_classes(best.ids.cpu(), best.scores.cpu())
        normaliser = best.normaliser
        if not keep_class_scores:
            scores = normaliser = None
        return SegmentationResult(
            labels=labels,
            scores=confidence,
            query=query,
            image=np.ascontiguousarray(pixels[..., ::-1]),
            source=os.fspath(image) if isinstance(image, (str, os.PathLike)) else None,
            score_maps=None if scores is None else scores.cpu(),
            normaliser=None if normaliser is None else normaliser.cpu(),
        )

    @contextmanager
    def _pixels(
        self, image: object, where: str = 'The image', num_words: int | None = None
    ) -> Iterator[np.ndarray]:
        """Read an image (H, W, 3), BGR, and explain it if its processing runs out of memory."""
        if isinstance(image, (str, os.PathLike)):
            where = f'Image {printable(image)}'
        pixels = self._reader.read(image, where)
        try:
            yield pixels
        except (RuntimeError, MemoryError) as error:
            kinds = (torch.cuda.OutOfMemoryError, MemoryError)
            # the CPU's allocator has no exception of its own
            if not isinstance(error, kinds) and "can't allocate memory" not in str(error):
                raise
            words, fewer = '', ''
            if num_words is not None:
                words, fewer = f' with {num_words} words', 'give fewer words, or '
            raise ESCNetError(
                f'{where}, {pixels.shape[1]}x{pixels.shape[0]} pixels{words}, does not fit into '
                f'the memory of {self.device}: {fewer}make the image smaller.'
            ) from error

    def _inputs(self, pixels: np.ndarray) -> tuple[Tensor, dict]:
        """The network's input for an image (H, W, 3) in BGR order, and its meta information."""
        size = pixels.shape[:2]
        packed = self._pipeline(dict(img=pixels, img_shape=size, ori_shape=size))
        data = self.model.data_preprocessor(pseudo_collate([packed]), False)
        return data['inputs'], data['data_samples'][0].metainfo
