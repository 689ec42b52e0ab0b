"""Plain text in columns."""

import re
from collections.abc import Sequence


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of one length, the first of them titles, in columns; numbers to the right."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    right = [all(re.fullmatch(r'(× )?[\d.,]+( M| MiB)?|-', str(cell)) for cell in column[1:]) for column in zip(*rows)]
    lines = [
        '  '.join(str(cell).rjust(w) if r else str(cell).ljust(w) for cell, w, r in zip(row, widths, right)).rstrip()
        for row in rows
    ]
    return '\n'.join(lines)
