"""The one exception type of this package for bad input, and how its sentences list things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ESCNetError(ValueError):
    """Bad input: the message is one sentence that names the input, what is wrong, what to do.

    The command-line tools print the message without a traceback and exit with status 2.
    """


def first_few(items: Iterable[object], most: int = 5) -> str:
    """The first items for a sentence: ``'a, b, c and 12 more'``."""
    items = list(map(str, items))
    shown, more = ', '.join(items[:most]), len(items) - most
    return f'{shown} and {more} more' if more > 0 else shown


class SeveralErrors(ESCNetError):
    """Several inputs are bad: a numbered list of sentences, which are :attr:`sentences`."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = list(sentences)
        lines = [f'{number}. {text}' for number, text in enumerate(self.sentences, 1)]
        super().__init__('\n  '.join([f'{len(lines)} problems:', *lines]))


class Problems:
    """Collects the errors of several checks, to raise them as one.

    Each check runs in a ``with`` of its own, which ends without an error; :meth:`raise_all` comes
    last.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if not isinstance(error, ESCNetError):
            return False
        found = error.sentences if isinstance(error, SeveralErrors) else [str(error)]
        self.sentences += [sentence for sentence in found if sentence not in self.sentences]
        return True

    def raise_all(self) -> None:
        """Raise what was found: a single sentence as it is, several as a numbered list.

        Raises:
            ESCNetError: If there was a problem.
        """
        if len(self.sentences) > 1:
            raise SeveralErrors(self.sentences)
        if self.sentences:
            raise ESCNetError(self.sentences[0])


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known names nearest to a wrong one, ``'num_blocks or sam_block'``; '' if none is near."""
    return ' or '.join(difflib.get_close_matches(name, sorted(known), n=2, cutoff=cutoff))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest names as a question, ``'did you mean num_blocks?'``, or else what there is."""
    known = sorted(known)
    near = nearest(name, known)
    return f'did you mean {near}?' if near else f'there are {first_few(known, 12)}.'
