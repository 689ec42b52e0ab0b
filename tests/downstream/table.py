"""Table of stock models that this package was tried with: ``python tests/downstream/table.py``, half an hour on a core.

Writes ``docs/results/downstream/table.csv`` and ``.md`` row by row; rows of models that it is not asked for stay.
"""

import argparse
import csv
import shutil
import tempfile
import traceback
from pathlib import Path

import mmengine.config.config
import torch
from data import write_data
from stock_models import CONFIGS, TIMM
from trial import Result, try_config, try_timm
from yapf.yapflib import yapf_api

FOLDER = Path(__file__).resolve().parents[2] / 'docs/results/downstream'
INTRO = """# Stock models of other packages

```bash
make test-downstream  # makes the environment
.venv-downstream/bin/python tests/downstream/table.py
```

Stock configs with small images, blocks by the lines that `python -m repnas_mm describe` writes, searched with twice as
many branches as blocks. K×K: all convolutions that are not 1×1. Frozen blocks are not searched and keep all branches.
The difference between the fused network and its subnet is the largest of all outputs, of the largest output. Where the
stock model has no place for a bias ([which those are](../../use_in_your_project.md#what-you-get-back)), all other keys
fit.

"""
TITLES = dict(
    package='package',
    config='config',
    ways='blocks by',
    kxk='K×K',
    blocks='blocks',
    branches='branches kept',
    trained='trained',
    difference='fused - unfused',
    new_biases='stock model loads it',
    inferencer='inferencer ran',
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('names', nargs='*', help='parts of names; default: all models')
    wanted = parser.parse_args().names
    torch.set_num_threads(1)
    # half the time of a small training is yapf, which makes configs' text pretty
    yapf_api.FormatCode = mmengine.config.config.FormatCode = lambda text, **options: (text, True)
    rows = read()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / 'data'
        write_data(data)
        for i, name in enumerate([*CONFIGS, *(f'timm::{model}' for model in TIMM)]):
            if wanted and not any(word in name for word in wanted):
                continue
            try:
                result = try_timm(name) if name.startswith('timm') else try_config(name, data, Path(folder) / str(i))
            except Exception:  # of one model, that the others be tried
                print(f'{name} failed:\n{traceback.format_exc()}')
                continue
            finally:
                shutil.rmtree(Path(folder) / str(i), ignore_errors=True)
            rows[name] = as_text(result)
            print(*rows[name].values(), sep=' | ')
            write(rows)


def as_text(result: Result) -> dict[str, str]:
    row = {key: str(value) for key, value in result._asdict().items()}
    biases = len(result.new_biases)
    row['difference'] = f'{result.difference:.1e}'
    row['new_biases'] = f'but for {biases} {"bias" if biases == 1 else "biases"}' if biases else 'yes'
    return {key: row[key] for key in TITLES}


def read() -> dict[str, dict[str, str]]:
    path = FOLDER / 'table.csv'
    if not path.exists():
        return {}
    with path.open(encoding='utf-8', newline='') as f:
        return {f'{row["package"]}::{row["config"]}': row for row in csv.DictReader(f)}


def write(rows: dict[str, dict[str, str]]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = [*CONFIGS, *(f'timm::{model}' for model in TIMM)]
    rows = {name: rows[name] for name in names if name in rows}
    with (FOLDER / 'table.csv').open('w', encoding='utf-8', newline='') as f:
        writer = csv.DictWriter(f, TITLES)
        writer.writeheader()
        writer.writerows(rows.values())
    lines = [[*TITLES.values()], ['---'] * len(TITLES), *([*row.values()] for row in rows.values())]
    text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    (FOLDER / 'table.md').write_text(f'{INTRO}{text}\n', encoding='utf-8')


if __name__ == '__main__':
    main()
