"""What is wrong with an inspected data set, in one sentence for each kind of problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import first_few
from .inspection import IGNORED, OUTSIDE, Inspection

_UNLABELLED = (255, 65_535)  # the usual ids of pixels without a class
_NEARLY_ALL = 0.9  # share of the classes that must occur before one's absence means something


class Problem(NamedTuple):
    """Something that is wrong, or that should be looked at.

    Attributes:
        sentence: What is wrong, and what to do.
        files: The files it was found in, in the order of the data set.
        certain: Whether it is wrong whatever was intended.
    """

    sentence: str
    files: Sequence[str] = ()
    certain: bool = True


def find_problems(inspection: Inspection, *, allow_partial: bool = False) -> list[Problem]:
    """Judge what was found in the files of a data set.

    Args:
        inspection: What was found.
        allow_partial: Whether fewer images than were published are right.

    Returns:
        The problems, those that are certain first.
    """
    again = inspection.hint or 'run the converter of the data set again'
    problems = [
        *(() if allow_partial else _check_count(inspection, again)),
        *_check_files(inspection),
        *_check_range(inspection, again),
        *_check_ignore_index(inspection),
        *_check_zero_label(inspection),
        *_check_labelled(inspection, again),
    ]
    return sorted(problems, key=lambda problem: not problem.certain)


def _check_count(inspection: Inspection, again: str) -> Iterator[Problem]:
    if inspection.expected not in (None, inspection.total):
        yield Problem(
            f'The number of images is {inspection.total}, but {inspection.expected} were '
            f'published: {again}, or pass --allow-partial.'
        )


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
        f' ({turned} with height and width exchanged: an EXIF tag may have turned the image after '
        'the label was drawn)'
    )
    if wrong:
        yield Problem(
            f'{len(wrong)} of {num_files} label maps are not as large as their images'
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
        f'{unlabelled} usually means unlabelled and is used here as a class, so set '
        f'ignore_index={unlabelled}'
        for unlabelled in _UNLABELLED
        if unlabelled in ids
    ]
    num_unusual = len(set(ids) - set(_UNLABELLED))
    if labels.last + 1 in ids and num_unusual < 2 and not labels.reduce_zero_label:
        hints.insert(
            0,
            f'{labels.last + 1} is one more than the last class, so if ids count from 1 and 0 is '
            'unlabelled, set reduce_zero_label=True',
        )
    files = [
        f'{each.label} ({first_few(each.ids[is_outside[each.ids]])})'
        for each in inspection.readings
        if is_outside[each.ids].any()
    ]
    yield Problem(
        f'{len(files)} of {len(inspection.files)} label maps hold ids that no class has '
        f'({first_few(ids)}), while the classes have {labels.first} to {labels.last} and '
        f'{labels.ignore_index} is ignored: '
        f'{"; ".join(hints) or f"check reduce_zero_label and ignore_index, or {again}"}.',
        files,
    )


def _check_ignore_index(inspection: Inspection) -> Iterator[Problem]:
    labels = inspection.labels
    widest = max(labels.last, labels.ignore_index)
    if labels.first <= labels.ignore_index <= labels.last:
        yield Problem(
            f'ignore_index={labels.ignore_index} is the id of a class, which is never trained nor '
            f'scored (they have {labels.first} to {labels.last}): set ignore_index=65535 and use '
            'label maps of 16 bits.'
        )
    if labels.last > 255 and inspection.bits == {8}:
        yield Problem(
            f'All label maps have 8 bits, which cannot hold the ids of the classes up to '
            f'{labels.last}, so ids may have wrapped around (300 became 44): convert them to 16 '
            'bits.'
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
    sign = f'both 0 and {labels.ignore_index} occur' if occurs[0] else 'in no label map 0 occurs'
    others = occurs[1 : labels.last]
    yield Problem(
        f'reduce_zero_label=True says that 0 is unlabelled and the classes have 1 to '
        f'{labels.last}, but {sign} and {labels.last} does not: if ids count from 0, set '
        'reduce_zero_label=False.',
        certain=len(others) > 0 and others.mean() >= _NEARLY_ALL,
    )


def _check_labelled(inspection: Inspection, again: str) -> Iterator[Problem]:
    table = inspection.labels.table
    empty = [each.label for each in inspection.readings if (table[each.ids] == IGNORED).all()]
    if empty and len(empty) == len(inspection.readings):
        ids = np.flatnonzero(inspection.id_pixels)
        yield Problem(
            f'Every pixel is ignored (the label maps hold {first_few(ids)} alone): check '
            f'reduce_zero_label and ignore_index, or {again}.'
        )
    elif empty:
        yield Problem(
            f'In {len(empty)} of {len(inspection.files)} label maps every pixel is ignored: '
            'nothing is learnt from them.',
            empty,
            certain=False,
        )
