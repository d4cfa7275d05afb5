"""Publish a trained checkpoint: a file that needs nothing else, and its model card.

    mmseg-escnet publish work_dirs/escnet_vitb16_coco-stuff/iter_80000.pth

Writes a folder NAME below --out-dir with NAME.safetensors (weights, config and words, without state
that only training needs), NAME.md (the model card) and NAME.yml (an entry for a metafile). NAME has
config, date and the first digits of the SHA-256: escnet_vitb16_coco-stuff_20261130-0123abcd.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path

from mmseg_escnet.cli import add_cfg_options, make_parser, run_tool
from mmseg_escnet.config import INFERENCE_SUFFIX, parse_config, read_config
from mmseg_escnet.errors import ESCNetError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', type=Path, help='trained checkpoint')
    parser.add_argument('--config', help='its config (default: the one in the checkpoint)')
    parser.add_argument(
        '--results',
        nargs='+',
        type=Path,
        help='JSON files of mmseg-escnet test for this checkpoint (default: those beside it)',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('work_dirs/published'),
        help='default: %(default)s',
    )
    parser.add_argument(
        '--half', action='store_true', help='store weights as float16: half the size'
    )
    parser.add_argument(
        '--classes-file',
        type=Path,
        help='default words of the file (.txt, .json, .yaml); by default those of the training',
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Encode the file, load it again, and write it with its card."""
    args = parse_args(argv)
    if not args.checkpoint.is_file():
        raise ESCNetError(f'The checkpoint {args.checkpoint} does not exist: check the path.')

    import torch

    from mmseg_escnet.apis.inference_file import encode_inference_file, read_trained
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.apis.model_card import describe, read_figures
    from mmseg_escnet.apis.query import Query
    from mmseg_escnet.files import sha256, write_file

    words = None if args.classes_file is None else Query.create(args.classes_file).vocabulary
    _, meta = read_trained(args.checkpoint)
    trained_with = parse_config(meta['cfg']) if 'cfg' in meta else None
    found = re.fullmatch(r'([\w.-]+)_(\d{8})_\d{6}', str(meta.get('experiment_name')))
    if args.config is None and (trained_with is None or found is None):
        raise ESCNetError(f'{args.checkpoint} has no config in it: give one as --config.')
    config = read_config(args.config or trained_with, args.cfg_options)
    beside = args.checkpoint.parent
    paths = args.results or [*beside.glob('benchmarks_*.json'), *beside.glob('test_*.json')]
    figures = read_figures(paths, sha256(args.checkpoint), skip=args.results is None)

    dtype = torch.float16 if args.half else torch.float32
    content = encode_inference_file(config, args.checkpoint, vocabulary=words, dtype=dtype)
    stem = found[1] if args.config is None else Path(args.config).stem
    day = found[2] if found else time.strftime('%Y%m%d')
    folder = args.out_dir / f'{stem}_{day}-{hashlib.sha256(content).hexdigest()[:8]}'
    if folder.exists():
        raise ESCNetError(f'{folder} exists: remove it, or give another --out-dir.')
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=args.out_dir, prefix='.', suffix='.part') as part:
            file = Path(part, folder.name, folder.name + INFERENCE_SUFFIX)
            write_file(file, content)
            card, entry = describe(
                file,
                OpenVocabInferencer(file, device='cpu'),
                dtype=str(dtype).removeprefix('torch.'),
                config=config,
                source=args.checkpoint.name,
                meta=meta,
                trained_with=trained_with,
                figures=figures,
            )
            write_file(file.with_suffix('.md'), card.encode())
            write_file(file.with_suffix('.yml'), entry.encode())
            os.rename(file.parent, folder)
    except OSError as error:
        raise ESCNetError(
            f'{folder} cannot be written ({error}): give another --out-dir.'
        ) from error
    print(f'figures: {", ".join(each["key"] for each in figures) or "none"}')
    print(f'{folder}: {file.name}, its card {folder.name}.md, and {folder.name}.yml')
    print(f'Use it with: mmseg-escnet infer IMAGE --checkpoint {folder / file.name}')


if __name__ == '__main__':
    run_tool(main)
