"""Values of ``--cfg-options``: numbers, lists and texts, whose words stay as they are."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

_QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
# a text in quotes where a value may begin, up to where one may end; or any other character
_PIECE = re.compile(rf"""(?<![^\s,(\[{{:])(?:{_QUOTED})(?=\s*(?:[,)\]}}:]|$))|.""", re.DOTALL)
_WORDS = {'true': True, 'false': False}
_CLOSING = {'(': ')', '[': ']', '{': '}'}


def parse_value(text: str) -> object:
    """Read a value as MMEngine's ``DictAction`` does, but leave texts as they are.

    ``DictAction`` removes all spaces, also those within words. Here ``1,2`` and ``[1,2]`` are
    lists, ``(1,2)`` is a tuple, both of any depth; ``1``, ``0.5``, ``1e-3``, ``true``, ``None`` are
    what they say; everything else is a text, and so is what has both commas and words of several
    parts, such as ``a photo of a {}, large``. Quotes within the value make a text of anything:
    ``'007'``, ``['door, open', wall]``. A dict is written as in Python.

    Args:
        text: What follows ``key=``.

    Raises:
        ValueError: If a list is not closed, or brackets do not match.
    """
    text = text.strip()
    if re.fullmatch(_QUOTED, text, re.DOTALL):
        inner = _unquote(text)
        # quoted once for the shell and once more, as in scripts that start scripts
        return parse_value(inner) if _is_bracketed(inner.strip()) else inner
    parts = list(_split(text))
    if len(parts) > 1 and not any(map(_has_spaces, parts)):
        return _parse_all(parts)
    if _is_bracketed(text):
        items = _parse_all(list(_split(text[1:-1])))
        return tuple(items) if text[0] == '(' else items
    if text.startswith('{') and isinstance(value := _literal(text), dict) and value:
        return value
    return _parse_word(text)


def _parse_all(parts: list[str]) -> list:
    if not parts[-1].strip():  # nothing, or a comma at the end
        parts = parts[:-1]
    return [_unquote(part) if _is_quoted(part) else parse_value(part) for part in parts]


def _parse_word(text: str) -> object:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return None if text == 'None' else _WORDS.get(text.lower(), text)


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that are in neither brackets nor quotes."""
    open_brackets, part, has_commas, too_many = [], '', False, ''
    for piece in _PIECE.findall(text):
        has_commas |= piece == ','
        if piece in _CLOSING:
            open_brackets.append(_CLOSING[piece])
        elif open_brackets and piece == open_brackets[-1]:
            open_brackets.pop()
        elif piece in ')]':
            too_many = piece
        if piece == ',' and not open_brackets:
            yield part
            part = ''
        else:
            part += piece
    # a word may contain brackets as it likes, such as a smiley
    if open_brackets and (has_commas or text[0] in '(['):
        raise ValueError(f'{open_brackets[-1]!r} is missing')
    if too_many and has_commas and text[-1] == too_many:
        raise ValueError(f'{too_many!r} closes nothing')
    yield part


def _is_bracketed(text: str) -> bool:
    """Whether a text is one list or tuple: its first bracket is closed by its last."""
    if text[:1] not in ('(', '[') or text[-1:] != _CLOSING[text[0]]:
        return False
    depth, pieces = 0, _PIECE.findall(text)
    for number, piece in enumerate(pieces):
        depth += (piece in _CLOSING) - (piece in _CLOSING.values())
        if depth == 0:
            return number == len(pieces) - 1
    return False


def _has_spaces(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and not (_is_quoted(text) or _is_bracketed(text.strip()))


def _is_quoted(text: str) -> bool:
    return re.fullmatch(_QUOTED, text.strip(), re.DOTALL) is not None


def _unquote(text: str) -> str:
    value = _literal(text.strip())
    return value if isinstance(value, str) else text.strip()[1:-1]


def _literal(text: str) -> object:
    """A literal of Python; None if it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a backslash that escapes nothing
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
