"""Tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import prettytable


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    markdown: bool = False,
    align: str = 'r',
) -> str:
    """A table as text.

    Args:
        columns: Different names.
        rows: As many values each.
        markdown: Whether to write Markdown, otherwise boxes.
        align: Of each column: 'l', 'c' or 'r', for all if it is one letter.
    """
    made = prettytable.PrettyTable(columns)
    made.align.update(zip(columns, align * len(columns) if len(align) == 1 else align, strict=True))
    made.add_rows(rows)
    if markdown:  # a constant of the module before prettytable 3.12
        made.set_style(getattr(prettytable, 'TableStyle', prettytable).MARKDOWN)
    return made.get_string()
