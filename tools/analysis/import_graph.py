"""Draw which part of the package imports which, as a Mermaid graph.

    python tools/analysis/import_graph.py            print it
    python tools/analysis/import_graph.py --write    update CONTRIBUTING.md

A part is a module or a folder of ``mmseg_escnet``. Imports inside functions count; imports for type
checkers do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mmseg_escnet.cli import make_parser, run_tool

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / 'CONTRIBUTING.md'
START, END = '```mermaid\n', '```\n'
NEEDED_BY_ALL = ('errors', 'version')  # would hide the rest of the graph


def imported_modules(package: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, without itself and the root."""
    names = {}
    for path in sorted(package.rglob('*.py')):
        *folders, name = path.relative_to(package).with_suffix('').parts
        names['.'.join(folders if name == '__init__' else (*folders, name))] = path
    del names['']
    found: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for target in _targets(path, package.name, name):
            while target and target not in names:  # a name within a module
                target = target.rpartition('.')[0]
            found[name] |= {target} - {'', name}
    return found


def imported_parts(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same for the parts: top-level modules and folders of the package."""
    found: dict[str, set[str]] = {}
    for name, targets in modules.items():
        part = name.split('.')[0]
        found.setdefault(part, set()).update({t.split('.')[0] for t in targets} - {part})
    return found


def _targets(path: Path, package: str, name: str) -> Iterator[str]:
    """Names below the package that a module may import; not all of them are modules."""
    here = name.split('.') + ['__init__'] * (path.name == '__init__.py')
    for node in _without_type_checking(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.removeprefix(f'{package}.')
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split('.') if node.module else []
            if node.level:
                module = here[: len(here) - node.level] + module
            elif module.pop(0) != package:
                continue
            for alias in node.names:
                yield '.'.join((*module, alias.name))


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            continue
        yield node
        yield from _without_type_checking(node)


def layers(graph: dict[str, set[str]]) -> list[set[str]]:
    """Nodes by the length of their longest path down; nodes in cycles are in the last layer."""
    found: list[set[str]] = []
    left = dict(graph)
    while left:
        layer = {node for node, needs in left.items() if not needs & left.keys()} or set(left)
        found.append(layer)
        left = {node: needs for node, needs in left.items() if node not in layer}
    return found


def mermaid(graph: dict[str, set[str]]) -> str:
    """The transitive reduction of the graph as Mermaid text."""
    shown = {part: needs - set(NEEDED_BY_ALL) for part, needs in graph.items()}
    lines = ['graph TD']
    for layer in reversed(layers(graph)):
        for part in sorted(layer - set(NEEDED_BY_ALL)):
            indirect = set().union(*(_reachable(shown, need) for need in shown[part]), set())
            direct = sorted(shown[part] - indirect)
            lines += [f'  {part} --> {need}' for need in direct] or [f'  {part}']
    return '\n'.join(lines) + '\n'


def _reachable(graph: dict[str, set[str]], part: str) -> set[str]:
    """All parts below a part."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def main() -> None:
    """Print the graph, or write it to CONTRIBUTING.md."""
    parser = make_parser(__doc__)
    parser.add_argument('--write', action='store_true', help='update CONTRIBUTING.md')
    args = parser.parse_args()
    text = mermaid(imported_parts(imported_modules(ROOT / 'mmseg_escnet')))
    if not args.write:
        print(text, end='')
        return
    before, _, after = DOCUMENT.read_text(encoding='utf-8').partition(START)
    document = before + START + text + END + after.partition(END)[2]
    DOCUMENT.write_text(document, encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
