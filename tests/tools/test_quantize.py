"""tools/quantize.py: 8-bit files of classifiers and detectors, what they score, and what is refused."""

import io
import re
import sys
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from scripts import load_script

from measuring import int8
from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import build_model, load_file, save_fused, save_model
from repnas_mm.engine.fusing import fuse_model
from repnas_mm.search import find_blocks
from repnas_mm.utils.cli import set_loader_defaults

ROOT = Path(__file__).resolve().parents[2]
main = load_script('tools/quantize.py').main


def quantize(*arguments) -> str:
    """What the tool prints."""
    with redirect_stdout(io.StringIO()) as printed:
        main([*map(str, arguments)])
    return printed.getvalue()


def images_of(cfg, model, split):
    loader = cfg[f'{split}_dataloader'].copy()
    loader.dataset.pipeline = cfg.test_pipeline
    batches = [model.data_preprocessor(batch, False) for batch in Runner.build_dataloader(loader)]
    labels = [sample.gt_label for batch in batches for sample in batch['data_samples']]
    return torch.cat([batch['inputs'] for batch in batches]), torch.cat(labels)


def new_model(name, **options):
    """A config of ours, small, and its model with BN statistics of its own, fused."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    set_loader_defaults(cfg)
    cfg.merge_from_dict(options)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.model.get('data_preprocessor')})
    return cfg, model.train()


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """Folder with a fused classifier of random features, whose linear layer was fitted, and its accuracy in torch.

    The channels of its blocks differ by orders of magnitude, which in float changes nothing.
    """
    cfg, model = new_model('odbb_digits', **{'model.backbone.base_channels': 4, 'model.head.in_channels': 16})
    images, labels = images_of(cfg, model, 'train')
    with torch.no_grad():
        model(images, mode='tensor')
        save_model(model.state_dict(), (folder := tmp_path_factory.mktemp('classifier')) / 'search.pth', cfg)
        fuse_model(model.eval())
        blocks = [block.reparam for block in model.backbone.modules() if hasattr(block, 'reparam')]
        for first, second in pairwise(blocks):
            factors = torch.exp(2 * torch.randn(first.out_channels))
            first.weight *= factors.view(-1, 1, 1, 1)
            first.bias *= factors
            second.weight /= factors.view(-1, 1, 1)
        (features,) = model.extract_feat(images)
        features = torch.cat([features, torch.ones(len(features), 1)], 1)
        fitted = torch.linalg.lstsq(features, torch.eye(10)[labels] - 0.1).solution
        model.head.fc.weight.copy_(fitted[:-1].T)
        model.head.fc.bias.copy_(fitted[-1])
        images, labels = images_of(cfg, model, 'test')
        top1 = (model(images, mode='tensor').argmax(1) == labels).float().mean() * 100
    save_fused(model, folder / 'fused.pth', cfg, [])
    return folder, float(top1)


def scores(printed):
    """Float and INT8 top-1 of a report."""
    return [float(value) for value in re.search(r'\| accuracy/top1 \| (\S+) \| (\S+) \|', printed).groups()]


def test_equalizing_mends_what_uneven_channels_cost(classifier, tmp_path):
    folder, top1 = classifier
    files = folder / 'fused.py', folder / 'fused.pth', tmp_path / 'int8.onnx', '--images', 64
    found, untreated = scores(quantize(*files, '--per-tensor'))
    assert found == pytest.approx(top1, abs=0.1)
    printed = quantize(*files, '--per-tensor', '--equalize')
    found, mended = scores(printed)
    assert found == pytest.approx(top1, abs=0.3)
    assert untreated < found - 5 and abs(found - mended) < 3
    assert 'Equalized 9 pairs of layers' in printed and '| backbone.stage_' in printed


def test_a_scale_for_each_channel_or_for_each_layer(classifier, tmp_path):
    folder, _ = classifier
    cfg = Config.fromfile(folder / 'fused.py')
    model = build_model(cfg, load_file(folder / 'fused.pth'))
    batches = int8.calibration_batches(cfg, model, 40)
    assert [batch.shape for batch in batches] == [(32, 1, 16, 16), (8, 1, 16, 16)]
    int8.export_float(model, tmp_path / 'float.onnx', batches[0].shape[1:])
    for per_channel, shape in ((True, [16]), (False, [])):
        assert int8.quantize(tmp_path / 'float.onnx', tmp_path / 'int8.onnx', batches, per_channel) == []
        values = {value.name: value for value in onnx.load(tmp_path / 'int8.onnx').graph.initializer}
        weights = [value for name, value in values.items() if name.endswith('weight_quantized')]
        assert len(weights) == 10 and {value.data_type for value in weights} == {onnx.TensorProto.INT8}
        assert values['model.backbone.stage_3.2.reparam.weight_scale'].dims == shape
    rows = int8.noise(tmp_path / 'float.onnx', tmp_path / 'int8.onnx', batches[0])
    assert {row['layer'] for row in rows} == {'head.fc', *(f'{name}.reparam' for name in find_blocks(model))}
    weight = values['model.backbone.stem.reparam.weight_quantized'], values['model.backbone.stem.reparam.weight_scale']
    weight = onnx.numpy_helper.to_array(weight[0]) * onnx.numpy_helper.to_array(weight[1])
    exact = model.backbone.stem.reparam.weight.detach().numpy()
    (stem,) = (row for row in rows if row['layer'] == 'backbone.stem.reparam')
    ratio = 10 * np.log10((exact**2).sum() / ((exact - weight) ** 2).sum())
    assert stem['weights (dB)'] == pytest.approx(ratio, abs=1e-3)


def test_a_detector_detects_through_its_file_as_by_itself(tmp_path):
    write_coco_digits(tmp_path / 'data', num_train=4, num_val=2, image_size=64)
    data = {f'{split}_dataloader.dataset.data_root': str(tmp_path / 'data') for split in ('train', 'test')}
    ann_file = {'test_evaluator.ann_file': str(tmp_path / 'data/annotations/instances_val2017.json')}
    size = {'model.backbone.base_channels': 4, 'model.neck.in_channels': 16}
    cfg, model = new_model('centernet_odbb_digits', **data, **ann_file, **size)
    batch = next(iter(Runner.build_dataloader(cfg.test_dataloader)))
    with torch.no_grad():
        model(model.data_preprocessor(batch, False)['inputs'], mode='tensor')
        fuse_model(model.eval())
        for head in model.bbox_head.children():
            if isinstance(head, torch.nn.Sequential):
                head[-1].weight *= 1e-2  # else all scores are 1
    paths = {name: tmp_path / f'{name}.onnx' for name in ('float', 'INT8')}
    batches = int8.calibration_batches(cfg, model, 2)
    int8.export_float(model, paths['float'], batches[0].shape[1:])
    assert int8.quantize(paths['float'], paths['INT8'], batches) == []
    assert 'coco/bbox_mAP' in int8.metrics(cfg, {'INT8': int8.through_onnx(model, paths['INT8'])})['INT8']
    through_file = int8.through_onnx(model, paths['float'])
    for expected, found in zip(model.test_step(batch), through_file.test_step(batch)):
        assert torch.allclose(expected.pred_instances.bboxes, found.pred_instances.bboxes, atol=1e-2)
        assert torch.allclose(expected.pred_instances.scores, found.pred_instances.scores, atol=1e-4)


@pytest.mark.parametrize(
    ('checkpoint', 'options', 'message'),
    [
        ('search', {}, r"^Checkpoint '.*search.pth' is not fused: python tools/fuse.py CONFIG CHECKPOINT OUT\.$"),
        ('fused', dict(train_dataloader=None), r'^The config has no train_dataloader; calibration and test need'),
        (
            'fused',
            {'train_dataloader.dataset.indices': [], 'train_dataloader.dataset.serialize_data': False},
            r'^The train_dataloader of the config gives no images: its data set is empty\.$',
        ),
    ],
)
def test_refuses(classifier, tmp_path, checkpoint, options, message):
    folder, _ = classifier
    cfg = Config.fromfile(folder / f'{checkpoint}.py')
    cfg.merge_from_dict(options)
    cfg.dump(tmp_path / 'config.py')
    with pytest.raises(ValueError, match=message):
        quantize(tmp_path / 'config.py', folder / f'{checkpoint}.pth', tmp_path / 'int8.onnx')
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']


def test_refuses_no_images(capsys):
    with pytest.raises(SystemExit):
        main(['config.py', 'fused.pth', 'int8.onnx', '--images', '0'])
    assert '--images must be at least 1' in capsys.readouterr().err


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime', 'onnxscript'])
def test_names_the_package_that_is_missing(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'^ONNX needs {package}: pip install onnx onnxscript onnxruntime$'):
        main(['config.py', 'fused.pth', 'int8.onnx'])


def test_refuses_a_network_without_a_layer_to_quantize(tmp_path):
    class Pool(torch.nn.Module):
        def forward(self, images, mode):
            return torch.nn.functional.max_pool2d(images, 2)

    images = np.ones((2, 1, 8, 8), np.float32)
    int8.export_float(Pool(), tmp_path / 'float.onnx', images.shape[1:])
    with pytest.raises(
        ValueError, match=r'^The network has no layer that ONNX Runtime quantizes \(Conv, .*MatMul\)\.$'
    ):
        int8.quantize(tmp_path / 'float.onnx', tmp_path / 'int8.onnx', [images])
    assert not (tmp_path / 'int8.onnx').exists()
