"""Search, prune and fuse a deep, narrow network on real images, a few minutes on two CPU cores.

Trains `configs/odbb_deep_digits.py` and, on the same schedule, its hand-made `plain` network and a `random` genotype,
then prints what came out. `--seeds 5` repeats all three and prints mean accuracies, and how alike the genotypes are.
What has finished is not run again.
"""

import argparse
import os
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
from runs import CONFIGS, latency_before_and_after_fusing, load_network

# isort: split
from measuring.reports import Mean
from reproduction import Lab
from reproduction.shared_trainings import ACCURACY
from reproduction.training import Training

#: Row of the table -> config
NETWORKS = {'search': 'odbb_deep_digits', 'plain': 'plain_deep_digits', 'random': 'random_deep_digits'}


def training(name: str, seed: int) -> Training:
    """One of `NETWORKS` with a seed."""
    return Training(f'{name}-seed{seed}', NETWORKS[name], {'randomness.seed': seed})


def loaded_config(name: str, folder: Path, seed: int = 0) -> Config:
    """The config of a training in ``folder``, its work dir set."""
    chosen = training(name, seed)
    cfg = chosen.load_config(CONFIGS)
    cfg.work_dir = str(folder / chosen.name)
    return cfg


def test_images(cfg: Config, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The whole test set as the network sees it, and its labels."""
    batch = next(iter(Runner.build_dataloader(cfg.test_dataloader)))
    data = model.data_preprocessor(batch, False)
    return data['inputs'], torch.cat([sample.gt_label for sample in data['data_samples']])


def show_search(lab: Lab) -> None:
    """Run one search and the two comparisons, and print the table."""
    results = lab.run(training(name, 0) for name in NETWORKS)
    cfg = loaded_config('search', lab.folder)
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
    for chosen, result in results.items():
        if chosen.config != NETWORKS['search']:
            name = chosen.name.partition('-')[0]
            rows[f'{name} accuracy, same schedule'] = f'{result.metrics[ACCURACY]:.2f} %'
    print()
    for name, value in rows.items():
        print(f'{name:<34}{value}')
    print(f'\npicture of the genotype: {work_dir / "genotype.png"}')


def show_seeds(lab: Lab, seeds: int) -> None:
    """Print accuracies over several seeds, and how much the genotypes have in common, against random ones."""
    groups = {name: [training(name, seed) for seed in range(seeds)] for name in NETWORKS}
    results = lab.run(t for group in groups.values() for t in group)
    print(f'\naccuracy, mean ± standard error over {seeds} seeds')
    for name, group in groups.items():
        print(f'{name:<22}{Mean(tuple(results[t].metrics[ACCURACY] for t in group))} %')
    found = [Genotype.load(results[t].folder / 'genotype.json') for t in groups['search']]
    cfg = loaded_config('search', lab.folder)
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
    parser.add_argument('--seeds', type=int, help='train with this many seeds, and compare accuracies and genotypes')
    args = parser.parse_args(argv)
    lab = Lab(args.work_dir, CONFIGS, processes=min(len(NETWORKS), os.cpu_count() or 1), log=log)
    if args.seeds is None:
        log(f'training {", ".join(NETWORKS)}, about three minutes on two cores; logs are in {args.work_dir}')
        show_search(lab)
    elif args.seeds < 2:
        parser.error('--seeds compares genotypes and needs at least 2')
    else:
        show_seeds(lab, args.seeds)


def log(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


if __name__ == '__main__':
    main()
