"""Export the network for other runtimes: one view in, scores out, words as an input.

    mmseg-escnet export --out model.onnx --classes "taxi, wet road" --words words.npz

A file for onnxruntime (.onnx) or for ``torch.export.load`` (.pt2). Words can change without another
export: --words alone writes the embeddings of others. tools/deployment/onnx_example.py uses both
files without PyTorch. docs/export.md says what is in them, and what cannot be exported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_escnet.cli import (
    add_model_arguments,
    add_word_arguments,
    check_files,
    choose_model,
    make_parser,
    make_query,
    run_tool,
    text_options,
)
from mmseg_escnet.errors import ESCNetError

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
        help="pixels of a view; by default the model's window, or what its images are resized to",
    )
    parser.add_argument(
        '--check', action='store_true', help='then run the network beside the model, and time both'
    )
    parser.add_argument('--words', type=Path, help='embeddings of the words to write, .npz')
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
    """Check what was asked, then export and write."""
    args = parse_args(argv)
    check_files(args)
    for path, suffixes in ((args.out, _SUFFIXES), (args.words, ('.npz',))):
        if path is not None and path.suffix not in suffixes:
            raise ESCNetError(f'{path} must end in {" or ".join(suffixes)}: rename it.')
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.export import compare, encode_onnx, encode_program, encode_words, require
    from mmseg_escnet.files import write_file
    from mmseg_escnet.tables import table

    if args.check and args.out.suffix == '.onnx':
        require('onnxruntime')
    query = make_query(args) if args.words is not None else None
    segmenter = OpenVocabInferencer(*choose_model(args), args.device)
    if query is not None:
        _write(write_file, args.words, encode_words(segmenter, query, **text_options(args)))
    if args.out is not None:
        size = None if args.size is None else tuple(args.size)
        encode = encode_onnx if args.out.suffix == '.onnx' else encode_program
        print('tracing the network, which takes from half a minute to some minutes ...', flush=True)
        _write(write_file, args.out, encode(segmenter, size))
    if args.check:
        columns = ('words', 'largest difference', 'model (s)', 'file (s)')
        rows = [
            (
                row.num_classes,
                f'{row.difference:.1e}',
                f'{row.model_seconds:.2f}',
                f'{row.file_seconds:.2f}',
            )
            for row in compare(segmenter, args.out)
        ]
        print(table(columns, rows))


def _write(write_file, path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    print(f'{path} ({len(content) / 1e6:.1f} MB)')


if __name__ == '__main__':
    run_tool(main)
