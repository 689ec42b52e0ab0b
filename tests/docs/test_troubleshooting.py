"""Every message that repnas_mm, its tools and its demos raise is on the page that explains them."""

import ast
import re

import pytest
from pages import ROOT

PAGE = (ROOT / 'docs/troubleshooting.md').read_text(encoding='utf-8')
SOURCES = sorted(path for folder in ('repnas_mm', 'tools', 'demo') for path in (ROOT / folder).rglob('*.py'))
#: On the page and here: what is filled in
GAP = '…'


def literal(node: ast.expr) -> str:
    """A message with a `GAP` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(value.value if isinstance(value, ast.Constant) else GAP for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return literal(node.left) + literal(node.right)
    return GAP


def messages(path) -> list[tuple[str, str]]:
    """(place, message) of all errors, refusals and warnings of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = getattr(call.func, 'id', getattr(call.func, 'attr', ''))
        if isinstance(node, ast.Raise) or name in ('explain_errors', 'error', 'warning', 'warn', 'print_log'):
            found.append((f'{path.relative_to(ROOT)}:{call.lineno}', literal(call.args[0])))
    return found


ALL = [pair for path in SOURCES for pair in messages(path) if re.search(r'[a-z]', pair[1])]


#: What the left column quotes, row by row
ROWS = [re.split(r', ', row) for row in re.findall(r'^\| (?!message |---)(.+?) \| ', PAGE, re.MULTILINE)]


def test_there_are_many():
    assert len(ALL) > 100 and len(ROWS) > 50


@pytest.mark.parametrize(('place', 'message'), ALL, ids=[place for place, _ in ALL])
def test_every_message_is_explained(place, message):
    if re.search(r'must (be|lie|have|end|start|map)', message):
        return  # the page says, for all of them: one argument, and what it accepts
    assert any(part in message for row in ROWS for part in row if len(part) > 10), message


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row[0][:40])
def test_no_row_is_of_a_message_that_is_gone(row):
    if 'KeyError' in row[0] or 'Weights only' in row[0]:
        return  # MMEngine's and torch's
    assert [part for part in row if not any(part in message for _, message in ALL)] == []
