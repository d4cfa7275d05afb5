"""What is wrong with an inspected data set, one sentence per kind of problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import first_few
from .inspection import IGNORED, OUTSIDE, Inspection

_UNLABELLED = (255, 65_535)  # the usual ids of pixels without a class
_NEARLY_ALL = 0.9  # share of the classes that must occur before a missing one means something


class Problem(NamedTuple):
    """Something that is wrong, or suspicious.

    Attributes:
        sentence: What is wrong, and what to do.
        files: The files affected, in the order of the data set.
        certain: Whether it is an error whatever the intention.
    """

    sentence: str
    files: Sequence[str] = ()
    certain: bool = True


def find_problems(inspection: Inspection, *, allow_partial: bool = False) -> list[Problem]:
    """Find what is wrong with an inspected data set.

    Args:
        inspection: Of :func:`inspect_dataset`.
        allow_partial: Accept fewer images than were published.

    Returns:
        The problems, certain ones first.
    """
    again = inspection.hint or 'run the converter of the data set again'
    problems = [
        *_check_files(inspection),
        *_check_range(inspection, again),
        *_check_ignore_index(inspection),
        *_check_zero_label(inspection),
        *_check_ignored(inspection, again),
        *_check_words(inspection),
    ]
    if not allow_partial and inspection.expected not in (None, inspection.total):
        sentence = (
            f'The number of images is {inspection.total}, but {inspection.expected} were '
            f'published: {again}, or pass --allow-partial.'
        )
        problems.insert(0, Problem(sentence))
    return sorted(problems, key=lambda problem: not problem.certain)


def _check_files(inspection: Inspection) -> Iterator[Problem]:
    num_files = len(inspection.files)
    if inspection.unreadable:
        yield Problem(
            f'{len(inspection.unreadable)} of {num_files} images cannot be read with their label '
            'maps:',
            inspection.unreadable,
        )
    wrong = [each for each in inspection.readings if each.image_size != each.label_size]
    turned = sum(each.image_size == each.label_size[::-1] for each in wrong)
    why = (
        f' ({turned} with height and width swapped, perhaps because an EXIF tag rotates the image)'
    )
    if wrong:
        yield Problem(
            f'{len(wrong)} of {num_files} label maps differ in size from their images'
            f'{why if turned else ""}: make both the same size.',
            [
                f'{each.label} ({_size(each.label_size)}, image {_size(each.image_size)})'
                for each in wrong
            ],
        )


def _size(size: tuple[int, int]) -> str:
    return f'{size[1]}x{size[0]}'


def _check_range(inspection: Inspection, again: str) -> Iterator[Problem]:
    labels = inspection.labels
    is_outside = labels.table == OUTSIDE
    ids = np.flatnonzero((inspection.id_pixels > 0) & is_outside).tolist()
    if not ids:
        return
    hints = [
        f'{unlabelled} usually means unlabelled but is treated as a class here, so set '
        f'ignore_index={unlabelled}'
        for unlabelled in _UNLABELLED
        if unlabelled in ids
    ]
    num_unusual = len(set(ids) - set(_UNLABELLED))
    if labels.last + 1 in ids and num_unusual < 2 and not labels.reduce_zero_label:
        hints.insert(
            0,
            f'{labels.last + 1} is one more than the last class, so if ids start at 1 and 0 is '
            'unlabelled, set reduce_zero_label=True',
        )
    files = [
        f'{each.label} ({first_few(each.ids[is_outside[each.ids]])})'
        for each in inspection.readings
        if is_outside[each.ids].any()
    ]
    yield Problem(
        f'{len(files)} of {len(inspection.files)} label maps contain ids that are not classes '
        f'({first_few(ids)}), while the classes are {labels.first} to {labels.last} and '
        f'{labels.ignore_index} is ignored: '
        f'{"; ".join(hints) or f"check reduce_zero_label and ignore_index, or {again}"}.',
        files,
    )


def _check_ignore_index(inspection: Inspection) -> Iterator[Problem]:
    labels = inspection.labels
    widest = max(labels.last, labels.ignore_index)
    if labels.first <= labels.ignore_index <= labels.last:
        yield Problem(
            f'ignore_index={labels.ignore_index} is the id of a class, which is therefore neither '
            f'trained nor evaluated (the classes are {labels.first} to {labels.last}): set '
            'ignore_index=65535 and use label maps of 16 bits.'
        )
    if labels.last > 255 and inspection.bits == {8}:
        yield Problem(
            f'All label maps have 8 bits, too few for class ids up to {labels.last}, so ids may '
            'have wrapped around (300 became 44): convert them to 16 bits.'
        )
    elif inspection.casts_to_bytes and widest > 255:
        yield Problem(
            f'LoadAnnotations in the pipeline casts ids to 8 bits, so that {widest} becomes '
            f'{widest % 256}: use LoadLabelMap instead.'
        )


def _check_zero_label(inspection: Inspection) -> Iterator[Problem]:
    """With ids 0 to N - 1, reduce_zero_label shifts every class by one: the last never occurs."""
    labels, occurs = inspection.labels, inspection.id_pixels > 0
    if not labels.reduce_zero_label or occurs[labels.last] or not inspection.readings:
        return
    if occurs[0] and not occurs[labels.ignore_index]:
        return  # unlabelled pixels have id 0, as they should
    sign = f'both 0 and {labels.ignore_index} occur' if occurs[0] else '0 never occurs'
    others = occurs[1 : labels.last]
    yield Problem(
        f'reduce_zero_label=True means that 0 is unlabelled and the classes are 1 to '
        f'{labels.last}, but {sign} and {labels.last} does not: if ids start at 0, set '
        'reduce_zero_label=False.',
        certain=len(others) > 0 and others.mean() >= _NEARLY_ALL,
    )


def _check_ignored(inspection: Inspection, again: str) -> Iterator[Problem]:
    table = inspection.labels.table
    empty = [each.label for each in inspection.readings if (table[each.ids] == IGNORED).all()]
    if empty and len(empty) == len(inspection.readings):
        yield Problem(
            'Every pixel is ignored (the label maps contain only '
            f'{first_few(np.flatnonzero(inspection.id_pixels))}): check reduce_zero_label and '
            f'ignore_index, or {again}.'
        )
    elif empty:
        yield Problem(
            f'In {len(empty)} of {len(inspection.files)} label maps every pixel is ignored: they '
            'do not contribute to training.',
            empty,
            certain=False,
        )


def _check_words(inspection: Inspection) -> Iterator[Problem]:
    if inspection.expected is not None:
        return  # a published list is as it is
    names, first = inspection.labels.names, {}
    for index, word in enumerate(inspection.first_words[: len(names)]):
        other = first.setdefault(word, index)
        if other != index:
            yield Problem(
                f'Classes {other} and {index}, {names[other]!r} and {names[index]!r}, have the '
                f'same first word, {word!r}, which is all of a name that the text encoder reads '
                'by default: give them different words, or put a name with a comma in quotes.',
                certain=False,
            )
