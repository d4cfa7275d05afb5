"""Segment images into any words: mmseg-escnet infer INPUT --classes "taxi, wet road"

Writes, below --out-dir, labels/ and overlays/ (and scores/) with a PNG for each image under its
whole name (a.jpg -> labels/a.jpg.png), in the folders of the input, and names.json, which explains
the ids in the label maps. Existing results of the same words, weights and image are kept: the same
command resumes after an interruption.

Exits with status 0 if all images were segmented, 1 if some failed, 2 for bad input.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

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
from mmseg_escnet.image_files import RESULT_FOLDERS, find_images

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_escnet.apis.query import Query

FAILED_IMAGES = 1


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('input', nargs='+', help='files, folders, or globs in quotes')
    add_model_arguments(parser)
    add_word_arguments(parser)
    parser.add_argument(
        '--out-dir', type=Path, default=Path('work_dirs/infer'), help='default: work_dirs/infer'
    )
    parser.add_argument('--scores', action='store_true', help='also write scores, 16-bit PNG')
    parser.add_argument('--no-overlay', action='store_true', help='write no overlays')
    parser.add_argument(
        '--max-pixels',
        type=number_of_pixels,
        default=80_000_000,
        help='refuse larger images (default: %(default)s)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Find the images, load the model, segment what is left; return the exit status."""
    args = parse_args(argv)
    failures = []

    def report(message: str) -> None:
        failures.append(message)
        tqdm.write(f'failed: {message}', file=sys.stderr)

    check_files(args)
    results = [args.out_dir / kind for kind in RESULT_FOLDERS]
    images = find_images(args.input, leave_out=results, report=report)
    print(f'images found: {len(images)}; loading the model ...', flush=True)

    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.apis.output_folder import OutputFolder

    warnings.filterwarnings('ignore', message='The only class is')  # make_query prints it
    cfg, checkpoint = choose_model(args)
    query = make_query(args)
    how = text_options(args)
    output = OutputFolder(
        args.out_dir,
        describe_run(cfg, checkpoint, query, how),
        overlays=not args.no_overlay,
        scores=args.scores,
    )
    output.check(images)
    todo = [image for image in images if not output.is_done(image)]
    there, made = len(images) - len(todo), 0
    if todo:
        seg = OpenVocabInferencer(cfg, checkpoint, args.device, max_pixels=args.max_pixels)
        text = seg.text_features(query, **how)  # checks the words before anything is written
    output.begin()
    with tqdm(total=len(images), initial=there, unit='image', disable=None) as bar:
        for image in todo:
            try:
                note = output.note(image)
                options = dict(how, text_features=text, keep_class_scores=False)
                (result,) = seg.stream([image.path], query, **options)
            except ESCNetError as error:
                output.remove(image)
                report(str(error))
            else:
                output.write(image, result, note)
                made += 1
            bar.update()
    print(f'{args.out_dir}: {made} images segmented, {there} already there, {len(failures)} failed')
    return FAILED_IMAGES if failures else 0


def number_of_pixels(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number of pixels')
    return int(text)


def describe_run(cfg: Config, checkpoint: Path | None, query: Query, how: dict) -> dict:
    """Everything that label maps depend on besides the images: the query and the model."""
    from mmseg_escnet.config import forget_pretrained, pipeline_steps
    from mmseg_escnet.files import sha256
    from mmseg_escnet.models.clip_weights import find_clip

    if checkpoint is None:  # CLIP alone
        backbone = cfg.model.backbone
        checkpoint, _ = find_clip(backbone.get('model_name'), str(backbone.pretrained))
    model = copy.deepcopy(cfg.model)
    forget_pretrained(model)  # paths that do not affect the result
    config = json.dumps([model, pipeline_steps(cfg)], sort_keys=True, default=str)
    return query.record() | dict(
        **how,
        scores='a 16-bit PNG in scores/: 65535 is 1',
        checkpoint=checkpoint.name,
        checkpoint_sha256=sha256(checkpoint),
        config_sha256=hashlib.sha256(config.encode()).hexdigest(),
    )


if __name__ == '__main__':
    run_tool(main, interrupted='run the same command again to resume')
