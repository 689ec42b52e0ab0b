"""Modules of the package import only from layers below or from their own, and never in a circle."""

import ast
from pathlib import Path

import repnas_mm

PACKAGE = Path(repnas_mm.__file__).parent
#: From the bottom. What is on no layer (the package's own `__init__`, its command, mmpretrain's list of models) is on
#: top of all.
LAYERS = [
    {'version', 'versions', 'checks', 'registry'},
    {'utils'},
    {'search'},  # knows blocks by their protocol alone
    {'models'},
    {'datasets', 'visualization'},
    {'engine'},
]


def module_name(path: Path) -> str:
    """``search.block`` for search/block.py, ``search`` for search/__init__.py, '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


MODULES = {module_name(path): path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts}


def imports(name: str) -> set[str]:
    """Modules of the package that this one imports, anywhere in it."""
    path, found = MODULES[name], set()
    parents = name.split('.') if path.name == '__init__.py' and name else name.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').startswith('repnas_mm')):
            if node.level:
                base = parents[: len(parents) - node.level + 1] + (node.module.split('.') if node.module else [])
            else:
                base = node.module.split('.')[1:]
            for alias in node.names:
                inner = '.'.join([*base, alias.name])
                found.add(inner if inner in MODULES else '.'.join(base))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix('repnas_mm.') for a in node.names if a.name.startswith('repnas_mm.')}
    return found - {name}


def layer(name: str) -> int:
    top = name.split('.')[0]
    return next((i for i, names in enumerate(LAYERS) if top in names), len(LAYERS))


GRAPH = {name: imports(name) for name in MODULES}


def test_the_graph_is_read():
    assert {'search.space', 'checks'} <= GRAPH['search.genotype'] and len(GRAPH) > 30
    assert {layer(name) for name in GRAPH} == {*range(len(LAYERS) + 1)}


def test_no_arrow_goes_upwards():
    assert not [(name, used) for name in GRAPH for used in GRAPH[name] if used and layer(used) > layer(name)]


def test_there_is_no_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, ' -> '.join([*path, name])
        if name not in done:
            for used in GRAPH[name]:
                visit(used, (*path, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())
