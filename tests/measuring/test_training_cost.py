"""What configs cost, against sums written out by hand."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from scripts import load_script

from measuring.training_cost import config_cost
from repnas_mm.search.space import BRANCHES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg():
    """Algorithm 1 with four blocks on digits of 16 pixels."""
    cfg = Config.fromfile(ROOT / 'configs/odbb_digits.py')
    cfg.model.backbone.update(base_channels=4, arch=dict(num_blocks=[1, 1, 1], width_factor=[1] * 3, strides=[1, 2, 2]))
    cfg.model.backbone.share_weights = True
    cfg.model.head.in_channels = 16
    cfg.train_cfg.max_epochs = 60
    cfg.custom_hooks[0] = ConfigDict(type='RepNASHook', strategy='sample', num_branches=24)
    return cfg


def plain(cfg):
    cfg.model.backbone.genotype = 'plain'
    cfg.custom_hooks = []
    return cfg


def test_operations_are_those_of_forward_and_backward(cfg):
    cost = config_cost(plain(cfg))
    # (side, in, out) of the stem and of the three stages, all 3 x 3
    layers = [(8, 1, 4), (8, 4, 4), (4, 4, 8), (2, 8, 16)]
    forward = [2 * side**2 * 9 * i * o for side, i, o in layers]
    classifier = 2 * 16 * 10
    # backward is once for the kernel and once for the input, which no image needs
    assert cost.flops_an_image == 3 * (sum(forward) + classifier) - forward[0]


def test_memory_is_of_weights_gradients_momentum_and_a_batch(cfg):
    cost = config_cost(plain(cfg))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    weights = sum(p.nbytes for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    kept = 4 * (8**2 * 4 + 8**2 * 4 + 4**2 * 8 + 2**2 * 16)  # a float32 feature map for each BN and each ReLU
    # and of the stem and of the head, what is small
    assert 2 * kept - 8**2 * 4 * 4 <= cost.bytes_an_image <= 2 * kept + 256
    fixed = cost.bytes_a_gpu - 3 * weights - buffers - 64 * cost.bytes_an_image
    assert 0 <= fixed <= 2 * weights  # kernels and statistics, whatever the batch
    cfg.optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
    more = config_cost(cfg).bytes_a_gpu - cost.bytes_a_gpu
    assert weights <= more <= weights + 4 * len(list(model.parameters()))  # a second moment, and steps


def test_a_schedule_is_counted_in_images(cfg):
    cost = config_cost(plain(cfg))
    assert (cost.gpus, cost.batch_size, cost.iterations) == (1, 64, 60 * math.ceil(1437 / 64))
    assert cost.gpu_days(2.0) == pytest.approx(cost.iterations * 64 * cost.flops_an_image / 2e12 / 86400)
    cfg.auto_scale_lr = dict(base_batch_size=256)
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=dict(dataset, indices=100))
    cost = config_cost(cfg)
    assert (cost.gpus, cost.iterations) == (4, 60 * math.ceil(300 / 256))


def test_public_data_need_not_be_there(cfg):
    pipeline = cfg.train_dataloader.dataset.pipeline
    absent = dict(type='ImageNet', data_root='no/such/folder', pipeline=pipeline)
    cfg.train_dataloader.dataset = absent
    assert config_cost(plain(cfg)).iterations == 60 * math.ceil(1281167 / 64)
    cfg.train_dataloader.dataset = dict(absent, type='CustomDataset')
    with pytest.raises(FileNotFoundError):
        config_cost(cfg)
    cfg.train_dataloader.dataset = dict(type='FashionMNIST', data_root='no/such/folder', indices=640, pipeline=pipeline)
    assert config_cost(cfg).iterations == 600


def test_a_search_is_a_mean_over_draws(cfg):
    cfg.custom_hooks[0].num_branches = 10
    torch.manual_seed(0)
    many = config_cost(cfg, draws=20)
    torch.manual_seed(0)
    one = config_cost(cfg, draws=1)
    assert many.branches == one.branches == 10
    assert many.bytes_an_image != one.bytes_an_image
    cfg.custom_hooks[0].num_branches = 20
    assert config_cost(cfg, draws=5).bytes_an_image > many.bytes_an_image


def test_a_search_that_shrinks_needs_the_memory_of_all_branches_and_a_fifth_of_their_operations(cfg):
    cfg.model.backbone.share_weights = False
    costs = {}
    for strategy, branches, kinds in (('sample', 25, None), ('shrink', 25, [*BRANCHES]), ('shrink', 4, [*BRANCHES])):
        cfg.custom_hooks[0] = dict(type='RepNASHook', strategy=strategy, num_branches=branches, candidates=kinds)
        costs[strategy, branches] = config_cost(cfg, draws=1)
    every, same, few = costs.values()
    assert (every.branches, same.branches, few.branches) == (25, 25, pytest.approx(0.2 * 25 + 0.8 * 4))
    assert every.bytes_a_gpu == pytest.approx(same.bytes_a_gpu) == pytest.approx(few.bytes_a_gpu)
    cfg.model.backbone.genotype = 'plain'  # as kxk alone
    cfg.custom_hooks = []
    alone = config_cost(cfg).flops_an_image
    assert few.flops_an_image == pytest.approx(0.2 * every.flops_an_image + 0.8 * alone)


def test_a_memory_constraint_is_kept_at_the_batch_size(cfg):
    cfg.custom_hooks[0] = dict(type='RepNASHook', strategy='sample', memory='800KB')
    cost = config_cost(cfg, draws=5)
    weights_and_so_on = config_cost(cfg, draws=1).parameters * 12
    assert 0.7e6 < cost.bytes_a_gpu - weights_and_so_on < 1.05e6  # the head's are beside the blocks'
    assert 4 < cost.branches < 25


@pytest.fixture
def tool():
    return load_script('tools/config_cost.py')


def test_the_tool_writes_a_row_for_each_config(tool, cfg, tmp_path, capsys):
    cfg.dump(tmp_path / 'small.py')
    stock = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
    options = ['custom_hooks.0.num_branches=12', 'train_dataloader.batch_size=8']
    tool.main([str(tmp_path / 'small.py'), '--draws', '1', '--out', str(tmp_path), '--cfg-options', *options])
    assert '| small | 12 | 1 × 8 | 10,800 |' in (tmp_path / 'config_cost.md').read_text()
    tool.main([stock, '--tflops', '5', '--out', str(tmp_path)])
    assert '| mobilenet-v2_8xb32_in1k | 0 | 8 × 32 |' in capsys.readouterr().out
    assert 'GPU-days at 5 TFLOPS' in (tmp_path / 'config_cost.csv').read_text()


def test_an_impossible_speed_is_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(['config.py', '--tflops', '0'])
    assert '--tflops must be greater than 0' in capsys.readouterr().err
