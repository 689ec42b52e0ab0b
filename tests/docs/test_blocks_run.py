"""The commands and the Python of the pages run, in their order, on ImageNet's config made tiny."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
from pages import PAGES, ROOT, blocks, commands, is_config
from sklearn.datasets import load_digits

#: What is not for a test: the environment, and the suite itself
NOT_HERE = re.compile(r'make |pip install |apt-get |\.venv/bin/ruff ')
#: 1/8 of the width, one epoch, 16 images
TINY = f"""
_base_ = {str(ROOT / 'configs/odbb_a0_imagenet.py')!r}
model = dict(backbone=dict(base_channels=8), head=dict(in_channels=160))
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(ann_file='train.txt', data_prefix='train'), **loader)
val_dataloader = dict(dataset=dict(ann_file='val.txt', data_prefix='val'), **loader)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
"""


@pytest.fixture
def folder(tmp_path):
    """A clone as the pages see it, with 16 training and 8 validation images for ImageNet."""
    for name in ('tools', 'demo'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'configs').mkdir()
    for path in (ROOT / 'configs').iterdir():
        (tmp_path / 'configs' / path.name).symlink_to(path)
    (tmp_path / 'configs/odbb_a0_imagenet.py').unlink()
    (tmp_path / 'configs/odbb_a0_imagenet.py').write_text(TINY, encoding='utf-8')
    digits = load_digits()
    for i, (scan, label) in enumerate(zip(digits.images[:24], digits.target)):
        split = 'train' if i < 16 else 'val'
        image = mmcv.imresize((scan * 15.9).astype('uint8'), (256, 256))
        mmcv.imwrite(image, str(tmp_path / f'data/imagenet/{split}/{i}.png'))
        with open(tmp_path / f'data/imagenet/{split}.txt', 'a') as annotations:
            annotations.write(f'{i}.png {label}\n')
    mmcv.imwrite(image, str(tmp_path / 'image.jpg'))
    return tmp_path


def run(folder: Path, where: str, *command: str) -> None:
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    environment = dict(os.environ, PATH=path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f'{where}: {command[-1]}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}'


def test_they_run(folder):
    script, seen = [], set()
    for block in [block for page in PAGES for block in blocks(page) if block.run]:
        if block.language == 'bash':
            for command in commands(block.code):
                command = re.sub(r'epoch_\d+', 'epoch_1', command)
                if command not in seen and not NOT_HERE.match(command):
                    run(folder, block.where, 'bash', '-c', command)
                seen.add(command)
        elif block.language == 'python' and not is_config(block.code):
            script.append(f'# {block.where}\n{block.code}')
    assert len(seen) > 10 and len(script) > 3
    run(folder, 'Python blocks', sys.executable, '-c', '\n'.join(script))
