"""What the site needs beyond the pages: the README as its home, and links that leave docs/ as plain names."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)')


def on_page_markdown(markdown, page, config, files):
    """Pages link to files beside them, as the reader of a clone wants it; only those in docs/ are on the site."""
    if page.file.src_uri == 'index.md':
        return _on_site((ROOT / 'README.md').read_text(), ROOT)
    return _on_site(markdown, (DOCS / page.file.src_uri).parent)


def _on_site(markdown: str, folder: Path) -> str:
    def link(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        if not target or ':' in target:
            return match[0]
        path = (folder / target).resolve()
        if path.is_relative_to(DOCS):
            if folder == ROOT:
                target = path.relative_to(DOCS).as_posix()
            return f'{image}[{text}]({target}{anchor or ""})'
        return text if '`' in text else f'{text} (`{path.relative_to(ROOT)}`)'

    return LINK.sub(link, markdown)
