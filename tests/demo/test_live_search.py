"""demo/live_search.py: the animation shows what the search did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from scripts import load_script

from repnas_mm.engine.checkpoint import load_file


@pytest.fixture
def demo():
    return load_script('demo/live_search.py')


def test_every_epoch_is_a_frame_with_its_alpha_and_branches(demo, small_cfg, run):
    watch = demo.SearchRecorder()
    run(small_cfg, watch)
    assert [frame['epoch'] for frame in watch.frames] == [0, 1, 2, 3, 4, 5, 6]
    assert [frame['phase'] for frame in watch.frames] == ['start', *2 * ['warmup'], *2 * ['search'], *2 * ['frozen']]
    assert all(np.nansum(frame['kept']) == 10 for frame in watch.frames)
    for epoch in (1, 4, 6):
        state = load_file(Path(small_cfg.work_dir) / f'epoch_{epoch}.pth')['state_dict']
        saved = torch.cat([alpha for key, alpha in state.items() if key.endswith('.alpha')])
        shown = watch.frames[epoch]['alpha'].T  # a row a block; within it, branches are in the order of α
        np.testing.assert_array_equal(shown[~np.isnan(shown)], saved.double().numpy())
    blocks = json.loads((Path(small_cfg.work_dir) / 'genotype.json').read_text())['blocks']
    for x, kept in enumerate(blocks.values()):
        assert [branch for branch, k in zip(demo.BRANCHES, watch.frames[-1]['kept'][:, x]) if k == 1] == kept


def test_it_writes_the_animation_and_says_the_latencies(demo, small_cfg, tmp_path, monkeypatch, capsys):
    small_cfg.dump(tmp_path / 'small.py')
    monkeypatch.setattr(demo, 'CONFIG', tmp_path / 'small.py')
    demo.main(['--work-dir', str(tmp_path / 'live')])
    assert 'ms with branches' in capsys.readouterr().out
    with Image.open(tmp_path / 'live' / 'live_search.gif') as gif:
        frames = [(frame.info['duration'], np.asarray(frame.convert('RGB'))) for frame in ImageSequence.Iterator(gif)]
    # the start, two epochs in which α learns, and the end
    assert [duration for duration, _ in frames] == [*3 * [demo.FRAME], demo.LAST_FRAME]
    assert not np.array_equal(frames[0][1], frames[-1][1])
