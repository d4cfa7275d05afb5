"""The command ``mmseg-escnet``, which runs the tools of a clone or of a wheel."""

import difflib
import sys
import types
from pathlib import Path

from .cli import run_tool
from .config import config_folder
from .errors import ESCNetError
from .version import __version__

_HELP = """\
usage: mmseg-escnet COMMAND [ARGUMENTS]

Open-vocabulary semantic segmentation: train ESC-Net, evaluate it, use it.

  train            train a model
  test             evaluate a checkpoint, on its data set or on the zero-shot benchmarks
  compare RUN ...  draw the training curves of runs, and compare their classes
  infer            segment images into any words
  web              segment images in the browser
  check            check what is installed, and list devices
  check dataset    check prepared data sets
  download         download the weights of CLIP and SAM
  publish          make a file of a checkpoint to give away, with a model card
  export           write the network as ONNX or for torch.export
  convert NAME     prepare a data set: {names}

mmseg-escnet COMMAND --help lists the arguments of a command.
"""
_TOOLS = {
    'train': 'train.py',
    'test': 'test.py',
    'compare': 'analysis/compare_runs.py',
    'infer': 'infer.py',
    'web': 'web_demo.py',
    'check dataset': 'check_dataset.py',
    'download': 'download_weights.py',
    'publish': 'model_converters/publish_model.py',
    'export': 'deployment/export.py',
}


def commands() -> dict[str, Path]:
    """The file that each command runs.

    Raises:
        ESCNetError: If the tools are missing.
    """
    folder = config_folder().parent / 'tools'
    converters = sorted((folder / 'dataset_converters').glob('*.py'))
    tools = {command: folder / name for command, name in _TOOLS.items()}
    return tools | {f'convert {path.stem}': path for path in converters}


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit."""
    run_tool(_run)


def _run() -> int | None:
    words, tools = sys.argv[1:], commands()
    command = next((c for c in (' '.join(words[:2]), *words[:1]) if c in tools), None)
    if command is not None:
        _run_file(tools[command], f'mmseg-escnet {command}', words[len(command.split()) :])
    elif words == ['--version']:
        print(__version__)
    elif not words or words[-1] in ('-h', '--help') or words == ['convert']:
        names = [c.removeprefix('convert ') for c in tools if c.startswith('convert ')]
        print(_HELP.format(names=', '.join(names)), end='')
    elif words == ['check']:
        from .check import main as check

        return check()
    else:
        wrong = ' '.join(words[: 1 + (words[0] in ('check', 'convert'))])
        near = difflib.get_close_matches(wrong, [*tools, 'check', 'convert'])
        near = near or [command for command in tools if command.startswith(f'{words[0]} ')]
        hint = f' (did you mean {" or ".join(near)}?)' if near else ''
        raise ESCNetError(
            f'mmseg-escnet has no command {wrong!r}{hint}: mmseg-escnet --help lists them.'
        )
    return None


def _run_file(path: Path, program: str, arguments: list[str]) -> None:
    """Run a file as ``python path arguments`` does, but with the program's name in usage lines.

    ``runpy`` would set ``sys.argv[0]`` to the file.
    """
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(path.parent))
    module = sys.modules['__main__'] = types.ModuleType('__main__')  # pickle looks there, too
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), path, 'exec'), vars(module))


if __name__ == '__main__':
    main()
