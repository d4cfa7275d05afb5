"""Class names as they are shown in pictures."""

from ..vocabulary import split_synonyms

_LONGEST = 28  # characters


def cut(text: str, longest: int = _LONGEST) -> str:
    """A text, with its end left out where it has more than ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + '…'


def short_name(name: str, longest: int = _LONGEST) -> str:
    """The first synonym of a class name, cut where it is long."""
    return cut((split_synonyms(name) or (name,))[0], longest)
