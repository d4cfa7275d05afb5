"""ESC-Net for other runtimes: one view of an image in, scores of its pixels out, words as an input.

Shapes: N classes, D CLIP joint width, H x W pixels of the view.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
_MOST_CLASSES = 65_535
# steps of a pipeline that leave the pixels of an image as they are
_NO_CHANGES = ('LoadImage', 'LoadImageFromFile', 'LoadAnnotations', 'LoadLabelMap', 'PackSegInputs')
_TRACED_CLASSES = 5


class ExportableESCNet(nn.Module):
    """The network as a function of an image and of embedded words, without state (ours).

    Normalisation and the softmax (or not, as the model's mode has it) are in it, so that nothing
    can be got wrong outside. All classes pass through its graph at once: it is that of any number.

    Args:
        model: In evaluation mode; its own vocabulary plays no part.
        class_chunk: 'all' for the graph; 'auto' computes the same as the model itself does.
    """

    def __init__(self, model: ESCNet, class_chunk: Literal['all', 'auto'] = 'all') -> None:
        super().__init__()
        self.model = model
        self.class_chunk = class_chunk
        self.are_probabilities = model.test_cfg.mode == 'windows'
        preprocessor = model.data_preprocessor
        self.register_buffer('mean', preprocessor.mean.clone())
        self.register_buffer('std', preprocessor.std.clone())

    def forward(self, image: Tensor, text_features: Tensor) -> Tensor:
        """Scores of one view.

        Args:
            image: (1, 3, H, W), RGB, 0 to 255.
            text_features: F_l (N, D), unit norm: :meth:`.OpenVocabInferencer.text_features`.

        Returns:
            (1, N, H, W): probabilities where the model has windows, otherwise logits.
        """
        model = self.model
        logits = F.interpolate(
            model.logits(
                (image - self.mean) / self.std, text_features, class_chunk=self.class_chunk
            ),
            image.shape[-2:],
            mode='bilinear',
            align_corners=model.align_corners,
        )
        return logits.softmax(dim=1) if self.are_probabilities else logits


def export_program(
    segmenter: OpenVocabInferencer, size: tuple[int, int] | None = None
) -> torch.export.ExportedProgram:
    """Trace the network for views of one size and any number of classes.

    Args:
        segmenter: With the model, which is moved to the CPU.
        size: (H, W) in pixels; by default the model's window or, without windows, the size that
            its test pipeline resizes to.

    Returns:
        The program of :class:`ExportableESCNet`; ``torch.export.save`` writes it, and its
        ``module()`` runs.

    Raises:
        ESCNetError: If this PyTorch cannot, or the size is none or not known.
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
    """Make an ONNX file, with :func:`protocol` in its metadata.

    Args:
        segmenter: See :func:`export_program`.
        size: See :func:`export_program`.

    Returns:
        The bytes of the file: inputs ``image`` (1, 3, H, W) and ``text_features`` (N, D), output
        ``scores`` (1, N, H, W), all float32, as :class:`ExportableESCNet` has them.

    Raises:
        ESCNetError: If this PyTorch cannot, a library is missing, or the size is none.
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
            optimize=False,  # its whole set of rewrites takes minutes, and makes nothing quicker
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
    """Make a ``.pt2`` file of :func:`export_program`, with :func:`protocol` as an extra file.

    Raises:
        ESCNetError: As :func:`export_program`.
    """
    content = io.BytesIO()
    extra = {f'{METADATA}.json': json.dumps(protocol(segmenter, size))}
    torch.export.save(export_program(segmenter, size), content, extra_files=extra)
    return content.getvalue()


@dataclass(frozen=True)
class Comparison:
    """An exported network beside the model, for one number of classes.

    Attributes:
        num_classes: N.
        difference: The largest of all scores' absolute differences.
        model_seconds: Time of the model for one view.
        file_seconds: Time of the exported network for one view.
    """

    num_classes: int
    difference: float
    model_seconds: float
    file_seconds: float


def compare(
    segmenter: OpenVocabInferencer, path: Path, numbers: Sequence[int] = (1, 20, 150)
) -> Iterator[Comparison]:
    """Run a file beside the model that it was exported from, on noise.

    Args:
        segmenter: With the model, which is moved to the CPU.
        path: Of :func:`encode_onnx` (.onnx; needs onnxruntime) or :func:`encode_program` (.pt2).
        numbers: Of classes; as many random embeddings take the place of words.

    Raises:
        ESCNetError: If onnxruntime is missing.
    """
    run, said = _load(path)
    plain = ExportableESCNet(segmenter.model.cpu(), 'auto').eval()
    generator = torch.Generator().manual_seed(0)
    # blotches of 16 pixels: patches of one grey would make ties, which each runtime breaks its way
    height, width = said['view']
    noise = torch.rand(1, 3, height // 16 + 1, width // 16 + 1, generator=generator)
    image = F.interpolate(noise, (height, width), mode='bilinear') * 255
    for number in numbers:
        text = torch.randn(number, said['embed_dims'], generator=generator)
        text = F.normalize(text, dim=1)
        (expected, ours), (found, theirs) = (
            _timed(lambda call=call, text=text: call(image, text)) for call in (plain, run)
        )
        yield Comparison(number, (found - expected).abs().max().item(), ours, theirs)


def _load(path: Path) -> tuple[Callable[[Tensor, Tensor], Tensor], dict]:
    """A file as a function, and its protocol."""
    if path.suffix == '.pt2':
        extra = {f'{METADATA}.json': ''}
        program = torch.export.load(path, extra_files=extra)
        return program.module(), json.loads(extra[f'{METADATA}.json'])
    onnxruntime = require('onnxruntime')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def run(image: Tensor, text: Tensor) -> Tensor:
        inputs = dict(zip(INPUTS, (image.numpy(), text.numpy()), strict=True))
        return torch.from_numpy(session.run([OUTPUT], inputs)[0])

    return run, json.loads(session.get_modelmeta().custom_metadata_map[METADATA])


@torch.no_grad()
def _timed(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What it returns, and its shortest time in seconds of three, after one that does not count."""
    call()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, min(times)


def encode_words(
    segmenter: OpenVocabInferencer,
    query: Query,
    *,
    templates: str | Sequence[str] | None = None,
    synonyms: Literal['mean', 'first'] | None = 'mean',
) -> bytes:
    """Make the file of words that an exported network is given.

    Args:
        segmenter: With the model that was exported.
        query: The classes, and the words of a background.
        templates: See :meth:`.OpenVocabInferencer.stream`.
        synonyms: See :meth:`.OpenVocabInferencer.stream`.

    Returns:
        The bytes of an ``.npz`` that needs no pickle: ``text_features`` (M, D) of the M words,
        ``label_of_word`` (M), ``names`` (N) of the labels and ``palette`` (N, 3).

    Raises:
        ESCNetError: If a word is not usable, or the query has a bound of scores.
    """
    if query.threshold is not None or query.background_below is not None:
        raise ESCNetError(
            'A file of words has no place for a bound of scores (--threshold, or a number as '
            '--background): apply it to the scores yourself, or give words for the background.'
        )
    content = io.BytesIO()
    np.savez(
        content,
        text_features=segmenter.text_features(query, templates=templates, synonyms=synonyms),
        label_of_word=np.minimum(np.arange(len(query.vocabulary)), query.num_asked),
        names=np.array(query.names),
        palette=np.array(query.palette, np.uint8),
    )
    return content.getvalue()


def protocol(segmenter: OpenVocabInferencer, size: tuple[int, int] | None = None) -> dict:
    """What a program needs to know besides the graph, to do as the model does.

    Args:
        segmenter: With the model and its config.
        size: See :func:`export_program`.

    Returns:
        ``view`` [H, W]; ``resize`` [height, width] that an image is resized to (None: not at all)
        before its windows are cut, or is the one view; ``stride`` of the windows (None: the image
        is one view) and ``global_view``, whether their mean is averaged once more with the scores
        of the whole image squeezed into one view; ``activation`` of the scores, 'softmax' or None
        for logits; ``embed_dims`` D; ``clip`` and ``templates``, that embeddings of words must
        come from; ``version``.

    Raises:
        ESCNetError: If the size is none or not known, its windows would leave gaps or are larger
            than what images are resized to, or the pipeline is one that cannot be said so.
    """
    model, cfg = segmenter.model, segmenter.model.test_cfg
    resize = _resize(segmenter)
    windows = cfg.mode != 'whole'
    if size is None:
        size = cfg.crop_size if windows else resize
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not is_pair or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ESCNetError(
            f'The size of a view is {size!r}: give (height, width) in pixels, for the model has '
            'no windows and its test pipeline no fixed size.'
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
    """[height, width] of the pipeline's only change of an image."""
    steps = [step for step in pipeline_steps(segmenter.cfg) if step['type'] not in _NO_CHANGES]
    if not steps:
        return None
    (step,) = steps if len(steps) == 1 else ({},)
    is_plain = step.get('type') == 'Resize' and set(step) <= {'type', 'scale', 'keep_ratio'}
    if not is_plain or step.get('keep_ratio') or not isinstance(step.get('scale'), (tuple, list)):
        raise ESCNetError(
            'The test pipeline has more than a Resize to a fixed scale (width, height): what else '
            'it does to an image cannot be written into the file.'
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
    """Without what the libraries say of operators that are not used here, or not folded."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
