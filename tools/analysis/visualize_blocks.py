"""Visualise what the ESC blocks do for a word in an image.

    python tools/analysis/visualize_blocks.py IMAGE --classes "taxi, wet road" --word taxi

For each block: the correlation that it reads, its pseudo prompts, and what its SAM block does to
the features. One word is drawn to --out, several to a file each, named after --out and the word.
The whole image is one view: for a model with windows it is resized to the size of one.
"""

from __future__ import annotations

import argparse
import re
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
from mmseg_escnet.files import check_suffix

_LONGEST = 60  # characters of a word in a file name


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('image')
    parser.add_argument('--word', action='append', help='may be repeated; default: all words')
    add_model_arguments(parser)
    add_word_arguments(parser, threshold=False)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('blocks.png'),
        help='.png, .pdf or .svg (default: %(default)s)',
    )
    parser.add_argument('--arrays', action='store_true', help='also write all arrays, as .npz')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check the arguments, run the model once, write the files."""
    args = parse_args(argv)
    check_files(args)
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.visualization.figure_files import FIGURE_SUFFIXES

    check_suffix(args.out, FIGURE_SUFFIXES)
    cfg, checkpoint = choose_model(args)
    query = make_query(args)
    vocabulary = query.vocabulary
    class_ids = dict.fromkeys(map(vocabulary.find, args.word or vocabulary.names))
    words = [vocabulary.names[i] for i in class_ids]
    seg = OpenVocabInferencer(cfg, checkpoint, args.device)
    found = seg.look_inside(args.image, query, words, **text_options(args))
    for inside, path in zip(found, name_files(args.out, words), strict=True):
        inside.save(path, arrays=path.with_suffix('.npz') if args.arrays else None)
        print(f'{path}: {inside.word}')


def name_files(out: Path, words: Sequence[str]) -> list[Path]:
    """A file for each word: ``out`` for a single one, ``out_taxi.png`` and so on for several."""
    if len(words) == 1:
        return [out]
    names = []
    for word in words:
        name = first = re.sub(r'\W+', '_', word)[:_LONGEST].strip('_').lower()
        number = 1
        while name in names:
            number += 1
            name = f'{first}_{number}'
        names.append(name)
    return [out.with_name(f'{out.stem}_{name}{out.suffix}') for name in names]


if __name__ == '__main__':
    run_tool(main)
