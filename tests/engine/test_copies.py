"""A second copy of the network in a model, without gradients, is searched, saved and fused as its twin is."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from repnas_mm.engine.checkpoint import build_model, load_file
from repnas_mm.models import ODBBlock
from repnas_mm.search import Genotype, find_blocks
from repnas_mm.search.copies import find_copied_networks, find_copies


@MODELS.register_module()
class MeanTeacher(BaseModel):
    """A student that learns labels and what its teacher says; mmdet's hook averages the teacher."""

    def __init__(self, classifier, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.student, self.teacher = MODELS.build(classifier), MODELS.build(classifier)
        self.teacher.requires_grad_(False)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode != 'loss':
            return self.student(inputs, data_samples, mode=mode)
        with torch.no_grad():
            target = self.teacher(inputs).softmax(1)
        return dict(self.student.loss(inputs, data_samples), consistency=F.cross_entropy(self.student(inputs), target))


def mean_teacher(cfg):
    cfg.custom_imports.imports.append('mmdet.engine.hooks')
    preprocessor = cfg.model.pop('data_preprocessor')
    cfg.model.pop('type')
    cfg.model = dict(
        type='MeanTeacher',
        classifier=dict(type='ImageClassifier', **cfg.model),
        data_preprocessor=dict(type='ClsDataPreprocessor', **preprocessor),
    )
    cfg.custom_hooks.append(dict(type='mmdet.MeanTeacherHook', momentum=0.05))
    for key in ('val', 'test'):
        cfg[f'{key}_cfg'] = cfg[f'{key}_dataloader'] = cfg[f'{key}_evaluator'] = None
    return 'student', 'teacher'


def moco(cfg):
    view = [dict(type='RandomCrop', crop_size=16, padding=2)]
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='Resize', scale=16),
        dict(type='MultiView', num_views=2, transforms=[view]),
        dict(type='PackInputs'),
    ]
    cfg.train_dataloader.drop_last = True
    cfg.model = dict(
        type='MoCo',
        queue_len=32,
        feat_dim=8,
        momentum=0.05,
        backbone=cfg.model.backbone,
        neck=dict(type='MoCoV2Neck', in_channels=16, hid_channels=8, out_channels=8, with_avg_pool=True),
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.2),
        data_preprocessor=dict(mean=[80.0], std=[96.0]),
    )
    for key in ('val', 'test'):
        cfg[f'{key}_cfg'] = cfg[f'{key}_dataloader'] = cfg[f'{key}_evaluator'] = None
    return 'backbone', 'encoder_k.module.0'


def by_shrinking(cfg):
    cfg.model.backbone.share_weights = False
    del cfg.custom_hooks[0]['alpha_optimizer']
    cfg.custom_hooks[0].update(strategy='shrink', warmup=0)


class Watch(Hook):
    """Notes the active branches of both networks in every iteration."""

    priority = 60

    def __init__(self, twin, copy):
        self.names, self.active = (twin, copy), []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.active.append([branches(runner.model, name) for name in self.names])


def branches(model, network):
    blocks = find_blocks(model.get_submodule(network))
    return {name: block.active_branches for name, block in blocks.items()}


def features(model, network, images):
    model.eval()
    with torch.no_grad():
        output = model.get_submodule(network)(images)
    return output[-1] if isinstance(output, tuple) else output


@pytest.mark.parametrize(('kind', 'strategy'), [(moco, 'shrink'), (mean_teacher, 'sample')])
def test_the_copy_follows_and_every_file_holds_both(kind, strategy, small_cfg, run):
    cfg = small_cfg
    if strategy == 'shrink':
        by_shrinking(cfg)
    twin, copy = kind(cfg)
    watch = Watch(twin, copy)
    runner = run(cfg, watch)
    assert all(first == second for first, second in watch.active)
    assert {sum(map(len, first.values())) for first, _ in watch.active} <= {10, 17}

    folder, images = Path(runner.work_dir), torch.randn(4, 1, 16, 16)
    genotype = Genotype.load(folder / 'genotype.json')
    assert genotype.num_branches == 10 and all(name.startswith(f'{twin}.') for name in genotype)
    models = [
        build_model(cfg, load_file(folder / 'epoch_6.pth')),
        build_model(Config.fromfile(folder / 'subnet.py'), load_file(folder / 'subnet.pth')),
        build_model(Config.fromfile(folder / 'fused.py'), load_file(folder / 'fused.pth')),
    ]
    for network in (twin, copy):
        outputs = [features(model, network, images) for model in models]
        assert torch.equal(outputs[0], outputs[1])
        torch.testing.assert_close(outputs[1], outputs[2], rtol=1e-4, atol=1e-4)
        assert branches(models[0], network) == watch.active[-1][0]
    assert all(block.deploy for block in find_blocks(models[2]).values())
    init_default_scope('mmpretrain')
    backbone = dict(cfg.model.get('classifier', cfg.model).backbone, genotype=str(folder / 'genotype.json'))
    rebuilt = branches(MODELS.build(backbone), '')
    assert rebuilt == {name.removeprefix('backbone.'): kept for name, kept in watch.active[-1][0].items()}


def test_the_copy_goes_on_with_what_it_computed_at_the_cut(small_cfg, run):
    """Its own numbers: between the copy and its twin is more than between the copy before and behind the cut."""

    class AroundTheCut(Hook):
        priority = 51  # behind mmdet's hook

        def features(self, runner, name, batch):
            images = runner.model.data_preprocessor(batch, True)['inputs']
            network = deepcopy(runner.model.get_submodule(name))
            for module in network.modules():
                module._forward_pre_hooks.clear()  # those that absorb
            with torch.no_grad():
                return network.backbone(images)[-1]

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 0:
                with torch.no_grad():
                    for parameter in runner.model.teacher.parameters():
                        parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
            if runner.iter == 12:
                self.student, self.teacher = (
                    self.features(runner, name, data_batch) for name in ('student', 'teacher')
                )

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 12:
                self.behind = self.features(runner, 'teacher', data_batch)
                assert sum(map(len, branches(runner.model, 'teacher').values())) == 10

    by_shrinking(small_cfg)
    mean_teacher(small_cfg)
    small_cfg.custom_hooks[-1].update(momentum=1e-6)
    watch = AroundTheCut()
    run(small_cfg, watch, stop_after=15)
    changed, apart = ((other - watch.teacher).norm() for other in (watch.behind, watch.student))
    assert changed < 0.3 * apart  # without absorbing it is 1.6; the borders' statistics are running ones


def test_convolutions_of_the_copy_are_those_of_the_stock_model_again(small_cfg, run):
    moco(small_cfg)
    resnet = dict(
        type='ResNet', depth=18, in_channels=1, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=[1]
    )
    resnet.update(stem_channels=4, base_channels=4)
    small_cfg.model.backbone = dict(resnet, conv_cfg=dict(type='ODBBConv2d'))
    small_cfg.model.neck.in_channels = 8
    small_cfg.custom_hooks[0].update(num_branches=20, warmup=0, frozen=1)
    small_cfg.train_cfg.max_epochs = 2
    folder = Path(run(small_cfg).work_dir)
    fused = load_file(folder / 'fused.pth')['state_dict']
    init_default_scope('mmpretrain')
    stock = MODELS.build(dict(small_cfg.model, backbone=resnet))
    assert fused.keys() == stock.state_dict().keys()
    # the next task: MoCo again, from the subnet, which must go on averaging
    next_cfg = Config.fromfile(folder / 'subnet.py')
    next_cfg.update(load_from=str(folder / 'subnet.pth'), work_dir=str(folder / 'next'))
    run(next_cfg, stop_after=1)


class Net(nn.Module):
    """Blocks in a stage a list, of equal widths."""

    def __init__(self, *lengths):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(*(Layer() for _ in range(length))) for length in lengths)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = ODBBlock(4, 4)


def test_frozen_stages_are_no_copies_of_the_next():
    net = Net(2, 2, 2)
    net.stages[0].requires_grad_(False)
    assert find_copied_networks(nn.ModuleDict(dict(backbone=net))) == {}


def test_a_copy_with_frozen_stages_is_one_as_a_whole():
    model = nn.ModuleDict(dict(student=Net(2, 2), teacher=Net(2, 2)))
    model['teacher'].requires_grad_(False)
    model['student'].stages[0].requires_grad_(False)
    assert find_copied_networks(model) == {'teacher': 'student'}
    assert len(find_copies(model)) == 4


@pytest.mark.parametrize('other', [Net(2), Net(2, 3)], ids=['fewer', 'more'])
def test_another_network_without_gradients_is_no_copy(other):
    model = nn.ModuleDict(dict(student=Net(2, 2), teacher=other.requires_grad_(False)))
    assert find_copied_networks(model) == {}


def test_a_model_may_hold_a_copy_of_itself():
    net = Net(2)
    net.teacher = Net(2).requires_grad_(False)
    assert find_copied_networks(net) == {'teacher': ''}


def test_without_gradients_anywhere_there_is_no_copy():
    model = nn.ModuleDict(dict(student=Net(2), teacher=Net(2))).requires_grad_(False)
    assert find_copied_networks(model) == {}
