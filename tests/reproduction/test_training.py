"""One training: done once, continued where it stopped, never mixed with another."""

import json

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from reproduction.training import Training, run_training

SEARCH = Training('search', 'vgg16_odbb_tiny', {'randomness.seed': 3})


class Interrupted(Exception):
    pass


class InterruptAfterEpoch(Hook):
    priority = 100  # when the checkpoint of the epoch is written

    def after_train_epoch(self, runner):
        raise Interrupted


def test_result_is_the_fused_networks_and_the_epochs_validations(tiny_configs, tmp_path):
    result = run_training(SEARCH, tiny_configs, tmp_path)
    assert set(result.metrics) == {'accuracy/top1'}
    assert (tmp_path / 'fused.pth').exists()
    assert set(result.by_epoch) == {1, 2}
    # after a frozen phase the fused network is the one that was validated last
    assert result.metrics == result.by_epoch[2]
    assert 'Epoch(train)' in (tmp_path / 'output.log').read_text()


def test_what_is_done_is_only_read(tiny_configs, tmp_path, monkeypatch):
    first = run_training(SEARCH, tiny_configs, tmp_path)
    monkeypatch.setattr(Runner, 'from_cfg', None)
    assert run_training(SEARCH, tiny_configs, tmp_path) == first


def test_continues_after_an_interruption_to_the_same_result(tiny_configs, tmp_path, monkeypatch):
    whole = run_training(SEARCH, tiny_configs, tmp_path / 'whole')
    from_cfg = Runner.from_cfg

    def interrupted(cfg):
        runner = from_cfg(cfg)
        runner.register_hook(InterruptAfterEpoch())
        return runner

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Runner, 'from_cfg', interrupted)
        run_training(SEARCH, tiny_configs, tmp_path / 'parts')
    assert not (tmp_path / 'parts' / 'result.json').exists()
    parts = run_training(SEARCH, tiny_configs, tmp_path / 'parts')
    assert parts.metrics == whole.metrics
    assert (tmp_path / 'parts' / 'genotype.json').read_text() == (tmp_path / 'whole' / 'genotype.json').read_text()
    assert 'resumed epoch: 1' in (tmp_path / 'parts' / 'output.log').read_text()


@pytest.mark.parametrize('options', [{'randomness.seed': 4}, {'randomness.seed': 3, 'optim_wrapper.optimizer.lr': 1.0}])
def test_another_training_in_the_folder_is_refused(tiny_configs, tmp_path, options):
    (tmp_path / 'training.json').write_text(
        json.dumps(json.loads(json.dumps(SEARCH.load_config(tiny_configs).to_dict(), default=str)))
    )
    with pytest.raises(ValueError, match=r'^.* holds another training, or an earlier version of it; [^.]*\.$'):
        run_training(Training('search', 'vgg16_odbb_tiny', options), tiny_configs, tmp_path)


def test_a_training_without_blocks_is_tested_from_its_last_checkpoint(tiny_configs, tmp_path):
    (tiny_configs / 'resnet_tiny.py').write_text(
        """_base_ = './vgg16_plain_tiny.py'
model = dict(
    backbone=dict(_delete_=True, type='ResNet_CIFAR', depth=18, in_channels=1, stem_channels=2, base_channels=2),
    head=dict(in_channels=16),
)
custom_hooks = []
"""
    )
    result = run_training(Training('resnet', 'resnet_tiny'), tiny_configs, tmp_path)
    assert result.metrics == result.by_epoch[2]
