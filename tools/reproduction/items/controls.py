"""What each part of a shrinking search is worth: the deep network's search with one thing done otherwise."""

import json
from collections.abc import Sequence
from statistics import fmean

from matplotlib.figure import Figure

from measuring.reports import Report
from repnas_mm.search.space import BRANCHES

from ..controls import VARIANTS
from ..lab import Lab
from ..scales import Scale
from ..shared_trainings import accuracy, cosine, cpu_seconds, network
from ..training import Result, Training, logged

#: Parts of the schedule at which branches leave instead
CUTS = (0.1, 0.15, 0.3)
#: And one with so little training behind it that what the cut loses is not learned again
LATE = 0.95
#: Of the fine-tuning: epochs, and those behind the cut
FINE_TUNING = (10, 1)
#: Name of what happens to the branches that leave -> strategy
LABELS = {'absorbed': 'as it is', 'dropped': 'dropped at the cut'}


def make(lab: Lab, scale: Scale, seeds: Sequence[int]) -> Report:
    """Train every variant with every seed, and a fine-tuning from RepVGG's fused weights with and without absorbing."""
    nets = scale.deep.format('odbb')
    cfg = network(nets, 0).load_config(lab.configs)
    epochs, own = cfg.train_cfg.max_epochs, cfg.custom_hooks[0].frozen

    def group(tag: str, **hook) -> list[Training]:
        return [network(nets, s, tag, **{f'custom_hooks__0__{key}': v for key, v in hook.items()}) for s in seeds]

    rows = {name: group(name.replace(' ', '-').replace('=', 'is'), strategy=name) for name in VARIANTS}
    rows['all seven kinds of branches'] = group('seven', candidates=list(BRANCHES))
    for cut in CUTS:
        behind = epochs - round(cut * epochs)
        if behind not in (own, epochs):
            rows[f'cut at {1 - behind / epochs:.0%}'] = group(f'frozen{behind}', frozen=behind)
    behind = epochs - round(LATE * epochs)
    for label, strategy in LABELS.items():
        rows[f'cut at {LATE:.0%}, {label}'] = group(f'late-{label}', strategy=strategy, frozen=behind)
    results = lab.run(t for trainings in rows.values() for t in trainings)
    start = {s: lab.run([network(scale.deep.format('repvgg'), s)]) for s in seeds}
    for label, strategy in LABELS.items():
        tuned = [_fine_tuning(nets, cfg, s, label, strategy, next(iter(start[s].values())).folder) for s in seeds]
        rows[f'fine-tuning, {label}'] = tuned
        results |= lab.run(tuned)
    groups = {name: [results[t] for t in trainings] for name, trainings in rows.items()}
    return Report(
        'controls',
        f'A shrinking search with one thing done otherwise, {scale.name}',
        [
            {
                'search': name,
                'seeds': len(seeds),
                'top-1 (%)': accuracy(g),
                'change of the loss at the cut': _change(g),
                'CPU seconds': cpu_seconds(g),
            }
            for name, g in groups.items()
        ],
        {'': plot_losses({label: groups[f'fine-tuning, {label}'] for label in LABELS})},
        notes=[
            f'All but the last two rows train `{nets}` for {epochs} epochs, {own} of them behind the cut. Fine-tuning '
            f"starts from RepVGG's fused weights with a tenth of the learning rate; of its {FINE_TUNING[0]} epochs "
            f'{FINE_TUNING[1]} is behind the cut. The figure shows the loss of its batches, a mean over seeds. '
            'The loss at the cut changes by what is given on the average over seeds, on one batch.',
        ],
    )


def _fine_tuning(nets: str, cfg, seed: int, label: str, strategy: str, start) -> Training:
    """A search from fused weights, so short behind its cut that what the cut loses is not learned again."""
    epochs, frozen = FINE_TUNING
    return network(
        nets,
        seed,
        f'fine-tuning-{label}',
        custom_hooks__0__frozen=frozen,
        custom_hooks__0__strategy=strategy,
        train_cfg__val_interval=epochs,
        optim_wrapper__optimizer__lr=0.1 * cfg.optim_wrapper.optimizer.lr,
        **cosine(epochs),
        default_hooks__logger__interval=1,
        log_processor=dict(window_size=1),
        load_from=str(start / 'fused.pth'),
    )


def _change(results: Sequence[Result]) -> float | None:
    """Loss with the cut minus loss without it, a mean over seeds."""
    paths = [result.folder / 'cut.json' for result in results]
    if not all(path.exists() for path in paths):
        return None
    cuts = [json.loads(path.read_text()) for path in paths]
    return fmean(cut['after'] - cut['before'] for cut in cuts)


def _losses(results: Sequence[Result]) -> list[float]:
    """Loss of every iteration, a mean over seeds; of a training that was resumed, by its last run."""
    runs = []
    for result in results:
        losses = {line['step']: line['loss'] for line in logged(result.folder) if 'loss' in line}
        runs.append([losses[step] for step in sorted(losses)])
    return [fmean(losses) for losses in zip(*runs)]


def plot_losses(groups: dict[str, Sequence[Result]]) -> Figure:
    """Draw the training losses of fine-tunings by iteration, with a line at the cut."""
    figure = Figure(figsize=(6.4, 3.2), layout='constrained')
    axes = figure.add_subplot()
    for label, results in groups.items():
        losses = _losses(results)
        axes.plot(losses, label=label, linewidth=1)
    epochs, frozen = FINE_TUNING
    axes.axvline(len(losses) * (1 - frozen / epochs), color='#777777', linestyle='--', linewidth=1)
    axes.set_yscale('log')
    axes.set_xlabel('iteration')
    axes.set_ylabel('training loss')
    axes.legend(fontsize=8)
    return figure
