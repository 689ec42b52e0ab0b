"""Tables and figures as files: a CSV, a Markdown page that shows the command, pictures."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from repnas_mm.utils.fileio import atomic_write, check_writable
from repnas_mm.visualization.figure import to_image


@dataclass(frozen=True)
class Mean:
    """Mean of one value a seed, and its standard error (0 for one seed)."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return f'{self.mean:.2f} ± {self.error:.2f}' if len(self.values) > 1 else f'{self.mean:.2f}'


def series(means: Mapping[tuple[str, float], Mean]) -> dict[str, list[tuple[float, float, float]]]:
    """(name, x) -> value, as name -> [(x, mean, standard error), ...] for a figure."""
    points: dict[str, list] = {}
    for (name, x), mean in means.items():
        points.setdefault(name, []).append((x, mean.mean, mean.error))
    return points


@dataclass
class Report:
    """A table with its figures, such as one of the paper made anew.

    Args:
        name: Of its files, such as ``table3``.
        title: Heading of the page.
        rows: Column -> value, a row each. A `Mean` becomes three columns of the CSV: mean, standard error, values.
        figures: Suffix of the file's name -> figure.
        notes: Sentences below the table: the scale, and how to read it.
    """

    name: str
    title: str
    rows: Sequence[Mapping]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def write(self, folder: Path, command: str) -> Path:
        """Write ``<name>.csv``, ``.md`` and a ``.png`` for each figure into ``folder``; returns the page's path."""
        check_writable(folder)
        for suffix, figure in self.figures.items():
            save_small(figure, folder / f'{self.name}{suffix}.png')
        with atomic_write(folder / f'{self.name}.csv') as f:
            f.write(self.to_csv().encode())
        page = [f'# {self.title}', f'```bash\n{command}\n```', self.to_markdown()]
        page += [f'![{self.title}]({self.name}{suffix}.png)' for suffix in self.figures]
        page += self.notes
        with atomic_write(folder / f'{self.name}.md') as f:
            f.write(('\n\n'.join(page) + '\n').encode())
        return folder / f'{self.name}.md'

    def to_csv(self) -> str:
        """The rows with all their digits, a `Mean` in three columns."""
        rows = []
        for row in self.rows:
            rows.append(flat := {})
            for column, value in row.items():
                if isinstance(value, Mean):
                    flat[column], flat[f'{column}, standard error'] = value.mean, value.error
                    flat[f'{column}, values'] = ' '.join(f'{v:.6g}' for v in value.values)
                else:
                    flat[column] = value
        text = io.StringIO()
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        return to_markdown(self.rows)


def to_markdown(rows: Sequence[Mapping]) -> str:
    """Rows as a Markdown table, with four digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ['---'] * len(columns)]
    lines += [[_show(row.get(column)) for column in columns] for row in rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def save_small(figure: Figure, path: Path) -> None:
    """Write a PNG of 256 colors, which for our plots is less than half of the SVG and a third of a full PNG."""
    figure.set_dpi(150)
    picture = Image.fromarray(to_image(figure)).quantize(256, dither=Image.Dither.NONE)
    with atomic_write(path) as f:
        picture.save(f, 'PNG', optimize=True)


def _show(value) -> str:
    """A table cell with four significant digits, and a dash for what there is not."""
    if value is None:
        return '–'
    return f'{value:.4g}' if isinstance(value, float) else str(value)
