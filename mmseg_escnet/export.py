"""Export to other runtimes: a view of an image and embedded words in, scores of its pixels out.

Shapes: N classes, D CLIP joint width, H x W pixels of the view.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .apis.inferencer import OpenVocabInferencer
from .apis.query import Query
from .config import pipeline_steps
from .errors import ESCNetError
from .models.segmentors.escnet import ESCNet
from .version import __version__

INPUTS, OUTPUT = ('image', 'text_features'), 'scores'
METADATA = 'mmseg_escnet'  # the key under which a file holds :func:`protocol` as JSON
_MOST_CLASSES, _TRACED_CLASSES = 65_535, 5
# pipeline steps that do not change the pixels of an image
_NO_CHANGES = ('LoadImage', 'LoadImageFromFile', 'LoadAnnotations', 'LoadLabelMap', 'PackSegInputs')


class ExportableESCNet(nn.Module):
    """The network as a stateless function of an image and embedded words (ours).

    It includes normalisation and, if the model's mode applies it, the softmax.

    Args:
        model: In evaluation mode; its own vocabulary is not used.
        class_chunk: 'all' for one graph for any number of classes; 'auto' computes the same in
            the chunks that the model itself uses.
    """

    def __init__(self, model: ESCNet, class_chunk: Literal['all', 'auto'] = 'all') -> None:
        super().__init__()
        self.model = model
        self.class_chunk = class_chunk
        self.are_probabilities = model.test_cfg.mode == 'windows'
        for name in ('mean', 'std'):
            self.register_buffer(name, getattr(model.data_preprocessor, name).clone())

    def forward(self, image: Tensor, text_features: Tensor) -> Tensor:
        """Scores of one view.

        Args:
            image: (1, 3, H, W), RGB, 0 to 255.
            text_features: F_l (N, D), unit norm: :meth:`.OpenVocabInferencer.text_features`.

        Returns:
            (1, N, H, W): probabilities where the model has windows, otherwise logits.
        """
        view = (image - self.mean) / self.std
        logits = F.interpolate(
            self.model.logits(view, text_features, class_chunk=self.class_chunk),
            image.shape[-2:],
            mode='bilinear',
            align_corners=self.model.align_corners,
        )
        return logits.softmax(dim=1) if self.are_probabilities else logits


def export_program(
    segmenter: OpenVocabInferencer, size: tuple[int, int] | None = None
) -> torch.export.ExportedProgram:
    """Trace the network for views of one size and any number of classes.

    Args:
        segmenter: Its model is moved to the CPU.
        size: (H, W) in pixels; by default the model's window or, without windows, the size that
            its test pipeline resizes to.

    Returns:
        The program of :class:`ExportableESCNet`.

    Raises:
        ESCNetError: If this version of PyTorch cannot, or the size is invalid or unknown.
    """
    if torch.__version__ < (2, 6):
        raise ESCNetError(
            f'PyTorch {torch.__version__} cannot export this network: install 2.6 or newer.'
        )
    model = segmenter.model.cpu()
    height, width = protocol(segmenter, size)['view']
    text = F.normalize(torch.randn(_TRACED_CLASSES, model.backbone.embed_dims), dim=1)
    shapes = dict(image=None, text_features={0: torch.export.Dim('classes', max=_MOST_CLASSES)})
    with torch.no_grad(), _quietly():
        return torch.export.export(
            ExportableESCNet(model).eval(),
            (torch.zeros(1, 3, height, width), text),
            dynamic_shapes=shapes,
            strict=False,
        )


def encode_onnx(segmenter: OpenVocabInferencer, size: tuple[int, int] | None = None) -> bytes:
    """Encode :func:`export_program` as an ONNX file, with :func:`protocol` in its metadata.

    Returns:
        The bytes of the file: inputs ``image`` (1, 3, H, W) and ``text_features`` (N, D), output
        ``scores`` (1, N, H, W), all float32, as :class:`ExportableESCNet` defines them.

    Raises:
        ESCNetError: As :func:`export_program`, or if a library is missing.
    """
    for library in ('onnx', 'onnxscript'):
        require(library)
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass
    from onnxscript import optimizer

    program = export_program(segmenter, size)
    with torch.no_grad(), _quietly():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            optimize=False,  # the full set of rewrites takes minutes and speeds nothing up
            verbose=False,
        )
        optimizer.fold_constants(exported.model)
        CommonSubexpressionEliminationPass()(exported.model)
        optimizer.remove_unused_nodes(exported.model)
    exported.model.metadata_props[METADATA] = json.dumps(protocol(segmenter, size))
    content = io.BytesIO()
    exported.save(content)
    return content.getvalue()


def encode_program(segmenter: OpenVocabInferencer, size: tuple[int, int] | None = None) -> bytes:
    """Encode :func:`export_program` as a ``.pt2`` file, with :func:`protocol` as an extra file."""
    content = io.BytesIO()
    extra = {f'{METADATA}.json': json.dumps(protocol(segmenter, size))}
    torch.export.save(export_program(segmenter, size), content, extra_files=extra)
    return content.getvalue()


def encode_words(segmenter: OpenVocabInferencer, query: Query, **options) -> bytes:
    """Encode the file of words that goes with an exported network.

    Args:
        segmenter: The exported model.
        query: The classes, and the words of a background.
        options: ``templates`` and ``synonyms`` of :meth:`.OpenVocabInferencer.text_features`.

    Returns:
        The bytes of an ``.npz`` without pickled objects: ``text_features`` (M, D) of the M words,
        ``label_of_word`` (M), ``names`` (N) of the labels and ``palette`` (N, 3).

    Raises:
        ESCNetError: If a word cannot be used, or the query has a score threshold.
    """
    if query.threshold is not None or query.background_below is not None:
        raise ESCNetError(
            'A file of words cannot hold a score threshold (--threshold, or a number as '
            '--background): apply it to the scores yourself, or give words for the background.'
        )
    content = io.BytesIO()
    np.savez(
        content,
        text_features=segmenter.text_features(query, **options),
        label_of_word=np.minimum(np.arange(len(query.vocabulary)), query.num_asked),
        names=np.array(query.names),
        palette=np.array(query.palette, np.uint8),
    )
    return content.getvalue()


def protocol(segmenter: OpenVocabInferencer, size: tuple[int, int] | None = None) -> dict:
    """The settings that a program needs besides the graph to reproduce the model.

    Args:
        segmenter: The model and its config.
        size: See :func:`export_program`.

    Returns:
        ``view`` [H, W]; ``resize`` [height, width] of an image before its windows are cut, or of
        the single view (None: not resized); ``stride`` of the windows (None: the image is a single
        view) and ``global_view``, whether the mean of the windows is averaged with the scores of
        the whole image resized to one view; ``activation`` of the scores, 'softmax' or None for
        logits; ``embed_dims`` D; ``clip`` and ``templates``, which word embeddings must come from;
        ``version``.

    Raises:
        ESCNetError: If the size is invalid or unknown, windows of it would leave gaps or exceed
            the resized images, or the pipeline does more than resize.
    """
    model, cfg = segmenter.model, segmenter.model.test_cfg
    resize = _resize(segmenter)
    windows = cfg.mode != 'whole'
    if size is None:
        size = cfg.crop_size if windows else resize
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ESCNetError(
            f'The size of a view is {size!r}: give (height, width) in pixels; the default is the '
            "model's window, or the fixed size of its test pipeline."
        )
    if windows and any(step > side for step, side in zip(cfg.stride, size, strict=True)):
        raise ESCNetError(
            f'Windows of {tuple(size)} pixels at a stride of {tuple(cfg.stride)} would leave gaps: '
            'give a larger size, or a smaller test_cfg.stride.'
        )
    if windows and resize and any(side > most for side, most in zip(size, resize, strict=True)):
        raise ESCNetError(
            f'Windows of {tuple(size)} pixels are larger than the images, which are resized to '
            f'{tuple(resize)}: give a smaller size.'
        )
    return dict(
        view=list(size),
        resize=resize if windows else list(size),
        stride=list(cfg.stride) if windows else None,
        global_view=cfg.mode == 'windows' and cfg.get('global_view', True),
        activation='softmax' if cfg.mode == 'windows' else None,
        embed_dims=model.backbone.embed_dims,
        clip=model.backbone.model_name,
        templates=list(model.text_encoder.templates),
        version=__version__,
    )


def _resize(segmenter: OpenVocabInferencer) -> list[int] | None:
    """[height, width] that the pipeline resizes to, which is all that it may do."""
    steps = [step for step in pipeline_steps(segmenter.cfg) if step['type'] not in _NO_CHANGES]
    if not steps:
        return None
    (step,) = steps if len(steps) == 1 else ({},)
    is_plain = step.get('type') == 'Resize' and set(step) <= {'type', 'scale', 'keep_ratio'}
    if not is_plain or step.get('keep_ratio') or not isinstance(step.get('scale'), (tuple, list)):
        raise ESCNetError(
            'The test pipeline does more than a Resize to a fixed scale (width, height), which '
            'cannot be exported: remove the other steps.'
        )
    width, height = step['scale']
    return [height, width]


def require(library: str) -> ModuleType:
    """Import a library of the extra ``export``.

    Raises:
        ESCNetError: If it is missing.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ESCNetError(f"{library} is missing: pip install 'mmseg_escnet[export]'.") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress warnings about operators that are not used here, or not folded."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
