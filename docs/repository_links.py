"""MkDocs hook that makes links to files outside ``docs/`` work on the site.

Pages use relative links, as on GitHub: ``../SECURITY.md``, ``../configs/x.py``. MkDocs knows only
the files in ``docs/``. This hook turns the linked files into pages below ``repository/``: Markdown
unchanged, code as a block, a folder as a list of its files. ``README.md`` becomes the front page.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

LINK = re.compile(r'(?<=\]\()(?!\w+:|[#/<])([^)#\s]+)')
FENCE = re.compile(r'(^ *```.*?^ *```)', re.MULTILINE | re.DOTALL)


def site_path(target: str) -> str:
    """The path on the site of a file in the repository, each relative to its root."""
    if target.startswith('docs/'):
        return target.removeprefix('docs/')
    if target == 'README.md':
        return 'index.md'
    return f'repository/{target}' + ('' if target.endswith('.md') else '.md')


def targets(markdown: str, source: str) -> list[str]:
    """Paths in the repository that a page links to, the page itself at ``source``."""
    texts = FENCE.split(markdown)[::2]
    links = [link for text in texts for link in LINK.findall(text)]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(source), link)) for link in links]


def rewrite(markdown: str, source: str) -> str:
    """Replace the links of a page by links on the site."""
    here = posixpath.dirname(site_path(source))

    def replaced(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(site_path(target), here or '.')

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(replaced, text) for text in parts[::2]]
    return ''.join(parts)


def page_of(root: Path, target: str) -> str:
    """Markdown that shows a file or folder of the repository."""
    path = root / target
    if path.suffix == '.md':
        return path.read_text()
    if path.is_dir():
        names = sorted(item.name for item in path.iterdir() if not item.name.startswith(('.', '_')))
        return f'# {target}\n\n' + '\n'.join(f'- `{name}`' for name in names) + '\n'
    language = PurePosixPath(target).suffix.removeprefix('.').replace('py', 'python')
    return f'# {target}\n\n````{language}\n{path.read_text()}\n````\n'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the front page, and a page for every file that pages link to, and those link to."""
    root = Path(config.config_file_path).parent
    pages = {f'docs/{file.src_uri}': file.content_string for file in files.documentation_pages()}
    waiting = ['README.md', *(link for page in pages for link in targets(pages[page], page))]
    while waiting:
        target = waiting.pop()
        if target in pages or target.startswith(('docs/', '..')) or not (root / target).exists():
            continue  # what is missing is reported by MkDocs
        pages[target] = page_of(root, target)
        files.append(
            File.generated(
                config,
                site_path(target),
                content=pages[target],
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )
        if target.endswith('.md'):
            waiting += targets(pages[target], target)
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Turns the links of each page."""
    uri = page.file.src_uri
    if uri == 'index.md':
        source = 'README.md'
    elif uri.startswith('repository/'):
        source = uri.removeprefix('repository/')
    else:
        source = f'docs/{uri}'
    return rewrite(markdown, source)
