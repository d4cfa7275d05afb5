"""What the command-line tools share: how they end, their arguments, and what these mean."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .class_files import read_classes
from .config import (
    check_config_path,
    check_weights_path,
    is_inference_file,
    is_url,
    read_config,
    run_config,
)
from .errors import ESCNetError, Problems
from .image_files import check_writable
from .option_values import parse_value
from .settings import split_options
from .vocabulary import split_words
from .words import tokens, visible

if TYPE_CHECKING:
    from mmengine.config import Config

    from .apis.query import Query

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_DEAD_WORKER = re.compile(r'DataLoader worker \(pid(\(s\))? [\d, ]+\)[^.\n]*')
_WHY_WORKERS_DIE = (
    'a data loading process died, usually because memory ran out (see `dmesg`) or /dev/shm is too '
    'small; lower train_dataloader.num_workers, or set it to 0 to see the error itself'
)


# -- how a tool ends -------------------------------------------------------------------------------


def run_tool(main: Callable[[], int | None], *, interrupted: str = '') -> None:
    """Run a tool's main function and exit; threads of the libraries it loads wait passively.

    Bad input ends with one sentence and status 2, the death of a data loading worker with status 1,
    Ctrl-C with status 130; none of them with a traceback.

    Args:
        main: The tool; returns its exit status, None for 0.
        interrupted: How to resume, printed after Ctrl-C. The message of a KeyboardInterrupt takes
            precedence.
    """
    from . import threads  # noqa: F401

    try:
        status = main()
    except ESCNetError as error:
        # from a data loading worker, the sentence follows that worker's traceback
        sentence = str(error).rsplit('ESCNetError: ', 1)[-1].strip()
        print(f'error: {sentence}', file=sys.stderr)
        status = BAD_INPUT
    except (RuntimeError, ConnectionError) as error:
        if not (death := _DEAD_WORKER.search(str(_cause(error)))):
            raise
        print(f'error: {death[0]}: {_WHY_WORKERS_DIE}', file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt as interruption:
        how_to_resume = str(interruption) or interrupted
        print(f'interrupted: {how_to_resume}' if how_to_resume else 'interrupted', file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status or 0)


def _cause(error: Exception) -> Exception:
    """PyTorch's error for a dead data loading worker, if a broken pipe is a symptom of one."""
    torch = sys.modules.get('torch')
    if isinstance(error, ConnectionError) and torch is not None:
        try:
            for _ in range(20):  # the pipe may break before the system reports the death
                torch._C._error_if_any_worker_fails()
                time.sleep(0.05)
        except RuntimeError as death:
            return death
    return error


def command_line() -> str:
    """The command that runs, to be recorded."""
    program, *arguments = sys.argv
    python = '' if program.startswith('mmseg-escnet ') else 'python '
    return f'{python}{program} {shlex.join(arguments)}'


# -- arguments -------------------------------------------------------------------------------------


class ConfigOptions(argparse.Action):
    """MMEngine's ``DictAction``, with texts that stay as they are (:func:`.parse_value`)."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        options = dict(getattr(namespace, self.dest) or {})
        for option in values:
            key, equals, value = option.partition('=')
            if not (key and equals):
                parser.error(f'{option_string}: {option!r} is not key=value')
            try:
                options[key] = parse_value(value)
            except ValueError as error:
                parser.error(
                    f'{option_string}: {option!r}: {error}; if it is a text, give it quotes of its '
                    f'own: "{key}=\'...\'"'
                )
        setattr(namespace, self.dest, options)


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help begins with the description as it is, line by line."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, which is merged into the config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        help='override settings of the config: key=value, nested keys with dots, '
        'lists as key="[a, b]"; a text stays as it is, and quotes in it make one of anything: '
        '"key=\'007\'"',
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of training and testing, which :func:`load_run_config` reads."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes it; torchrun sets the environment variable instead
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the device, and the arguments that :func:`choose_model` reads."""
    parser.add_argument('--config', help='default: the toy-world model')
    parser.add_argument(
        '--checkpoint',
        help='weights of the model of --config; or, on its own, the path or URL of an inference '
        'file',
    )
    parser.add_argument('--sha256', help='of --checkpoint; default: the digits in its name, if any')
    parser.add_argument(
        '--clip',
        metavar='NAME[:WEIGHTS]',
        help='CLIP alone, without training: an architecture of open_clip such as ViT-B-16; WEIGHTS '
        "is one of its tags or a file (default: OpenAI's, downloaded once)",
    )
    parser.add_argument('--device', default='auto', help='auto (default), cpu, cuda:0, ...')
    add_cfg_options(parser)


def add_word_arguments(parser: argparse.ArgumentParser, *, threshold: bool = True) -> None:
    """Add the arguments that :func:`make_query` and :func:`text_options` read.

    Args:
        parser: The parser to extend.
        threshold: Include ``--threshold``, which only applies to label maps.
    """
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        '--classes', help='names between commas, synonyms between bars: "taxi, sofa | couch"'
    )
    words.add_argument(
        '--classes-file', type=Path, help='a .txt (one name per line), .json or .yaml of classes'
    )
    parser.add_argument(
        '--background',
        help="everything that is none of the classes: words between commas; 'other' for common "
        'ones (sky, wall, road, ...); or a number, for pixels that score lower',
    )
    if threshold:
        parser.add_argument(
            '--threshold', type=float, help='pixels that score lower have no class (0 to 1)'
        )
    else:
        parser.set_defaults(threshold=None)
    parser.add_argument(
        '--templates', help="scene, imagenet (80), or a text with '{}'; default: the config's"
    )
    parser.add_argument(
        '--synonyms',
        choices=['mean', 'first', 'max'],
        default='mean',
        help='for several synonyms use their mean (default), the first as benchmarks do, or, with '
        'CLIP alone, the best',
    )


# -- what the arguments mean -----------------------------------------------------------------------


def load_config(
    path: str,
    options: Mapping[str, object] | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """:func:`.config.run_config` with all components registered.

    Raises:
        ESCNetError: If the config does not exist.
        ImportError: If a requirement is missing; the message lists all that are.
    """
    check_config_path(path)
    import_components()
    return run_config(path, options, work_dir, launcher)


def import_components() -> None:
    """Import all that is heavy, and leave it out of all garbage collections, for a third less time.

    Raises:
        ImportError: As :func:`load_config`.
    """
    gc.disable()
    try:
        importlib.import_module('.components', __package__)
    finally:
        gc.freeze()
        gc.enable()
        if sys.version_info >= (3, 13):  # or triton complains that objects are left
            atexit.register(gc.unfreeze)  # a second at the end


def load_run_config(args: argparse.Namespace) -> Config:
    """:func:`load_config` with the arguments of :func:`add_config_arguments`.

    With ``--benchmarks`` the overrides of their data and metrics are left out.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    options = args.cfg_options
    if getattr(args, 'benchmarks', None) is not None:
        options, _ = split_options(options)
    cfg = load_config(args.config, options, args.work_dir, args.launcher)
    check_writable(cfg.work_dir)
    return cfg


def check_files(args: argparse.Namespace) -> None:
    """Refuse missing files before any slow import; then fetch a checkpoint that is a URL.

    Raises:
        ESCNetError: For all files that do not exist, only one of config and checkpoint, a file of
            classes that cannot be used, or a checkpoint with another digest.
    """
    if args.clip is not None and (args.config is not None or args.checkpoint is not None):
        raise ESCNetError('--clip is a model of its own: leave out --config and --checkpoint.')
    has_both = args.config is None and is_inference_file(args.checkpoint)
    if (args.config is None) != (args.checkpoint is None) and not has_both:
        missing = '--checkpoint' if args.checkpoint is None else '--config'
        raise ESCNetError(
            f'{missing} is missing: give both, --clip ViT-B-16 for CLIP alone, or neither for the '
            'toy world.'
        )
    if args.sha256 is not None and args.checkpoint is None:
        raise ESCNetError('--sha256 is of a --checkpoint: give that too, or leave both out.')
    problems = Problems()
    with problems:
        if args.config is not None:
            check_config_path(args.config)
    with problems:
        if args.checkpoint is not None and not (has_both and is_url(args.checkpoint)):
            check_weights_path(args.checkpoint)
    with problems:
        if getattr(args, 'classes_file', None) is not None:
            read_classes(args.classes_file)
    problems.raise_all()
    if args.checkpoint is not None:
        from .downloads import fetch

        args.checkpoint = str(fetch(args.checkpoint, args.sha256))


def choose_model(args: argparse.Namespace) -> tuple[Config, Path | None]:
    """The config and the checkpoint that were given, or else those of the toy world.

    CLIP alone has no checkpoint.
    """
    if args.clip is not None:
        from .apis.clip_config import clip_config

        return read_config(clip_config(args.clip), args.cfg_options), None
    from .apis.inference_file import read_inference_config
    from .toyworld.model import toy_model

    if args.checkpoint is None:
        config, checkpoint = toy_model()
        print(
            'note: without --config and --checkpoint this is the miniature model of the toy world, '
            'which knows drawings of coloured shapes (docs/toyworld.md) but no photographs; for '
            'these, use --clip ViT-B-16'
        )
    else:
        checkpoint = Path(args.checkpoint)
        config = args.config or read_inference_config(checkpoint)
    return read_config(config, args.cfg_options), checkpoint


def make_query(args: argparse.Namespace) -> Query:
    """The words to segment images into.

    Raises:
        ESCNetError: If there are no words, or some cannot be used.
    """
    from .apis.inference_file import read_words
    from .apis.query import Query
    from .toyworld.model import TOY_VOCABULARY

    if args.classes is not None:
        classes = args.classes
    elif args.classes_file is not None:
        classes = args.classes_file
    elif args.checkpoint is None and args.clip is None:
        classes = TOY_VOCABULARY
    else:
        classes = read_words(args.checkpoint) if is_inference_file(args.checkpoint) else None
    if classes is None:
        raise ESCNetError(
            'There are no words: give --classes "taxi, wet road", or a file as --classes-file.'
        )
    background = parse_background(args.background)
    query = Query.create(classes, background=background, threshold=args.threshold)
    for note in query.notes(args.synonyms):
        print(f'note: {note}')
    return query


def text_options(args: argparse.Namespace) -> dict:
    """``templates`` and ``synonyms`` as :class:`.OpenVocabInferencer` takes them."""
    templates = args.templates
    if templates is not None and '{' in templates:
        templates = [templates]
    return dict(templates=templates, synonyms=args.synonyms)


def parse_background(text: str | None) -> str | float | list[str] | dict[str, list[str]] | None:
    """The background: a number, 'other', a list of words, or ``name: words``.

    Raises:
        ESCNetError: If it is a number, but with a comma or in percent.
    """
    if text is None or tokens(text) == ('other',):
        return text and 'other'
    if re.fullmatch(r'\s*\d*[.,]?\d+\s*%\s*|\s*\d*,\d+\s*', visible(text)):
        raise ESCNetError(
            f'The background {text!r} is not a number: write a score with a point, such as '
            '0.5, or words with spaces behind their commas.'
        )
    try:
        return float(visible(text))
    except ValueError:
        name, _, words = text.partition(': ')
        if words.strip():
            return {name: split_words(words.replace('|', ','))}
        return split_words(text)
