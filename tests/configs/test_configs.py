"""The named configs, as a user starts them: two real iterations and a validation through tools/train.py."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image
from scripts import load_script

from repnas_mm.engine.checkpoint import load_file
from repnas_mm.search import Genotype, find_blocks, find_candidates

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
IMAGENET = sorted(path.stem for path in CONFIGS.glob('*_imagenet*.py'))
#: Configs with a search: what other networks inherit from them drops the hook
SEARCHES = [path for path in CONFIGS.glob('*.py') if 'RepNASHook' in str(Config.fromfile(path).get('custom_hooks'))]


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """Six images in ImageNet's layout: train and val, a thousand class folders of which two are not empty."""
    root = tmp_path_factory.mktemp('data') / 'imagenet'
    pixels = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for label in range(1000):
            folder = root / split / f'n{label:08d}'
            folder.mkdir(parents=True)
            for i in range(count // 2 if label < 2 else 0):
                image = pixels.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f'{i}.JPEG')
    return root


@pytest.fixture(scope='module')
def cifar10(tmp_path_factory):
    """Eight images in the files of CIFAR-10's python version."""
    root = tmp_path_factory.mktemp('data') / 'cifar10'
    folder = root / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0)
    for name in ('data_batch_1', 'data_batch_2', 'data_batch_3', 'data_batch_4', 'data_batch_5', 'test_batch'):
        data = pixels.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({'data': data, 'labels': [0, 1, 2, 3]}))
    labels = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': labels}))
    return root


def train(config: str, data: Path, work_dir: Path, *options: str) -> None:
    tool = load_script('tools/train.py')
    loaders = [
        f'{split}_dataloader.{key}={value}'
        for split in ('train', 'val')
        for key, value in (
            ('dataset.data_root', data),
            ('batch_size', 2),
            ('num_workers', 0),
            ('persistent_workers', False),
        )
    ]
    options = [*loaders, 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1', *options]
    tool.main([str(CONFIGS / f'{config}.py'), '--work-dir', str(work_dir), '--cfg-options', *options])


@pytest.mark.parametrize('config', IMAGENET)
def test_imagenet_configs_train_and_validate(config, imagenet, tmp_path):
    # the images are small, the networks are not: a narrower one takes the same path in a second
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    options = ['train_dataloader.dataset.pipeline.1.scale=64']
    if cfg.model.backbone.type == 'ODBBBackbone':
        channels = {'A0': 160, 'A1': 160, 'A2': 176, 'B1': 256, 'B2': 320, 'B3': 320}[cfg.model.backbone.arch]
        options += ['model.backbone.base_channels=8', f'model.head.in_channels={channels}']
        hook = cfg.custom_hooks[0]
        if hook.get('frozen'):
            options += ['custom_hooks.0.warmup=0', 'custom_hooks.0.frozen=0']
    train(config, imagenet, tmp_path, *options)
    log = next(tmp_path.glob('2*/2*.log')).read_text()
    assert 'Epoch(train) [1][2/2]' in log
    assert 'Epoch(val) [1][1/1]' in log and 'accuracy/top5' in log
    if 'RepNASHook' in [hook.type for hook in cfg.get('custom_hooks', [])]:
        assert Genotype.load(tmp_path / 'genotype.json').num_branches == cfg.custom_hooks[0].num_branches
    if cfg.model.backbone.type == 'ODBBBackbone':
        assert load_file(tmp_path / 'fused.pth')['state_dict']


def test_odbb_a0_imagenet_trains_at_full_width(imagenet, tmp_path):
    train('odbb_a0_imagenet', imagenet, tmp_path)
    fused = load_file(tmp_path / 'fused.pth')['state_dict']
    assert sum(value.numel() for value in fused.values()) == 8_309_384


@pytest.fixture(scope='module')
def fashion(tmp_path_factory):
    """Eight training and four test images in the files of Fashion-MNIST, unpacked."""
    root = tmp_path_factory.mktemp('data') / 'fashion_mnist'
    root.mkdir()
    pixels = np.random.default_rng(0)
    for split, count in (('train', 8), ('t10k', 4)):
        header = np.array([2051, count, 28, 28], dtype='>i4').tobytes()
        images = pixels.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (root / f'{split}-images-idx3-ubyte').write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8)
        (root / f'{split}-labels-idx1-ubyte').write_bytes(np.array([2049, count], '>i4').tobytes() + labels.tobytes())
    return root


@pytest.mark.parametrize('method', ['odbb', 'sample', 'unshared', 'random', 'plain', 'acb', 'dbb', 'repvgg'])
@pytest.mark.parametrize('data', ['cifar10', 'fashion'])
def test_vgg16_configs_train_and_validate(data, method, request, tmp_path, monkeypatch):
    # everything of the real loading code but the checksums of the real images
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda *_: True)
    if (data, method) == ('cifar10', 'sample'):
        pytest.skip('odbb is Algorithm 1 there')
    options = ['train_dataloader.batch_size=10', 'model.backbone.base_channels=8', 'model.head.in_channels=64']
    if data == 'fashion':
        options = ['train_dataloader.batch_size=4', 'train_dataloader.dataset.indices=8']
        options += ['custom_hooks.0.frozen=0'] if method in ('sample', 'unshared') else []
        if method == 'odbb':
            options += ['train_cfg.max_epochs=3', 'train_cfg.val_interval=1', 'custom_hooks.0.frozen=1']
    train(f'vgg16_{method}_{data}', request.getfixturevalue(data), tmp_path, *options)
    log = next(tmp_path.glob('2*/2*.log')).read_text()
    assert 'Epoch(train) [1][2/2]' in log and 'Epoch(val) [1]' in log
    assert load_file(tmp_path / 'fused.pth')['state_dict']
    if method in ('odbb', 'sample', 'unshared'):
        genotype = Genotype.load(tmp_path / 'genotype.json')
        assert genotype.num_branches == 52 and genotype.share_weights is (
            method == 'sample' or (data, method) == ('cifar10', 'odbb')
        )
    else:
        branches = dict(random=52, plain=13, acb=39, dbb=52, repvgg=35)[method]
        cfg = Config.fromfile(CONFIGS / f'vgg16_{method}_{data}.py')
        init_default_scope('mmpretrain')
        assert Genotype.from_model(MODELS.build(cfg.model)).num_branches == branches


@pytest.mark.parametrize(
    ('config', 'epochs', 'branches'),
    [
        ('odbb_a0_imagenet', 150, 66),
        ('odbb_a1_imagenet', 150, 66),
        ('odbb_a2_imagenet', 150, 66),
        ('odbb_b1_imagenet', 150, 84),
        ('odbb_b2_imagenet', 150, 84),
        ('odbb_b3_imagenet', 240, 84),
        ('odbb_a0_imagenet_authors', 150, 61),
        ('resnet18_imagenet', 150, None),
        ('resnet101_imagenet', 240, None),
        ('vgg16_odbb_cifar10', 600, 52),
        ('vgg16_dbb_cifar10', 600, None),
        ('repvgg_b3_imagenet', 240, None),
    ],
)
def test_schedules_are_those_of_table_1(config, epochs, branches):
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('SGD', 0.1, 1e-4)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler.T_max == cfg.param_scheduler.end == epochs
    assert cfg.param_scheduler.type == 'CosineAnnealingLR'
    assert cfg.auto_scale_lr.base_batch_size == (128 if 'cifar' in config else 256)
    if branches is not None:
        assert cfg.custom_hooks[0].num_branches == branches
        assert cfg.find_unused_parameters


def test_every_search_has_the_hooks_of_a_long_run():
    hooks = {path.stem: [hook.type for hook in Config.fromfile(path).get('custom_hooks', [])] for path in SEARCHES}
    assert len(hooks) > 15
    assert {*map(tuple, hooks.values())} == {('RepNASHook', 'FuseHook', 'ExactResumeHook', 'CheckFiniteHook')}


@pytest.mark.parametrize(('method', 'branches'), [('odbb', 277), ('plain', 40), ('repvgg', 117)])
def test_the_deep_network_has_forty_layers(method, branches):
    cfg = Config.fromfile(CONFIGS / f'{method}_deep_digits.py')
    init_default_scope('mmpretrain')
    blocks = find_blocks(MODELS.build(cfg.model))
    assert len(blocks) == 40 and sum(len(block.active_branches) for block in blocks.values()) == branches
    assert not any(block.share_weights for block in blocks.values())


def test_b3_keeps_repvggs_augmentation():
    cfg = Config.fromfile(CONFIGS / 'odbb_b3_imagenet.py')
    assert 'RandAugment' in [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert cfg.model.train_cfg.augments.type == 'Mixup'
    assert cfg.model.head.loss.type == 'LabelSmoothLoss'


def test_weight_decay_spares_norms_and_biases():
    from mmengine.optim import build_optim_wrapper

    cfg = Config.fromfile(CONFIGS / 'odbb_a0_imagenet.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, base_channels=8), head=None))
    names = {id(p): name for name, p in model.named_parameters()}
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decayed = {names[id(g['params'][0])] for g in wrapper.optimizer.param_groups if g['weight_decay'] > 0}
    blocks = find_blocks(model)
    kernels = {f'{name}.weight' for name in blocks}
    deltas = {f'{n}.branches.1x1_kxk.delta.weight' for n, b in blocks.items() if b.in_channels != b.out_channels}
    alphas = {f'{name}.alpha' for name in blocks}  # leave this optimizer when the run starts
    assert decayed == kernels | deltas | alphas


def test_a0_offers_149_candidates():
    cfg = Config.fromfile(CONFIGS / 'odbb_a0_imagenet.py')
    init_default_scope('mmpretrain')
    found = find_candidates(MODELS.build(dict(cfg.model.backbone, base_channels=8)))
    assert sum(len(names) for names in found.values()) == 149
