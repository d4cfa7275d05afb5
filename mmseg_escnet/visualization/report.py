"""A report: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from ..errors import ESCNetError
from ..files import write_file

_RESOLUTION = 144  # pixels per inch of a figure: 1.5 for each of a browser's, sharp on a phone
_BROWSER_RESOLUTION = 96  # pixels per inch in CSS
_MOST_SECTIONS_WITHOUT_CONTENTS = 3

# The policy keeps even a page that somebody edits from loading anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #22252a; --quiet: #646a73; --rule: #d9dadd; --tint: #f2f2ef;
  --accent: #0b5c94;
  --text: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --label: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  --fixed: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17191c; --ink: #dcdedf; --quiet: #989ea6; --rule: #35393e; --tint: #1f2226;
    --accent: #86bfec;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem 1.25rem 5rem; max-width: 66rem;
  background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 var(--text); overflow-wrap: break-word;
}
h1, h2 { line-height: 1.2; font-weight: 600; text-wrap: balance; }
h1 { margin: 0 0 1.5rem; font-size: 2rem; letter-spacing: -0.01em; }
h2 { margin: 3.25rem 0 1rem; padding-top: 1rem; font-size: 1.375rem;
  border-top: 1px solid var(--rule); }
p { margin: 0 0 1rem; max-width: 42rem; white-space: pre-line; }
nav { font-family: var(--label); font-size: 0.9375rem; }
nav ol { margin: 0; padding-left: 1.4rem; color: var(--quiet); }
nav li { padding: 0.125rem 0; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
.scroll { overflow-x: auto; }
figure, pre { margin: 1.5rem 0; }
table { border-collapse: collapse; min-width: min(100%, 24rem);
  font: 0.875rem/1.4 var(--label); font-variant-numeric: tabular-nums; }
figcaption { margin: 0.5rem 0; max-width: 42rem;
  color: var(--quiet); font: 0.875rem/1.45 var(--label); }
th, td { padding: 0.35rem 0.75rem; font-weight: 400; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th:first-child { padding-left: 0.25rem; text-align: left; }
thead th { color: var(--quiet); font-weight: 600; border-bottom: 2px solid var(--rule);
  vertical-align: bottom; }
tbody tr:hover { background: var(--tint); }
figure img { display: block; max-width: 100%; height: auto; padding: 0.5rem; background: #fff;
  border: 1px solid var(--rule); border-radius: 4px; }
pre { padding: 0.875rem 1rem; overflow-x: auto; background: var(--tint); border-radius: 4px;
  font: 0.8125rem/1.5 var(--fixed); }
code { font-family: inherit; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; font-size: 1rem; }
  h1 { font-size: 1.625rem; }
  h2 { margin-top: 2.25rem; }
  figure img { max-width: 36rem; }
}
@media print {
  body { max-width: none; padding: 0; }
  figure, tr, pre { break-inside: avoid; }
  h2 { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""


@dataclass
class Table:
    """A table; its first column names the rows.

    Attributes:
        columns: Headings.
        rows: Cells as they should be read (the caller formats numbers), one for each column;
            None is drawn as a dash.
        caption: What it shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    caption: str = ''


@dataclass
class Section:
    """A section, drawn in the order of its attributes.

    Attributes:
        title: Heading.
        paragraphs: Plain text.
        tables: Its tables.
        figures: Pairs of a text and a figure. The text is read below the figure, and instead of
            it where it cannot be seen.
        code: A command or a configuration, drawn as it is.
    """

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[tuple[str, Figure]] = ()
    code: str | None = None


def save_figure(figure: Figure, path: str | os.PathLike, *, dpi: float = _RESOLUTION) -> Path:
    """Write a figure as PNG; the file is there whole or not at all.

    Args:
        figure: The figure.
        path: PNG to write; its folder is made.
        dpi: Pixels per inch.

    Returns:
        The path.
    """
    path = Path(path)
    content = _encode_figure(figure, dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    return path


def write_report(path: str | os.PathLike, *, title: str, sections: Sequence[Section]) -> Path:
    """Write a page that can be mailed: style and figures are inside, it loads nothing.

    It follows the reader's light or dark colour scheme, and wide tables and figures scroll on a
    phone. A page of more than three sections begins with a table of contents. No text is read as
    HTML.

    Args:
        path: HTML file to write; it is there whole or not at all, and its folder is made.
        title: Heading of the page.
        sections: What stands in it.

    Returns:
        The path.

    Raises:
        ESCNetError: If a row of a table has more or fewer cells than the table has columns.
    """
    path = Path(path)
    content = _render_page(title, sections).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    return path


def _encode_figure(figure: Figure, dpi: float) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    return buffer.getvalue()


def _render_page(title: str, sections: Sequence[Section]) -> str:
    parts = [
        '<!DOCTYPE html>',
        '<html lang="en">',
        '<head>',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escape(title)}</title>',
        f'<style>{_STYLE}</style>',
        '</head>',
        '<body>',
        f'<header><h1>{escape(title)}</h1></header>',
    ]
    if len(sections) > _MOST_SECTIONS_WITHOUT_CONTENTS:
        parts.append('<nav aria-label="Contents"><ol>')
        parts += [
            f'<li><a href="#section-{number}">{escape(section.title)}</a></li>'
            for number, section in enumerate(sections, 1)
        ]
        parts.append('</ol></nav>')
    parts.append('<main>')
    for number, section in enumerate(sections, 1):
        parts += _render_section(section, number)
    parts += ['</main>', '</body>', '</html>', '']
    return '\n'.join(parts)


def _render_section(section: Section, number: int) -> list[str]:
    parts = [f'<section id="section-{number}">', f'<h2>{escape(section.title)}</h2>']
    parts += [f'<p>{escape(paragraph)}</p>' for paragraph in section.paragraphs]
    for table in section.tables:
        parts += _render_table(table)
    parts += [_render_figure(text, figure) for text, figure in section.figures]
    if section.code is not None:
        parts.append(f'<pre><code>{escape(section.code)}</code></pre>')
    return parts + ['</section>']


def _render_table(table: Table) -> list[str]:
    parts = ['<figure>']
    if table.caption:  # outside of the table, so that it does not scroll with it
        parts.append(f'<figcaption>{escape(table.caption)}</figcaption>')
    parts.append('<div class="scroll"><table>')
    headings = ''.join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    parts += [f'<thead><tr>{headings}</tr></thead>', '<tbody>']
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ESCNetError(
                f'The row {list(row)} of table {table.caption!r} has {len(row)} cells for '
                f'{len(table.columns)} columns: give one for each, None where there is nothing.'
            )
        first, *others = ('—' if cell is None else escape(str(cell)) for cell in row)
        cells = ''.join(f'<td>{cell}</td>' for cell in others)
        parts.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return parts + ['</tbody>', '</table></div>', '</figure>']


def _render_figure(text: str, figure: Figure) -> str:
    # encoded before the size is read: a layout may still change it
    data = base64.b64encode(_encode_figure(figure, _RESOLUTION)).decode()
    width, height = (round(inches * _BROWSER_RESOLUTION) for inches in figure.get_size_inches())
    return (
        f'<figure><div class="scroll"><img alt="{escape(text)}" width="{width}" '
        f'height="{height}" src="data:image/png;base64,{data}"></div>'
        f'<figcaption>{escape(text)}</figcaption></figure>'
    )
