"""Networks so deep that their branches decide what they learn: hand-made blocks, random draws and searches."""

from collections.abc import Sequence

from mmpretrain import get_model

from measuring.reports import Report
from repnas_mm.search import Genotype, find_candidates

from ..lab import Lab
from ..random_search import DRAWS, draw_and_choose, drawn_network
from ..scales import Scale
from ..shared_trainings import accuracy, cpu_seconds, from_scratch, network

HAND_MADE = ('plain', 'acb', 'dbb', 'repvgg')
ANEW = 'odbb, from scratch'


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train every row with every seed."""
    nets = scale.deep
    cfg = network(nets.format('odbb'), 0).load_config(lab.configs)
    candidates = find_candidates(get_model(cfg))
    num_branches = cfg.custom_hooks[0].num_branches
    branches = {method: Genotype.from_preset(method, candidates).num_branches for method in HAND_MADE}
    rows = {method: [network(nets.format(method), s) for s in seeds] for method in ('odbb', *HAND_MADE)}
    skips = Genotype({n: [b for b in c if b in ('kxk', 'skip')] for n, c in candidates.items()}, share_weights=False)
    rows['kxk and skip'] = [from_scratch(nets, skips, s, 'skips') for s in seeds]
    branches['kxk and skip'] = skips.num_branches
    rows['odbb by Algorithm 1'] = [network(nets.format('sample'), s) for s in seeds]
    results = lab.run(t for group in rows.values() for t in group)
    found = [Genotype.load(results[t].folder / 'genotype.json') for t in rows['odbb']]
    rows[ANEW] = [from_scratch(nets, genotype, s, 'odbb') for genotype, s in zip(found, seeds)]
    best = draw_and_choose(lab, scale, nets, num_branches, scale.deep_short_epochs)
    rows['random'] = [drawn_network(nets, num_branches, best, s) for s in seeds]
    results |= lab.run(rows[ANEW] + rows['random'])
    groups = {name: [results[t] for t in group] for name, group in rows.items()}
    seconds = {name: cpu_seconds(group) for name, group in groups.items()}
    return Report(
        'deep',
        f'Networks of {len(candidates)} layers, {scale.name}',
        [
            {
                'block': name,
                'branches': branches.get(name, num_branches),
                'seeds': len(seeds),
                'top-1 (%)': accuracy(group),
                'CPU seconds': seconds[name],
                f'{ANEW} = 1': seconds[name] and seconds[ANEW] and seconds[name] / seconds[ANEW],
            }
            for name, group in groups.items()
        ],
        notes=[
            f"`odbb` searches and trains in one stage with `strategy='shrink'`, `odbb by Algorithm 1` with "
            f"`strategy='sample'`; `{ANEW}` trains the genotype of the former anew. `kxk and skip` are in every block, "
            'the skip where one can be. '
            f'`random` is the best of {DRAWS} genotypes drawn under the same number of branches, each trained for '
            f'{scale.deep_short_epochs} epoch{"s" * (scale.deep_short_epochs > 1)} on {scale.trained_on:,} training '
            f'images and chosen on {scale.held_out:,} others; the seconds are those of training the best in full.',
            'CPU seconds are those of one training on one core, validation included, a mean over seeds.',
        ],
    )
