"""tools/demo_detection.py: the whole chain, on a few small images."""

import importlib.util
import json
from pathlib import Path

import torch

from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import load_file

ROOT = Path(__file__).resolve().parents[2]


def demo(*args):
    spec = importlib.util.spec_from_file_location('demo_detection', ROOT / 'tools' / 'demo_detection.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main([str(arg) for arg in args])


def test_search_transfer_fuse_and_test(tmp_path, capsys):
    data, folder = tmp_path / 'data', tmp_path / 'run'
    write_coco_digits(data, num_train=6, num_val=4, image_size=64)
    args = (
        *('--data', data, '--work-dir', folder, '--search-options'),
        *('train_dataloader.dataset.indices=64', 'train_cfg.max_epochs=3', 'train_cfg.val_interval=3'),
        *('custom_hooks.0.warmup=1', 'custom_hooks.0.frozen=1', '--detector-options'),
        # the first step leaves the weights of the transfer as they came
        *('train_cfg.max_epochs=1', 'train_dataloader.batch_size=6', 'optim_wrapper.optimizer.lr=0.0'),
    )
    demo(*args)
    searched = load_file(folder / 'search' / 'subnet.pth')['state_dict']
    started = load_file(folder / 'transfer' / 'epoch_1.pth')['state_dict']
    backbone = {
        k: v for k, v in searched.items() if k.startswith('backbone.') and 'running' not in k and 'num_' not in k
    }
    assert len(backbone) > 30
    assert all(torch.equal(value, started[key]) for key, value in backbone.items())
    ap = json.loads((folder / 'transfer' / 'ap.json').read_text())
    assert abs(ap['fused'] - ap['unfused']) <= 1e-3
    assert (folder / 'detections.png').stat().st_size > 1000
    assert 'AP fused' in capsys.readouterr().out
    # what is done is not run again
    before = (folder / 'search' / 'subnet.pth').stat().st_mtime_ns
    demo(*args)
    assert (folder / 'search' / 'subnet.pth').stat().st_mtime_ns == before
