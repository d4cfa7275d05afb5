"""Export the network for other runtimes: one view in, scores out, words as an input.

    mmseg-escnet export --out model.onnx --classes "taxi, wet road" --words words.npz

Writes a file for onnxruntime (.onnx) or for ``torch.export.load`` (.pt2). Other words need no other
export: --words alone writes their embeddings. tools/deployment/onnx_example.py uses both files
without PyTorch. docs/export.md describes them, and what cannot be exported.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_escnet.cli import (
    add_model_arguments,
    add_word_arguments,
    check_files,
    choose_model,
    import_components,
    make_parser,
    make_query,
    run_tool,
    text_options,
)
from mmseg_escnet.files import check_suffix, write_file

if TYPE_CHECKING:
    from torch import Tensor

    from mmseg_escnet.apis.inferencer import OpenVocabInferencer

_SUFFIXES = ('.onnx', '.pt2')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('--out', type=Path, help='network to write, .onnx or .pt2')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help="pixels of a view (default: the model's window, or the size of its resized images)",
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='compare the exported network with the model, and time both',
    )
    parser.add_argument('--words', type=Path, help='embeddings of the words, .npz')
    add_model_arguments(parser)
    add_word_arguments(parser, threshold=False)
    parser.set_defaults(device='cpu')
    args = parser.parse_args(argv)
    if args.out is None and args.words is None:
        parser.error('nothing to write: give --out, --words or both')
    if args.check and args.out is None:
        parser.error('nothing to check: give --out')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check the arguments, export and write."""
    args = parse_args(argv)
    check_files(args)
    for path, suffixes in ((args.out, _SUFFIXES), (args.words, ('.npz',))):
        if path is not None:
            check_suffix(path, suffixes)
    import_components()
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.export import encode_onnx, encode_program, encode_words, require
    from mmseg_escnet.tables import table

    if args.check and args.out.suffix.lower() == '.onnx':
        require('onnxruntime')
    query = make_query(args) if args.words is not None else None
    segmenter = OpenVocabInferencer(*choose_model(args), args.device)
    if query is not None:
        _write(args.words, encode_words(segmenter, query, **text_options(args)))
    size = None if args.size is None else tuple(args.size)
    if args.out is not None:
        encode = encode_onnx if args.out.suffix.lower() == '.onnx' else encode_program
        print('tracing the network, which can take a few minutes ...', flush=True)
        _write(args.out, encode(segmenter, size))
    if args.check:
        columns = ('words', 'largest difference', 'model (s)', 'file (s)')
        rows = [
            (number, f'{difference:.1e}', *(f'{seconds:.2f}' for seconds in times))
            for number, difference, *times in compare(segmenter, args.out, size)
        ]
        print(table(columns, rows))


def _write(path: Path, content: bytes) -> None:
    write_file(path, content)
    print(f'{path} ({len(content) / 1e6:.1f} MB)')


def compare(
    segmenter: OpenVocabInferencer,
    path: Path,
    size: tuple[int, int] | None = None,
    numbers: Sequence[int] = (1, 20, 150),
) -> Iterator[tuple[int, float, float, float]]:
    """Compare an exported file with the model that it was made from, on noise.

    Yields:
        For each number of random words: the number, the largest absolute difference of all scores,
        and the best time of three, in seconds, of the model and of the file.
    """
    import torch
    import torch.nn.functional as F

    from mmseg_escnet.export import ExportableESCNet, protocol

    run, model = load(path), ExportableESCNet(segmenter.model.cpu(), 'auto').eval()
    settings = protocol(segmenter, size)
    generator = torch.Generator().manual_seed(0)
    # blotches of 16 pixels: equal patches would be ties, which every runtime breaks differently
    height, width = settings['view']
    noise = torch.rand(1, 3, height // 16 + 1, width // 16 + 1, generator=generator)
    image = F.interpolate(noise, (height, width), mode='bilinear') * 255
    for number in numbers:
        text = torch.randn(number, settings['embed_dims'], generator=generator)
        inputs = image, F.normalize(text, dim=1)
        with torch.no_grad():
            difference = (run(*inputs) - model(*inputs)).abs().max().item()  # and warms up
            times = [
                min(timeit.repeat(lambda call=call, args=inputs: call(*args), number=1, repeat=3))
                for call in (model, run)
            ]
        yield number, difference, *times


def load(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """An exported file as a function of an image and embedded words."""
    import torch

    from mmseg_escnet.export import INPUTS, OUTPUT, require

    if path.suffix.lower() == '.pt2':
        return torch.export.load(path).module()
    session = require('onnxruntime').InferenceSession(path, providers=['CPUExecutionProvider'])

    def run(image: Tensor, text: Tensor) -> Tensor:
        inputs = dict(zip(INPUTS, (image.numpy(), text.numpy()), strict=True))
        return torch.from_numpy(session.run([OUTPUT], inputs)[0])

    return run


if __name__ == '__main__':
    run_tool(main)
