"""Colours of drawings: of text, of curves, and of the classes of a vocabulary."""

from collections.abc import Iterable, Sequence

INK, QUIET = '#1e2126', '#6b7078'  # of text, and of less important text
# of Okabe and Ito, distinguishable for the colour-blind
OKABE_ITO = ('#d55e00', '#0072b2', '#009e73', '#cc79a7', '#b07d00', '#56b4e9')
OPACITY = 0.65  # of class colours over an image
BACKGROUND = (128, 128, 128)  # of a class for everything else
# Optimised for the least distance in CIELAB, over light and dark images at this opacity, also from
# BACKGROUND, for normal vision and for red-green colour blindness. docs/evaluation.md states what
# tools/analysis/color_distances.py measures.
_HEX = (
    'e5ff00 0000ff 7effa8 0088ff db7000 73006d e8de62 00acdf 711433 af0000 '
    '00fffe 00008f dd4fb1 167339 e3985d f0ae02 ec98bf 5e44b4 b4fcdd 0250fa '
    '178297 e1ff5e 33e376 682bbf ca9bff 9f3e24 0e31fe cb0066 0edaa0 8f923d '
    'bc7066 cdf684 0d348d 8a0013 d82ae5 ffe032 d73447 27d2e8 74a720 00578f'
)
CLASS_COLORS = tuple(tuple(bytes.fromhex(color)) for color in _HEX.split())
PALETTE_SIZES = (6, 12, 20, 40)  # so many words share the first so many colours
_WELL_APART = 20


def distinct_in_picture(
    palette: Sequence[Sequence[int]], present: Iterable[int]
) -> list[tuple[int, int, int]]:
    """Choose the colours of a picture where a vocabulary has more than 20 words.

    If up to 20 of :data:`CLASS_COLORS` are needed, the first 20 are used, which differ most. The
    first class with one of them keeps it, the others get unused ones as long as there are any.
    Other colours, as published with a data set, stay as they are.

    Args:
        palette: N colours (R, G, B).
        present: The ids of the classes in the picture, the most important first.
    """
    result = [tuple(color) for color in palette]
    ours = [i for i in present if result[i] in CLASS_COLORS]
    usable = CLASS_COLORS[: _WELL_APART if len(ours) <= _WELL_APART else None]
    taken: set[tuple[int, ...]] = set()
    again = []
    for i in ours:
        if result[i] in usable and result[i] not in taken:
            taken.add(result[i])
        else:
            again.append(i)
    unused = (color for color in usable if color not in taken)
    for i, color in zip(again, unused, strict=False):
        result[i] = color
    return result
