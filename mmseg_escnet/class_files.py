"""Classes and what stands for them, from a text, JSON or YAML file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from .errors import ESCNetError

MAX_WORDS = 10_000
_MAX_BYTES = 1 << 20
_SHOWN = 60  # characters of a name in a message


def read_classes(
    path: str | os.PathLike, *, max_words: int = MAX_WORDS
) -> dict[str, tuple[str, ...] | None]:
    """Read a file of classes.

    A text file has a class on each line, ``name`` or ``name: phrase | phrase``; empty lines and
    those that begin with ``#`` do not count. A JSON or YAML file holds a list of names, or names
    with what stands for them: a text (``phrase | phrase``), a list of phrases, or nothing.

    Args:
        path: The file, of up to 1 MiB, in UTF-8: .txt, .json, .yaml or .yml.
        max_words: The most names and phrases that are taken.

    Returns:
        Name -> phrases that stand for it in place of the name, or None; in the order of the file.

    Raises:
        ESCNetError: If it cannot be read, is of another form, or holds a name twice.
    """
    path = Path(path)
    readers = {'.txt': _read_text, '.json': _read_json, '.yaml': _read_yaml, '.yml': _read_yaml}
    if path.suffix.lower() not in readers:
        raise ESCNetError(
            f'The file of classes {path} must end in {", ".join(readers)}: rename it.'
        )
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ESCNetError(
                f'it has {size} bytes, and at most {_MAX_BYTES} are read, so leave some out.'
            )
        content = readers[path.suffix.lower()](path.read_text(encoding='utf-8-sig'))
        return normalise_classes(content, max_words=max_words)
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
            f'The file of classes {path} is no {path.suffix[1:].upper()} in UTF-8 ({why}): '
            'correct it there.'
        ) from error


def normalise_classes(
    classes: object, *, max_words: int = MAX_WORDS
) -> dict[str, tuple[str, ...] | None]:
    """Bring the forms in which classes are given to one.

    Args:
        classes: Names in order; or name -> text with phrases between bars, phrases, or None.
        max_words: The most names and phrases that are taken.

    Returns:
        Name -> phrases that stand for it in place of the name, or None.

    Raises:
        ESCNetError: If there are none or too many, one is no text, or stands there twice.
    """
    if isinstance(classes, (str, bytes)) or not isinstance(classes, (Sequence, Mapping)):
        raise ESCNetError(
            f'Classes must be a list of names, or names with phrases, not {_shown(classes)}: write '
            "['taxi', 'wet road'] or {'taxi': ['a yellow cab']}."
        )
    if len(classes) == 0:
        raise ESCNetError('There are no classes: give at least one name.')
    count = len(classes)
    _check_count(count, max_words)
    found: dict[str, tuple[str, ...] | None] = {}
    with_phrases = isinstance(classes, Mapping)
    for name in classes:
        if not isinstance(name, str):
            raise ESCNetError(
                f'Class name {_shown(name)} is no text but of type {type(name).__name__}: put '
                'it in quotes.'
            )
        if name.strip() in found:
            raise ESCNetError(f'Class name {_shown(name)} stands there twice: remove one.')
        phrases = _phrases(name, classes[name]) if with_phrases else None
        # counted before anything is copied: YAML can name one long list many times
        count += 0 if phrases is None else len(phrases)
        _check_count(count, max_words)
        found[name.strip()] = None if phrases is None else tuple(phrases)
    return found


def _phrases(name: str, given: object) -> Sequence[str] | None:
    if isinstance(given, str):
        given = [part.strip() for part in given.split('|') if part.strip()]
    if not given and (given is None or isinstance(given, Sequence)):
        return None
    if not isinstance(given, (list, tuple)) or not all(isinstance(part, str) for part in given):
        raise ESCNetError(
            f'What stands for class {_shown(name)} is {_shown(given)}: it must be a text or a '
            'list of texts.'
        )
    return given


def _check_count(count: int, max_words: int) -> None:
    if count > max_words:
        raise ESCNetError(
            f'There are {count} words or more, and at most {max_words} at a time are taken: leave '
            'some out, or raise max_words if the memory allows it.'
        )


def _read_text(text: str) -> dict[str, str]:
    pairs = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith('#'):
            name, _, phrases = line.partition(': ')
            pairs.append((name.strip().removesuffix(':'), phrases))
    return _without_duplicates(pairs)


def _read_json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _read_yaml(text: str) -> object:
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """A safe loader for which a key that stands there twice is an error, and so is a merge.

    Merges ('<<') of merges can make a giant out of a small file.
    """


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    return _without_duplicates(
        [[loader.construct_object(part, deep=True) for part in pair] for pair in node.value]
    )


_Loader.add_constructor('tag:yaml.org,2002:map', _construct_mapping)


def _without_duplicates(pairs: Sequence[tuple[object, object]]) -> dict:
    found = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ESCNetError(
                f'Class name {_shown(key)} is no text but of type {type(key).__name__}: put it '
                'in quotes.'
            )
        if key in found:
            raise ESCNetError(f'Class name {_shown(key)} stands there twice: remove one.')
        found[key] = value
    return found


def _shown(value: object) -> str:
    # of a list only that it is one: YAML can make one that is endless when it is written out
    if not isinstance(value, (str, bytes, int, float, type(None))):
        return f'a {type(value).__name__}'
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'
