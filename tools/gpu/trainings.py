"""Short searches in every way to train that a CPU does not have, each checked by what it leaves."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from measuring.reports import Report

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'odbb_digits.py'
#: What FuseHook logs at the end: the fused network computes what the trained one does
FUSED = re.compile(r'differs from the unfused by (\S+) of its largest output')
ACCURACY = re.compile(r'Epoch\(test\).*accuracy/top1: (\S+)|Epoch\(val\).*accuracy/top1: (\S+)')
#: Way to train -> options of the config
WAYS: Mapping[str, tuple[str, ...]] = {
    'float32': (),
    'AMP, float16': ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic'),
    'AMP, bfloat16': ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.dtype=bfloat16'),
    'with_cp': ('model.backbone.with_cp=True',),
    'Algorithm 1': (
        'custom_hooks.0.strategy=sample',
        'custom_hooks.0.frozen=0',
        'model.backbone.share_weights=True',
    ),
    # on a CPU, compiling to C++ takes longer than all the rest
    'torch.compile': ('compile=True',) if torch.cuda.is_available() else ('compile.backend=aot_eager',),
}
TWO_GPUS = 'SyncBN and NCCL, 2 ranks'
SYNC_BN = ("model.backbone.norm_cfg={'type':'SyncBN'}",)


def run(folder: Path, epochs: int, compiled: bool = True) -> Report:
    """Train `odbb_digits` in each way, every one in a process of its own, so that a failure stops no other.

    Args:
        folder: Holds the work dirs.
        epochs: Of a training, of which a fifth are before the cut.
        compiled: False leaves torch.compile out.
    """
    rows = []
    for name, options in WAYS.items():
        if 'AMP' in name and not torch.cuda.is_available():
            rows.append({'training': name, 'result': 'not run: it takes a GPU'})
        elif compiled or name != 'torch.compile':
            rows.append(_row(name, [sys.executable], options, folder, epochs))
    if torch.cuda.device_count() > 1:
        launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
        rows.append(_row(TWO_GPUS, launch, SYNC_BN, folder, epochs, ('--launcher', 'pytorch')))
    else:
        rows.append({'training': TWO_GPUS, 'result': 'not run: it takes two GPUs'})
    notes = [
        f'`configs/odbb_digits.py` for {epochs} epochs. The difference is that of the fused network, of its largest '
        'output; FuseHook refuses more than 1e-4.'
    ]
    return Report('trainings', 'Searches in every way to train', rows, notes=notes)


def _row(name: str, launch: list[str], options, folder: Path, epochs: int, arguments: tuple[str, ...] = ()) -> dict:
    print(f'training: {name}', flush=True)
    work_dir = folder / re.sub(r'\W+', '-', name)
    schedule = (
        f'train_cfg.max_epochs={epochs}',
        f'train_cfg.val_interval={epochs}',
        f'custom_hooks.0.frozen={epochs - max(1, epochs // 5)}',
        f'param_scheduler.T_max={epochs}',
        f'param_scheduler.end={epochs}',
    )
    command = [*launch, str(ROOT / 'tools' / 'train.py'), str(CONFIG), '--work-dir', str(work_dir), *arguments]
    start = time.monotonic()
    done = subprocess.run([*command, '--cfg-options', *schedule, *options], capture_output=True, text=True, cwd=ROOT)
    seconds = time.monotonic() - start
    text = done.stdout + done.stderr
    fused, accuracies = FUSED.search(text), ACCURACY.findall(text)
    if done.returncode or fused is None:
        return {'training': name, 'result': f'failed: {_reason(done.stderr)}', 'seconds': seconds}
    return {
        'training': name,
        'result': 'passed',
        'top-1 (%)': float(''.join(accuracies[-1])) if accuracies else None,
        'largest difference': float(fused[1]),
        'seconds': seconds,
    }


def _reason(text: str) -> str:
    """Last line of a traceback that names an error."""
    lines = [line for line in text.splitlines() if re.match(r'^(\[rank\d\]: )?\w+(\.\w+)*(Error|Exception)\b', line)]
    return lines[-1][:200] if lines else 'no reason given'
