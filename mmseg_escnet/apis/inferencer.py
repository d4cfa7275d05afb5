"""From words and images to label maps, in Python.

Shapes: M words, N classes of the answer, H x W pixels of the image, h x w of the network's input.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS
from torch import Tensor

from ..errors import ESCNetError
from ..models.segmentors.escnet import ESCNet, undo_padding_and_flip
from ..vocabulary import Vocabulary
from .class_files import MAX_WORDS
from .images import MAX_PIXELS, ImageReader, find_images, is_glob, printable
from .pipeline import build_pipeline, find_device, read_config
from .preflight import check_checkpoint
from .query import Query
from .result import SegmentationResult
from .score_maps import ScoreMaps

_MOST_TEXTS = 200_000  # words times templates


class OpenVocabInferencer:
    """Segment images into any words.

    ::

        seg = OpenVocabInferencer('configs/escnet/escnet_vitl14_coco-stuff.py', 'escnet.pth')
        result = seg('street.jpg', classes=['taxi', 'wet road', 'zebra crossing'])
        result.labels  # (H, W): 0 is a taxi, 1 wet road, 2 a zebra crossing
        result.overlay().show()

    Images go through the pipeline and the protocol of the config's test data set, so that label
    maps are those that ``tools/test.py`` computes for the same image and words. Changing the words
    costs a pass of the text encoder, and nothing when they were seen before. Calls from several
    threads are made one after the other.

    Args:
        config: Path of a config, or a config.
        checkpoint: Path of its weights.
        device: 'auto' is the first GPU if there is one, otherwise the CPU; or as PyTorch names
            devices.
        cfg_options: Settings of the config to override, nested keys with dots.
        max_pixels: Larger images are refused before they are decoded.
        max_words: More words at a time are refused.

    Raises:
        ESCNetError: If config or weights cannot be read or do not fit, or there is no such device.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        device: str = 'auto',
        *,
        cfg_options: Mapping[str, object] | None = None,
        max_pixels: int = MAX_PIXELS,
        max_words: int = MAX_WORDS,
    ) -> None:
        self.device = find_device(device)
        self.cfg = read_config(config, cfg_options)
        self.max_words = max_words
        init_default_scope(self.cfg.get('default_scope', 'mmseg'))
        loader, self._pipeline = build_pipeline(self.cfg)
        self._reader = ImageReader(loader, max_pixels=max_pixels)
        check_checkpoint(os.fspath(checkpoint))
        self.model = MODELS.build(self.cfg.model)
        if not isinstance(self.model, ESCNet):
            raise ESCNetError(
                f'The model of the config is {type(self.model).__name__}, whose words cannot be '
                'changed: give a config of ESCNet.'
            )
        load_checkpoint(self.model, os.fspath(checkpoint), map_location='cpu')
        self.model.to(self.device).eval()
        encoder = self.model.text_encoder
        self._trained_with = dict(templates=encoder.templates, synonyms=encoder.synonyms)
        self._lock = threading.Lock()

    def __call__(
        self, images: object, classes: object, **options
    ) -> SegmentationResult | list[SegmentationResult]:
        """Segment an image, or several.

        Args:
            images: A path, the bytes of a file, a Pillow image, or an array (H, W, 3) in RGB order
                of uint8 (also RGBA, grey, and uint16); or several: a list or an iterator of these,
                a folder or a glob. See :meth:`.images.ImageReader.read` and
                :func:`.images.find_images`.
            classes: See :meth:`.query.Query.create`.
            options: See :meth:`stream`.

        Returns:
            The result; for several images a list of results in their order. All of them are in
            memory then: for many images use :meth:`stream`.

        Raises:
            ESCNetError: If an image or a word is not usable: the first that is not.
        """
        results = self.stream(images, classes, **options)
        return list(results) if _are_several(images) else next(results)

    def stream(
        self,
        images: object,
        classes: Sequence[str] | Mapping[str, object] | Vocabulary | os.PathLike | Query,
        *,
        background: str | float | Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        threshold: float | None = None,
        templates: str | Sequence[str] | None = None,
        synonyms: Literal['mean', 'first'] | None = 'mean',
        keep_class_scores: bool = True,
    ) -> Iterator[SegmentationResult]:
        """Segment images one after the other, each when its result is asked for.

        With a single class and no background every pixel is of that class: there is nothing else
        that it could be.

        Args:
            images: As for a call.
            classes: See :meth:`.query.Query.create`; or a query, which has background and
                threshold in it.
            background: See :meth:`.query.Query.create`.
            threshold: Pixels whose best word is less probable have no class.
            templates: Texts with '{}', where the word goes: 'scene' (one), 'imagenet' (80), or a
                list; None for those of the config, with which the model was trained.
            synonyms: Of several phrases of a class take the 'mean' of their embeddings, or only
                the 'first', as benchmarks do; None does what the config says.
            keep_class_scores: Keep what :meth:`.SegmentationResult.class_scores` needs: M numbers
                for each pixel of the network's input.

        Returns:
            An iterator over the results. The words are checked before it is returned, an image
            when it is its turn.

        Raises:
            ESCNetError: If an image or a word is not usable.
        """
        query = classes
        if not isinstance(query, Query):
            query = Query.create(
                classes, background=background, threshold=threshold, max_words=self.max_words
            )
        how = dict(templates=templates, synonyms=synonyms)
        with self._lock:
            self._prepare(query, **how)
        if len(query.names) == 1:
            warnings.warn(
                f'The only class is {query.names[0]!r}, so every pixel will be of this class: '
                "name what else there is by background=['...'] or background='other'.",
                stacklevel=2,
            )
        return (
            self._segment(image, where, query, how, keep_class_scores)
            for image, where in _each(images)
        )

    def _prepare(
        self, query: Query, *, templates: str | Sequence[str] | None, synonyms: str | None
    ) -> None:
        """Make the model look for the words of a query, after checking them."""
        encoder = self.model.text_encoder
        before = encoder.key
        encoder.set_options(
            templates=self._trained_with['templates'] if templates is None else templates,
            synonyms=self._trained_with['synonyms'] if synonyms is None else synonyms,
        )
        has_words = self.model.dataset_meta is not None
        if has_words and encoder.key == before and self.model.vocabulary == query.vocabulary:
            return
        texts = sum(map(len, encoder.phrases(query.vocabulary))) * len(encoder.templates)
        if texts > _MOST_TEXTS:
            raise ESCNetError(
                f'The words make {texts} texts in {len(encoder.templates)} templates, and at most '
                f'{_MOST_TEXTS} are taken: give fewer words or templates.'
            )
        self.model.set_vocabulary(query.vocabulary)

    @torch.no_grad()
    def _segment(
        self, image: object, where: str, query: Query, how: dict, keep_class_scores: bool
    ) -> SegmentationResult:
        pixels = self._reader.read(image, where)
        with self._lock:  # the words belong to the model, whatever somebody else asked meanwhile
            self._prepare(query, **how)
            try:
                scores = self._scores(pixels)
                best = scores.best()
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise ESCNetError(
                    f'{where}, {pixels.shape[1]}x{pixels.shape[0]} pixels with '
                    f'{len(query.vocabulary)} words, does not fit into the memory of '
                    f'{self.device}: give fewer words, or make the image smaller.'
                ) from error
        labels, confidence = _answer(query, best.ids.cpu(), best.scores.cpu())
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

    def _scores(self, pixels: np.ndarray) -> ScoreMaps:
        """Scores of an image (H, W, 3) in BGR order, as ``model.test_step`` computes them."""
        size = pixels.shape[:2]
        packed = self._pipeline(dict(img=pixels, img_shape=size, ori_shape=size))
        data = self.model.data_preprocessor(pseudo_collate([packed]), False)
        meta = data['data_samples'][0].metainfo
        scores = self.model.inference(data['inputs'], [meta])[0]
        return ScoreMaps(
            scores=undo_padding_and_flip(scores, meta),
            size=size,
            are_probabilities=self.model.test_cfg.mode == 'windows',
            align_corners=self.model.align_corners,
        )


def _answer(query: Query, ids: Tensor, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores (H, W) from the best of M words and its probability."""
    labels = ids.clamp(max=query.num_asked)  # the words of the background are one class
    if query.background_below is not None:
        labels = labels.masked_fill(scores < query.background_below, query.num_asked)
    if query.threshold is not None:
        labels = labels.masked_fill(scores < query.threshold, query.no_class)
    return labels.numpy().astype(query.dtype), scores.numpy()


def _are_several(images: object) -> bool:
    if isinstance(images, (str, os.PathLike)):
        return os.path.isdir(images) or is_glob(images)
    return isinstance(images, (list, tuple, Iterator))


def _each(images: object) -> Iterator[tuple[object, str]]:
    """The images, and what each is called in messages."""
    if not _are_several(images):
        images, first = [images], 'The image'
    elif isinstance(images, (str, os.PathLike)):
        images, first = [found.path for found in find_images(images)], ''
    else:
        first = ''
    for number, image in enumerate(images, 1):
        if isinstance(image, (str, os.PathLike)):
            yield image, f'Image {printable(image)}'
        else:
            yield image, first or f'Image number {number}'


def _is_out_of_memory(error: Exception) -> bool:
    # the CPU's allocator has no exception of its own
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
