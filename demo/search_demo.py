"""Search, prune and fuse a small network on real images, a few minutes on two CPU cores.

Trains `configs/odbb_digits.py` and, for comparison on the same schedule, the hand-made `plain` network and a `random`
genotype, then prints what came out. `--seeds 5` instead repeats the search and compares the genotypes.
"""

import argparse
import random
import statistics
from itertools import combinations
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor, nn

from repnas_mm.engine.fusing import max_difference, raw_output
from repnas_mm.search import Genotype, find_candidates, sample_blocks
from runs import CONFIGS, latency_before_and_after_fusing, load_config, load_network, train

CONFIG = CONFIGS / 'odbb_digits.py'


def train_digits(folder: Path, seed: int, genotype=None) -> Config:
    """Search (or train the subnet of ``genotype``) into ``folder``; returns the config."""
    cfg = load_config(CONFIG)
    cfg.randomness.seed = seed
    if genotype is not None:
        cfg.model.backbone.genotype = genotype
        cfg.custom_hooks = [dict(type='FuseHook')]
    train(cfg, folder)
    return cfg


def test_images(cfg: Config, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The whole test set as the network sees it, and its labels."""
    batch = next(iter(Runner.build_dataloader(cfg.test_dataloader)))
    data = model.data_preprocessor(batch, False)
    return data['inputs'], torch.cat([sample.gt_label for sample in data['data_samples']])


def show_search(folder: Path) -> None:
    """Run one search and the two comparisons, and print the table."""
    print('[1/3] search', flush=True)
    cfg = train_digits(folder / 'search', seed=0)
    num_branches = cfg.custom_hooks[0].num_branches
    presets = dict(plain='plain', random=dict(preset='random', num_branches=num_branches, seed=0))
    others = {}
    for i, (name, preset) in enumerate(presets.items()):
        print(f'[{i + 2}/3] {name}, without a search', flush=True)
        others[name] = train_digits(folder / name, 0, preset)

    work_dir = Path(cfg.work_dir)
    checkpoints = dict(
        supernet=find_latest_checkpoint(cfg.work_dir), subnet=work_dir / 'subnet.pth', fused=work_dir / 'fused.pth'
    )
    models = {name: load_network(cfg, checkpoint) for name, checkpoint in checkpoints.items()}
    images, labels = test_images(cfg, models['supernet'])
    scores = {name: raw_output(model, images)[0] for name, model in models.items()}
    unfused_ms, fused_ms = latency_before_and_after_fusing(cfg, len(labels))
    genotype = Genotype.load(work_dir / 'genotype.json')
    total = sum(map(len, find_candidates(models['supernet']).values()))

    def accuracy(outputs: Tensor) -> str:
        return f'{100 * (outputs.argmax(1) == labels).float().mean():.2f} %'

    rows = {f'{name} accuracy': accuracy(outputs) for name, outputs in scores.items()}
    difference = max_difference([scores['subnet']], [scores['fused']])
    changed = int((scores['subnet'].argmax(1) != scores['fused'].argmax(1)).sum())
    rows |= {
        'predictions changed by fusing': f'{changed} of {len(labels)}',
        'largest output difference': f'{difference:.1e} of the largest output',
        'branches kept': f'{genotype.num_branches} of {total} in {len(genotype)} blocks',
        f'latency unfused, batch {len(labels)}': f'{unfused_ms:.1f} ms',
        f'latency fused, batch {len(labels)}': f'{fused_ms:.1f} ms ({unfused_ms / fused_ms:.1f} times faster)',
    }
    for name, other in others.items():
        model = load_network(other, Path(other.work_dir) / 'fused.pth')
        rows[f'{name} accuracy, same schedule'] = accuracy(raw_output(model, images)[0])
    print()
    for name, value in rows.items():
        print(f'{name:<34}{value}')
    print(f'\npicture of the genotype: {work_dir / "genotype.png"}')


def show_overlap(folder: Path, seeds: int) -> None:
    """Print how much the genotypes of several seeds have in common, against random ones."""
    found = []
    for seed in range(seeds):
        cfg = train_digits(folder / f'seed_{seed}', seed)
        found.append(Genotype.load(Path(cfg.work_dir) / 'genotype.json'))
    candidates = find_candidates(load_network(cfg, find_latest_checkpoint(cfg.work_dir)))
    rng = random.Random(0)
    drawn = [Genotype(sample_blocks(candidates, found[0].num_branches, rng)) for _ in range(100)]
    print('\nshared branches / branches in either, mean over pairs (minimum to maximum)')
    for name, genotypes in ((f'searched, {seeds} seeds', found), ('random, 100 draws', drawn)):
        overlaps = [a.overlap(b) for a, b in combinations(genotypes, 2)]
        print(f'{name:<22}{statistics.mean(overlaps):.2f} ({min(overlaps):.2f} to {max(overlaps):.2f})')


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--seeds', type=int, help='search with this many seeds and compare the genotypes')
    args = parser.parse_args(argv)
    if args.seeds is None:
        show_search(args.work_dir)
    elif args.seeds < 2:
        parser.error('--seeds compares genotypes and needs at least 2')
    else:
        show_overlap(args.work_dir, args.seeds)


if __name__ == '__main__':
    main()
