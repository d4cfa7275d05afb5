"""Segment images into any words: mmseg-escnet infer INPUT --classes "taxi, wet road"

Writes, below --out-dir, labels/ and overlays/ (and scores/, coco/, polygons/) with a file for each
image under its whole name (a.jpg -> labels/a.jpg.png), in the folders of the input, and names.json,
which explains the ids in the label maps. The same command resumes after an interruption. Other
words go into a new folder: work_dirs/infer2, work_dirs/infer3, ...

Exits with status 0 if all images were segmented, 1 if some failed, 2 for bad input.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

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
from mmseg_escnet.errors import ESCNetError, Problems
from mmseg_escnet.image_files import (
    COCO,
    OVERLAYS,
    POLYGONS,
    RESULT_FOLDERS,
    SCORES,
    find_images,
    numbered_folders,
    printable,
)

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
    add = parser.add_argument
    add(
        '--out-dir',
        type=Path,
        default=Path('work_dirs/infer'),
        help='default: work_dirs/infer; if it holds results of other words or weights, a number is '
        'appended',
    )
    add(
        '--overwrite',
        action='store_true',
        help='replace results of other words or weights in --out-dir instead',
    )
    add('--scores', action='store_true', help='also write scores, 16-bit PNG')
    add('--coco', action='store_true', help='also write COCO annotations: coco.json')
    add('--polygons', action='store_true', help='also write regions as polygons, GeoJSON')
    overlays = parser.add_mutually_exclusive_group()
    overlays.add_argument('--no-overlay', action='store_true', help='write no overlays')
    overlays.add_argument(
        '--plain-overlay',
        action='store_true',
        help='write overlays in the size of the image, without names and legend',
    )
    add(
        '--half',
        action='store_true',
        help='compute in bfloat16 (test_cfg.autocast): faster on a GPU or with AVX512-BF16',
    )
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

    problems = Problems()
    with problems:
        check_files(args)
    beside = numbered_folders(args.out_dir)
    results = [folder / kind for folder in (args.out_dir, *beside) for kind in RESULT_FOLDERS]
    with problems:
        images = find_images(args.input, leave_out=results, report=report)
    problems.raise_all()
    print(f'images found: {len(images)}; loading the model ...', flush=True)
    import_components()
    from mmseg_escnet.apis.inferencer import OpenVocabInferencer
    from mmseg_escnet.apis.output_folder import OutputFolder
    from mmseg_escnet.apis.polygons import load_shapely
    from mmseg_escnet.models.clip_weights import find_clip

    if args.polygons:
        with problems:
            load_shapely()
    with problems:
        query = make_query(args)
    with problems:
        cfg, checkpoint = choose_model(args)
        weights, clip = checkpoint, cfg.model.backbone
        if weights is None:  # CLIP alone
            download = not problems.sentences
            name = clip.get('model_name')
            weights, _ = find_clip(name, str(clip.pretrained), allow_download=download)
    problems.raise_all()
    if args.half:
        cfg.model.test_cfg = dict(cfg.model.get('test_cfg') or {}, autocast='bfloat16')
    how = text_options(args)
    record = describe_run(cfg, weights, query, how)
    options = dict(overwrite=args.overwrite, kinds=chosen_kinds(args), plain=args.plain_overlay)
    output = OutputFolder.choose(args.out_dir, record, images, **options)
    todo = [image for image in images if not output.is_done(image)]
    there, made = len(images) - len(todo), 0
    if todo:
        seg = OpenVocabInferencer(cfg, checkpoint, args.device, max_pixels=args.max_pixels)
        text = seg.text_features(query, **how)  # checks the words before anything is written
        # again: another run may have begun meanwhile
        output = OutputFolder.choose(args.out_dir, record, images, **options)
    if output.folder != args.out_dir:
        print(f'note: {args.out_dir} holds other results, so these go to {output.folder}')
    output.begin()
    with tqdm(total=len(images), initial=there, unit='image', disable=None) as bar:
        for image in todo:
            start = time.perf_counter()
            try:
                note = output.note(image)
                features = dict(text_features=text, keep_class_scores=False)
                (result,) = seg.stream([image.path], query, **how, **features)
            except ESCNetError as error:
                output.remove(image)
                report(str(error))
            else:
                output.write(image, result, note)
                made += 1
                seconds = time.perf_counter() - start
                name, file = printable(image.name), printable(output.path(image))
                tqdm.write(f'{name}: {result.summary()} ({seconds:.2f} s) -> {file}')
            bar.update()
    output.finish(images)
    print(
        f'{output.folder}: {made} images segmented, {there} already there, {len(failures)} failed; '
        f'{", ".join(f"{kind}/" for kind in reversed(output.kinds))} and names.json'
    )
    return FAILED_IMAGES if failures else 0


def chosen_kinds(args: argparse.Namespace) -> list[str]:
    """The kinds of results to write."""
    chosen = {
        OVERLAYS: not args.no_overlay,
        SCORES: args.scores,
        COCO: args.coco,
        POLYGONS: args.polygons,
    }
    return [kind for kind, is_chosen in chosen.items() if is_chosen]


def number_of_pixels(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number of pixels')
    return int(text)


def describe_run(cfg: Config, weights: Path, query: Query, how: dict) -> dict:
    """Everything that label maps depend on besides the images: the query and the model."""
    from mmseg_escnet.config import forget_pretrained, pipeline_steps
    from mmseg_escnet.files import sha256

    model = copy.deepcopy(cfg.model)
    forget_pretrained(model)  # paths that do not affect the result
    config = json.dumps([model, pipeline_steps(cfg)], sort_keys=True, default=str)
    return query.record() | dict(
        **how,
        scores='a 16-bit PNG in scores/: 65535 is 1',
        checkpoint=weights.name,
        checkpoint_sha256=sha256(weights),
        config_sha256=hashlib.sha256(config.encode()).hexdigest(),
    )


if __name__ == '__main__':
    run_tool(main, interrupted='run the same command again to resume')
