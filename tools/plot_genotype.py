"""Draw a genotype as in the paper's Figures 6-11: `python tools/plot_genotype.py genotype.json`."""

import argparse
from pathlib import Path

import repnas_mm  # noqa: F401  (fills the search space)
from repnas_mm.search import Genotype
from repnas_mm.visualization import plot_genotype, save_figure


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('genotype', type=Path, help='genotype JSON, or the name of one shipped in repnas_mm/genotypes')
    parser.add_argument(
        '--out', type=Path, help='path of the pictures, without suffix; by default that of the JSON, or the name'
    )
    parser.add_argument('--title')
    args = parser.parse_args(argv)
    figure = plot_genotype(Genotype.load(args.genotype), args.title)
    for path in save_figure(figure, args.out or args.genotype.with_suffix('')):
        print(path)


if __name__ == '__main__':
    main()
