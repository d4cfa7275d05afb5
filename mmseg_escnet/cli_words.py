"""What the tools share that segment images into words: their arguments, and what those mean."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import add_cfg_options
from .config import check_config_path, is_inference_file, read_config
from .errors import ESCNetError
from .vocabulary import read_classes

if TYPE_CHECKING:
    from mmengine.config import Config

    from .apis.query import Query


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`choose_model` reads, and the device."""
    parser.add_argument('--config', help='by default the model of the toy world')
    parser.add_argument(
        '--checkpoint', help='weights of the model of --config; or alone, an inference file'
    )
    parser.add_argument('--device', default='auto', help='auto (default), cpu, cuda:0, ...')
    add_cfg_options(parser)


def add_word_arguments(parser: argparse.ArgumentParser, *, threshold: bool = True) -> None:
    """Add the arguments that :func:`choose_words` and :func:`choose_templates` read.

    Args:
        parser: Gets them.
        threshold: With the one that only label maps know.
    """
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        '--classes', help='names between commas, synonyms between bars: "taxi, sofa | couch"'
    )
    words.add_argument(
        '--classes-file', type=Path, help='a .txt (a name on each line), .json or .yaml of classes'
    )
    parser.add_argument(
        '--background',
        help="what is none of the classes: words between commas; 'other' for common ones (sky, "
        'wall, road, ...); or a number: whatever scores lower',
    )
    if threshold:
        parser.add_argument(
            '--threshold', type=float, help='pixels that score lower have no class (0 to 1)'
        )
    else:
        parser.set_defaults(threshold=None)
    parser.add_argument(
        '--templates', help="scene, imagenet (80), or a text with '{}'; by default the config's"
    )
    parser.add_argument(
        '--synonyms',
        choices=['mean', 'first'],
        default='mean',
        help="of several synonyms use the mean, or the first as benchmarks do (default: 'mean')",
    )


def check_files(args: argparse.Namespace) -> None:
    """Refuse a model or classes that are not there, before libraries are imported to read them.

    Raises:
        ESCNetError: If a file does not exist, only one of config and checkpoint is given, or the
            file of classes is not usable.
    """
    has_both = args.config is None and is_inference_file(args.checkpoint)
    if (args.config is None) != (args.checkpoint is None) and not has_both:
        missing = '--checkpoint' if args.checkpoint is None else '--config'
        raise ESCNetError(f'{missing} is missing: give both, or none for the toy world.')
    if args.config is not None:
        check_config_path(args.config)
    if args.checkpoint is not None and not Path(args.checkpoint).is_file():
        raise ESCNetError(f'The checkpoint {args.checkpoint} does not exist: check the path.')
    if getattr(args, 'classes_file', None) is not None:
        read_classes(args.classes_file)


def choose_model(args: argparse.Namespace) -> tuple[Config, Path]:
    """The config and the checkpoint: those given, or else those of the toy world.

    Raises:
        ESCNetError: If only one of them is given, or one does not exist.
    """
    check_files(args)
    from .apis.inference_file import read_inference_config
    from .toyworld.model import toy_model

    if args.checkpoint is None:
        config, checkpoint = toy_model()
        print(
            'note: without --config and --checkpoint this is the miniature model of the toy world, '
            'which knows drawings of coloured shapes (docs/toyworld.md) and no photographs'
        )
    else:
        checkpoint = Path(args.checkpoint)
        config = args.config or read_inference_config(checkpoint)
    return read_config(config, args.cfg_options), checkpoint


def choose_words(args: argparse.Namespace) -> Query:
    """What is asked of the images.

    Raises:
        ESCNetError: If there are no words, or some are not usable.
    """
    from .apis.inference_file import read_words
    from .apis.query import Query
    from .toyworld.model import TOY_VOCABULARY

    if args.classes is not None:
        classes = split_words(args.classes)
    elif args.classes_file is not None:
        classes = args.classes_file
    elif args.checkpoint is None:
        classes = TOY_VOCABULARY
    elif is_inference_file(args.checkpoint) and (found := read_words(args.checkpoint)):
        classes = found
    else:
        raise ESCNetError(
            'There are no words: give --classes "taxi, wet road", or a file by --classes-file.'
        )
    query = Query.create(
        classes, background=choose_background(args.background), threshold=args.threshold
    )
    if len(query.names) == 1:
        print(
            f'note: {query.names[0]!r} is the only class, so every pixel will be of it; name what '
            'else there is by --background'
        )
    return query


def choose_background(text: str | None) -> str | float | list[str] | None:
    """The background: a number, the name of the common one, or a list of words."""
    if text is None or text.strip() == 'other':
        return text
    try:
        return float(text)
    except ValueError:
        return split_words(text)


def choose_templates(text: str | None) -> str | list[str] | None:
    """The templates: None, a name, or a list of one text."""
    return [text] if text is not None and '{' in text else text


def split_words(text: str) -> list[str]:
    """The words between commas or line breaks."""
    return [word.strip() for word in re.split(r'[,\r\n]', text) if word.strip()]
