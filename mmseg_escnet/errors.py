"""The one exception type of this package for bad input, and how its sentences list things."""

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
