"""The pages of the documentation, and the code and links in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'(<!-- not run: [^\n]+ -->\n)?^```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block; ``run`` is False below a comment that says why it is not run."""

    where: str
    language: str
    code: str
    run: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding='utf-8')
    return [
        Block(f'{page.name}:{text[: m.start(2)].count(chr(10)) + 1}', m[2], m[3], m[1] is None)
        for m in FENCE.finditer(text)
    ]


def is_config(code: str) -> bool:
    """Whether a Python block is part of a config: it imports nothing."""
    return not re.search(r'^(from|import) |\bnetwork\b', code, re.MULTILINE)


def commands(code: str) -> list[str]:
    """The commands of a shell block, without their comments."""
    lines = code.replace('\\\n', '').splitlines()
    return [line for line in (re.sub(r'\s+# .*', '', line).strip() for line in lines) if line]
