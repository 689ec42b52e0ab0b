"""CenterNet on COCO as in the paper's Tables 1 and 5: the schedule, and networks that build, start and predict."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope

from repnas_mm.engine.checkpoint import save_subnet
from repnas_mm.models import ODBBBackbone
from repnas_mm.search import Genotype, find_blocks

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
WIDTHS = dict(centernet_odbb_a0=1280, centernet_odbb_b3=2560, centernet_resnet18=512, centernet_resnet101=2048)
HEAVY = {'centernet_odbb_b3', 'centernet_resnet101'}


@pytest.fixture(params=WIDTHS, scope='module')
def named(request):
    return request.param, Config.fromfile(CONFIGS / f'{request.param}.py')


def test_the_schedule_is_that_of_table_1(named):
    name, cfg = named
    gpus, per_gpu, lr = (8, 12, 3.75e-4) if name in HEAVY else (6, 19, 5e-4)
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=lr, weight_decay=0))
    assert cfg.train_dataloader.batch_size == per_gpu
    assert cfg.auto_scale_lr.base_batch_size == gpus * per_gpu
    data = cfg.train_dataloader.dataset
    assert data.type == 'RepeatDataset'
    assert cfg.train_cfg.max_epochs * data.times == 140
    (decay,) = cfg.param_scheduler  # and so no warm-up
    assert decay.type == 'MultiStepLR' and decay.get('gamma', 0.1) == 0.1 and decay.by_epoch
    assert [milestone * data.times for milestone in decay.milestones] == [90, 120]
    assert decay.end == cfg.train_cfg.max_epochs


def test_data_and_head_are_the_stock_ones(named):
    _, cfg = named
    sizes = [step.get('crop_size', step.get('scale')) for step in cfg.train_dataloader.dataset.dataset.pipeline]
    assert [size for size in sizes if size] == [(512, 512), (512, 512)]
    assert cfg.model.bbox_head.num_classes == 80
    assert cfg.val_evaluator.ann_file == 'data/coco/annotations/instances_val2017.json'


def test_the_necks_have_three_deformable_up_convolutions(named):
    name, cfg = named
    assert cfg.model.neck.in_channels == WIDTHS[name]
    assert cfg.model.neck.num_deconv_filters == (256, 128, 64)
    assert cfg.model.neck.use_dcn


def test_only_the_searched_networks_need_the_package_and_none_searches(named):
    name, cfg = named
    hooks = [hook.type for hook in cfg.get('custom_hooks', [])]
    if 'odbb' in name:
        folder = f'work_dirs/{name.removeprefix("centernet_")}_imagenet'
        assert cfg.custom_imports.imports == ['repnas_mm'] and hooks == ['FuseHook']
        assert cfg.model.backbone.genotype == f'{folder}/genotype.json'
        assert cfg.model.backbone.init_cfg.checkpoint == f'{folder}/subnet.pth'
        assert (CONFIGS / f'{Path(folder).name}.py').exists()
    else:
        assert 'custom_imports' not in cfg and not hooks
        assert cfg.model.backbone.init_cfg.checkpoint == f'torchvision://{name.removeprefix("centernet_")}'
    # a fixed network has no unused parameters to look for
    assert not cfg.get('find_unused_parameters')


def predict(model) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(batch_input_shape=(64, 64), img_shape=(64, 64), border=(0, 64, 0, 64)))
    with torch.no_grad():
        (found,) = model.eval().predict(torch.randn(1, 3, 64, 64), [sample])
    return found


@pytest.mark.parametrize('arch', ['a0', 'b3'])
def test_searched_networks_start_from_the_searchs_work_dir(arch, tmp_path):
    """As configs/odbb_*_imagenet.py leaves it, from a network sixteen times narrower."""
    cfg = Config.fromfile(CONFIGS / f'centernet_odbb_{arch}.py')
    cfg.model.backbone.base_channels = 4
    cfg.model.neck.in_channels = WIDTHS[f'centernet_odbb_{arch}'] // 16
    genotype, backbone = left_by_a_search(arch.upper(), tmp_path)
    cfg.model.backbone.update(genotype=str(tmp_path / 'genotype.json'))
    cfg.model.backbone.init_cfg.update(checkpoint=str(tmp_path / 'subnet.pth'))

    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert dict(Genotype.from_model(model)) == dict(genotype)
    state = model.backbone.state_dict()
    assert state.keys() == backbone.keys()
    assert all(torch.equal(value, backbone[name]) for name, value in state.items())
    assert len(predict(model).pred_instances) == 100
    for block in find_blocks(model).values():
        block.switch_to_deploy()
    assert len(predict(model).pred_instances) == 100


def left_by_a_search(arch: str, folder: Path) -> tuple[Genotype, dict]:
    """Write genotype.json and subnet.pth of a random genotype; returns it and the backbone's state dict."""
    supernet = torch.nn.Module()
    supernet.backbone = ODBBBackbone(arch, base_channels=4, share_weights=True)
    # a preset is unshared, what a search finds is as shared as its supernet
    genotype = Genotype(dict(Genotype.from_preset('random', supernet, num_branches=66, seed=0)))
    genotype.dump(folder / 'genotype.json')
    genotype.apply_to(supernet)
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    cfg = Config(dict(model=dict(backbone=dict(type='ODBBBackbone', arch=arch, base_channels=4))))
    save_subnet(supernet, folder / 'subnet.pth', cfg, genotype)
    return genotype, supernet.backbone.state_dict()


def test_the_resnet_rows_build_and_predict():
    init_default_scope('mmdet')
    for name in ('centernet_resnet18', 'centernet_resnet101'):
        cfg = Config.fromfile(CONFIGS / f'{name}.py')
        # narrower: the stock network is not ours to test, its width at the neck is
        cfg.model.backbone.base_channels = 8
        cfg.model.neck.in_channels = WIDTHS[name] // 8
        assert len(predict(MODELS.build(cfg.model)).pred_instances) == 100


@pytest.mark.parametrize(
    ('backbone', 'what'),
    [
        (dict(arch='A1'), 'of another arch'),
        (dict(arch='B3'), 'belongs to another network'),
        (dict(base_channels=8), 'of another arch'),
        (dict(genotype='plain'), 'build the model with the genotype and share_weights of the checkpoint'),
    ],
)
def test_a_search_of_another_network_is_refused(backbone, what, tmp_path):
    left_by_a_search('A0', tmp_path)
    cfg = Config.fromfile(CONFIGS / 'centernet_odbb_a0.py')
    cfg.model.backbone.update(dict(base_channels=4, genotype=str(tmp_path / 'genotype.json')) | backbone)
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'subnet.pth')
    init_default_scope('mmdet')
    with pytest.raises(ValueError, match=what):
        MODELS.build(cfg.model).init_weights()


def test_without_a_search_the_missing_file_is_named():
    cfg = Config.fromfile(CONFIGS / 'centernet_odbb_b3.py')
    init_default_scope('mmdet')
    with pytest.raises(FileNotFoundError, match=r"work_dirs/odbb_b3_imagenet/genotype\.json' cannot be read"):
        MODELS.build(cfg.model)
