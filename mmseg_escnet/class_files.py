"""Files of classes: reading them, and writing a name so that it reads back as it is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml

from .errors import ESCNetError, Problems
from .vocabulary import (
    MAX_WORDS,
    Vocabulary,
    normalise_classes,
    shown,
    split_phrases,
    split_synonyms,
    without_duplicates,
)

_MAX_BYTES = 1 << 20  # of a file
_COLOR = r'#[0-9a-fA-F]{6}|-?\d+[\s,]+-?\d+[\s,]+-?\d+'
_COLORED = re.compile(rf'(.*[^\s,:])[\s,:]+({_COLOR})[\s:]*')
_COMMENT = re.compile(r'#(?![0-9a-fA-F]{6}[\s,:])')
_TITLE = re.compile(r'\w+[\s,]+r(ed)?[\s,]+g(reen)?[\s,]+b(lue)?', re.IGNORECASE)


def read_classes(
    path: str | os.PathLike, *, max_words: int = MAX_WORDS
) -> dict[str, tuple[str, ...] | None]:
    """Read a file of classes.

    A text file has one class per line, ``name`` or ``name: phrase | phrase``; empty lines and
    those that begin with ``#`` are skipped. A name in double quotes is taken as it is, as one
    phrase: ``"#1 pencil"``, ``"sign: stop"``, ``"door, open"`` (inside, as in JSON, ``\\"`` is a
    quote). A JSON or YAML file is a list of names, or maps names to phrases: a string
    (``phrase | phrase``), a list, or null to use the name. :func:`class_line` is the inverse.

    Args:
        path: The file, up to 1 MiB of UTF-8: .txt, .json, .yaml or .yml.
        max_words: Maximum number of names and phrases.

    Returns:
        Name -> phrases to use instead of the name, or None; in the order of the file.

    Raises:
        ESCNetError: If it cannot be read, has another format, or lists a name twice.
    """
    path = Path(path)
    read_json = partial(json.loads, object_pairs_hook=without_duplicates)
    read_yaml = partial(yaml.load, Loader=_Loader)
    readers = {
        '.txt': lambda text: without_duplicates(_read_text(text)),
        '.json': read_json,
        '.yaml': read_yaml,
        '.yml': read_yaml,
    }
    if path.suffix.lower() not in readers:
        raise ESCNetError(
            f'The file of classes {path} must end in {", ".join(readers)}: rename it.'
        )
    with _reading(path, path.suffix[1:].upper()):
        content = readers[path.suffix.lower()](_content(path))
        return normalise_classes(content, max_words=max_words)


def read_colored_classes(path: str | os.PathLike) -> dict[tuple[int, int, int], str]:
    """Read a file of classes with their colours in label maps.

    Each line is one of :func:`read_classes` and then a colour: ``road | street #804080``,
    ``"door, open" 128 64 128``, ``road,128,64,128``. The colour is last, since a line that begins
    with ``#`` is a comment, and what :func:`class_line` writes is read back whatever the name. A
    title ``name,r,g,b`` (of class_dict.csv) and colons behind the colour (of CVAT) are skipped.

    Args:
        path: The file, up to 1 MiB of UTF-8, with any suffix.

    Returns:
        Colour (R, G, B) -> line for :func:`parse_classes`, in the order of the file.

    Raises:
        ESCNetError: If it cannot be read, or a line has no colour or that of another, or a class
            is invalid.
    """
    path, found, problems = Path(path), {}, Problems()
    with _reading(path, 'text'):
        for number, line in enumerate(map(str.strip, _content(path).splitlines()), 1):
            if not line or _COMMENT.match(line) or _TITLE.fullmatch(line):
                continue
            with problems:
                match = _COLORED.fullmatch(line)
                if match is None or line.startswith('#'):
                    raise ESCNetError(
                        f'line {number}, {shown(line)}, does not end with a colour: write "road '
                        '#804080" or "road 128 64 128", and a comment with a space after its #.'
                    )
                color = parse_color(match[2])
                if color in found:
                    raise ESCNetError(
                        f'line {number}, {shown(line)}, has the colour of {shown(found[color])}: '
                        'give each class its own, or merge them into one with synonyms.'
                    )
                found[color] = match[1]
        problems.raise_all()
        classes = parse_classes('\n'.join(found.values()))
        Vocabulary.create(list(classes), phrases=classes)
    return found


def parse_color(text: str) -> tuple[int, int, int] | None:
    """The colour (R, G, B) in ``#804080``, ``128 64 128`` or ``128,64,128``; None if it is none.

    Raises:
        ESCNetError: If a value is not 0 to 255.
    """
    if not re.fullmatch(_COLOR, text):
        return None
    if text.startswith('#'):
        return tuple(bytes.fromhex(text[1:]))
    color = tuple(map(int, re.findall(r'-?\d+', text)))
    if not all(0 <= value <= 255 for value in color):
        raise ESCNetError(f'The colour {text} is out of range: give red, green, blue, each 0..255.')
    return color


@contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    try:
        yield
    except ESCNetError as error:
        raise ESCNetError(f'The file of classes {path} cannot be used: {error}') from error
    except OSError as error:
        raise ESCNetError(
            f'The file of classes {path} cannot be read ({error.strerror or error}): check the '
            'path and its permissions.'
        ) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        why = ' '.join(str(error).split())[:300]
        raise ESCNetError(
            f'The file of classes {path} is not valid {form} in UTF-8 ({why}): correct it.'
        ) from error


def _content(path: Path) -> str:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ESCNetError(f'it has {size} bytes, more than {_MAX_BYTES}, so remove some.')
    return path.read_text(encoding='utf-8-sig')


def parse_classes(text: str) -> dict[str, tuple[str, ...] | None]:
    """What :func:`read_classes` reads from a text file with this content."""
    return normalise_classes(without_duplicates(_read_text(text)))


def class_line(name: str) -> str:
    """The line of a text file that :func:`read_classes` reads as a class of this one phrase.

    Args:
        name: The name, stripped. Whatever it contains, it is neither a comment nor synonyms.

    Returns:
        The name, in double quotes if it would otherwise be read differently.
    """
    if split_synonyms(name) == (name,) and _read_text(_as_first_line(name)) == [(name, '')]:
        return name
    quoted = json.dumps(name, ensure_ascii=False)
    return quoted if _read_text(quoted) == [(name, [name])] else json.dumps(name)


def _as_first_line(line: str) -> str:
    return line.encode().decode('utf-8-sig')  # where a byte order mark is skipped


def _read_text(text: str) -> list[tuple[str, str | list[str] | None]]:
    lines = (line.strip() for line in text.splitlines())
    return [split_phrases(line) for line in lines if line and not line.startswith('#')]


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys and merges ('<<'), which can expand endlessly."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    return without_duplicates(
        [[loader.construct_object(part, deep=True) for part in pair] for pair in node.value]
    )


_Loader.add_constructor('tag:yaml.org,2002:map', _construct_mapping)
