"""Write the embedded detection data set in COCO's layout: `python tools/make_coco_digits.py data/coco_digits`."""

import argparse
from pathlib import Path

from repnas_mm.datasets import write_coco_digits


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder to write; must be empty or not exist')
    parser.add_argument('--num-train', type=int, default=2000, help='training images (default 2000)')
    parser.add_argument('--num-val', type=int, default=200, help='validation images (default 200)')
    parser.add_argument('--size', type=int, default=128, help='height and width in pixels (default 128)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    write_coco_digits(args.out, args.num_train, args.num_val, args.size, args.seed)
    print(f'{args.num_train} training and {args.num_val} validation images in {args.out}')


if __name__ == '__main__':
    main()
