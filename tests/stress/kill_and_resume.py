"""Kill a search at random moments and resume it; what it leaves must be bit-identical to an uninterrupted run's.

`make stress`, or `python tests/stress/kill_and_resume.py --kills 5 --seed 1`. Prints a Markdown table.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / 'tools'), str(ROOT / 'tests')]

from small_search import in_iterations, small_search  # noqa: E402

import train  # noqa: E402
from repnas_mm.engine.checkpoint import load_file  # noqa: E402
from repnas_mm.engine.last_checkpoint import find_last_checkpoint  # noqa: E402

EPOCHS, LENGTH = 12, 3
PHASES = ('warmup', 'search', 'frozen')
EMA = dict(type='EMAHook', momentum=0.1, update_buffers=True)


def by_epoch(cfg: Config) -> None:
    cfg.train_cfg.update(max_epochs=EPOCHS, val_interval=2)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    cfg.custom_hooks[0].update(warmup=4, frozen=4)


def by_iteration(cfg: Config) -> None:
    in_iterations(cfg)
    cfg.train_cfg.update(max_iters=EPOCHS * LENGTH, val_interval=5)
    cfg.default_hooks.checkpoint.update(interval=4, max_keep_ckpts=2)
    cfg.custom_hooks[0].update(warmup=12, frozen=12)


def workers(cfg: Config, persistent: bool) -> None:
    cfg.train_dataloader.update(num_workers=2, persistent_workers=persistent)


def shrink(cfg: Config) -> None:
    """All branches, and one cut, in the place of Algorithm 1."""
    cfg.model.backbone.share_weights = False
    del cfg.custom_hooks[0]['alpha_optimizer']
    cfg.custom_hooks[0].strategy = 'shrink'


#: Name -> (number of ranks, what it changes in the config)
VARIANTS = {
    'epochs, no workers': (1, lambda cfg: by_epoch(cfg)),
    'epochs, persistent workers, EMA': (1, lambda c: (by_epoch(c), workers(c, True), c.custom_hooks.append(EMA))),
    'epochs, workers, 3 gradients accumulated': (
        1,
        lambda c: (by_epoch(c), workers(c, False), c.optim_wrapper.update(accumulative_counts=3)),
    ),
    'iterations, workers, EMA, 2 gradients accumulated': (
        1,
        lambda c: (
            by_iteration(c),
            workers(c, True),
            c.custom_hooks.append(EMA),
            c.optim_wrapper.update(accumulative_counts=2),
        ),
    ),
    'iterations, no workers': (1, lambda c: by_iteration(c)),
    '2 ranks, epochs, persistent workers': (
        2,
        lambda c: (by_epoch(c), workers(c, True), c.train_dataloader.update(batch_size=8)),
    ),
    'shrink, epochs, persistent workers, EMA': (
        1,
        lambda c: (by_epoch(c), workers(c, True), c.custom_hooks.append(EMA), shrink(c)),
    ),
    'shrink, iterations, 2 gradients accumulated': (
        1,
        lambda c: (by_iteration(c), shrink(c), c.optim_wrapper.update(accumulative_counts=2)),
    ),
    'shrink, 2 ranks, epochs': (2, lambda c: (by_epoch(c), shrink(c), c.train_dataloader.update(batch_size=8))),
}


def write_config(path: Path, change) -> None:
    """The small search, with everything in it that is left to chance: crops in workers, mixup in the main process."""
    cfg = small_search(path.parent)
    change(cfg)
    cfg.model.train_cfg = dict(augments=dict(type='Mixup', alpha=0.5))
    cfg.model.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    cfg.default_hooks.logger.interval = 1
    del cfg._cfg_dict['work_dir']
    cfg.dump(path)


class Run:
    """A training in processes of its own, one a rank, each with its data workers in a process group."""

    def __init__(self, config: Path, work_dir: Path, ranks: int):
        self.work_dir = work_dir
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        context = multiprocessing.get_context('fork')
        arguments = [str(config), '--work-dir', str(work_dir), '--resume']
        arguments += ['--launcher', 'pytorch'] if ranks > 1 else []
        self.processes = [
            context.Process(target=self._train, args=(arguments, rank, ranks, port)) for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def _train(self, arguments, rank, ranks, port):
        os.setsid()
        environment = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        os.environ.update({key: str(value) for key, value in environment.items()})
        self.work_dir.mkdir(exist_ok=True)
        log = os.open(self.work_dir / f'output{rank}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train.main(arguments)

    def wait(self) -> None:
        for process in self.processes:
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f'A run failed, see {self.work_dir}/output*.log')

    def kill_at(self, iteration: int, delay: float) -> bool:
        """SIGKILL a moment after this iteration was logged; False if the run ended before."""
        while max(log_of(self.work_dir), default=0) < iteration:
            if any(process.exitcode not in (None, 0) for process in self.processes):
                raise SystemExit(f'A run failed, see {self.work_dir}/output*.log')
            time.sleep(0.005)
        time.sleep(delay)
        alive = any(process.is_alive() for process in self.processes)
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return alive


def log_of(work_dir: Path) -> dict[int, list[dict]]:
    """Iteration -> what was logged at it, once for every time that it was run."""
    lines: dict[int, list[dict]] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # the line of the kill
                scalars = json.loads(line)
                if 'loss' in scalars:
                    kept = {k: v for k, v in scalars.items() if k not in ('time', 'data_time', 'memory')}
                    lines.setdefault(scalars['step' if 'epoch' not in scalars else 'iter'], []).append(kept)
    return lines


def same(a, b) -> bool:
    """Bitwise."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def differences(whole: Path, killed: Path) -> list[str]:
    """What the killed run left otherwise than the whole one."""
    first, second = (load_file(find_last_checkpoint(folder)) for folder in (whole, killed))
    parts = ['state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'repnas']
    found = [part for part in parts if not same(first.get(part), second.get(part))]
    fused = [load_file(folder / 'fused.pth')['state_dict'] for folder in (whole, killed)]
    found += [] if same(*fused) else ['fused.pth']
    found += [] if len({(folder / 'genotype.json').read_bytes() for folder in (whole, killed)}) == 1 else ['genotype']
    logged, again = log_of(whole), log_of(killed)
    first = next((i for i in logged if any(line != logged[i][0] for line in again[i])), None)
    return found + ([] if first is None else [f'the log from iteration {first} on'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=4, help='of each variant')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--work-dir', type=Path, help='kept; by default a temporary folder')
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(args.seed)
    folder = args.work_dir or Path(tempfile.mkdtemp())
    print('| run | killed in iteration | phase | resumed from | differs in |\n|---|---|---|---|---|')
    failed = 0
    for number, (name, (ranks, change)) in enumerate(VARIANTS.items()):
        place = folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        write_config(place / 'config.py', change)
        Run(place / 'config.py', place / 'whole', ranks).wait()
        kills, total = [], EPOCHS * LENGTH
        # one kill in each equal part of the run
        for part in range(args.kills):
            at = random.randint(part * total // args.kills, (part + 1) * total // args.kills - 1)
            run = Run(place / 'config.py', place / 'killed', ranks)
            if run.kill_at(at, random.uniform(0, 0.3)):
                reached = max(log_of(place / 'killed'), default=0)
                last = find_last_checkpoint(place / 'killed')
                kills.append((reached, PHASES[min(2, reached * 3 // total)], last and Path(last).name))
        Run(place / 'config.py', place / 'killed', ranks).wait()
        found = differences(place / 'whole', place / 'killed')
        failed += bool(found)
        for reached, phase, last in kills:
            print(
                f'| {name} | {reached} | {phase} | {last or "the start"} | {", ".join(found) or "nothing"} |',
                flush=True,
            )
    if failed:
        raise SystemExit(f'{failed} of {len(VARIANTS)} variants differ; see {folder}')


if __name__ == '__main__':
    main()
