"""Table 5: backbones from classification become detectors, each with its own data, and their AP is in the table."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from measuring import timing
from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine.checkpoint import save_subnet
from repnas_mm.search import Genotype, find_blocks
from reproduction import SCALES, Lab
from reproduction.data import find_data
from reproduction.items import table5
from reproduction.paper import TABLE5
from reproduction.shared_trainings import arch_network
from reproduction.training import Result

from pretended import CONFIGS, HereLab, check_options  # isort: skip

COLUMNS = ['seeds', 'AP (%)', 'seconds an image', 'paper, COCO: AP (%)', 'paper: seconds']


class StubLab(Lab):
    """Trains nothing; a classification leaves a model's initial weights, or a file of no use for a big one."""

    def __init__(self, folder, data_root=None, weights=True):
        super().__init__(folder, CONFIGS, data_root=data_root, log=lambda line: None)
        self.weights, self.asked = weights, {}

    def run(self, trainings):
        results = {}
        for training in trainings:
            self.asked[training.name] = training, self.data_root
            folder = self.folder / training.name
            folder.mkdir(parents=True, exist_ok=True)
            if not training.config.startswith('centernet'):
                self.leave(training.load_config(CONFIGS), folder)
            results[training] = Result(folder, {table5.AP: 0.5 if 'odbb' in training.config else 0.25}, {})
        return results

    def leave(self, cfg, folder):
        searched = cfg.model.backbone.type.endswith('ODBBBackbone')
        (folder / 'last_checkpoint').write_text('/where/it/was/trained/epoch_9.pth')
        if not self.weights:
            (folder / ('genotype.json' if searched else 'epoch_9.pth')).touch()
            return
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg.model)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        if searched:
            Genotype.from_preset('random', model, num_branches=24, seed=0).apply_to(model)
            genotype = Genotype.from_model(model)  # as shared as the supernet
            genotype.dump(folder / 'genotype.json')
            save_subnet(model, folder / 'subnet.pth', cfg, genotype)
        else:
            torch.save(dict(state_dict=model.state_dict()), folder / 'epoch_9.pth')


@pytest.fixture
def no_latency(monkeypatch):
    monkeypatch.setattr(table5, 'latencies', lambda models, *args, **kwargs: dict.fromkeys(models, 0.125))


def test_coco_starts_from_the_classifications_of_table_4(tmp_path, no_latency, monkeypatch):
    taken_over = []
    monkeypatch.setattr(table5, 'count_taken_over', lambda cfg, checkpoint: taken_over.append(checkpoint))
    monkeypatch.setattr(table5, 'fused_detector', lambda cfg: None)
    lab = StubLab(tmp_path, '/coco', weights=False)
    report = table5.make(lab, SCALES['coco'], [0, 1])
    imagenet = SCALES['imagenet']
    names = {'ResNet-18': 'resnet18', 'ODBB-A0': 'odbb_a0', 'ResNet-101': 'resnet101', 'ODBB-B3': 'odbb_b3'}
    assert set(lab.asked) == {
        name for n in names.values() for s in (0, 1) for name in (f'{n}_imagenet-seed{s}', f'centernet_{n}-seed{s}')
    }
    for training, data_root in lab.asked.values():
        check_options(training)
        assert data_root == ('/coco' if training.config.startswith('centernet') else None)
    for arch in ('A0', 'B3'):
        shared = arch_network(imagenet, 'odbb', arch, 1)
        assert lab.asked[shared.name][0] == shared
    for name in names.values():
        backbone = lab.asked[f'centernet_{name}-seed1'][0].load_config(CONFIGS).model.backbone
        folder = tmp_path / f'{name}_imagenet-seed1'
        checkpoint = folder / ('subnet.pth' if 'odbb' in name else 'epoch_9.pth')
        assert backbone.init_cfg == dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
        assert backbone.get('genotype') == (str(folder / 'genotype.json') if 'odbb' in name else None)
        assert str(checkpoint) in taken_over
    assert [row['backbone'] for row in report.rows] == list(names)
    assert list(report.rows[0]) == ['backbone', *COLUMNS]
    assert report.rows[1]['AP (%)'].values == (50.0, 50.0)
    for row in report.rows:
        assert (row['paper, COCO: AP (%)'], row['paper: seconds']) == TABLE5[row['backbone']]
    assert set(report.figures) == {''}


def test_digits_detectors_take_over_all_of_their_backbones(tmp_path, no_latency, monkeypatch):
    counts, models = {}, {}
    count, fused = table5.count_taken_over, table5.fused_detector

    def counted(cfg, checkpoint):
        counts[Path(checkpoint).parent.name] = count(cfg, checkpoint)

    def built(cfg):
        models[cfg.model.backbone.type, cfg.model.neck.in_channels] = model = fused(cfg)
        return model

    monkeypatch.setattr(table5, 'count_taken_over', counted)
    monkeypatch.setattr(table5, 'fused_detector', built)
    lab = StubLab(tmp_path, str(tmp_path))
    report = table5.make(lab, SCALES['digits'], range(3))
    tags = ['heavy-ODBB', 'heavy-ResNet', 'light-ODBB', 'light-ResNet']  # the longest first
    assert [f'odbb_digits-{tag}-seed0' for tag in tags] == list(counts) == list(lab.asked)[:4]
    # 9 convolutions and a skip's, each with the five tensors of a BN
    assert counts['odbb_digits-heavy-ResNet-seed0'] == counts['odbb_digits-light-ResNet-seed0'] == 10 * 6
    for training, data_root in lab.asked.values():
        check_options(training)
        cfg = training.load_config(CONFIGS)
        assert training.load_config(CONFIGS).to_dict() == cfg.to_dict()
        searches = ['RepNASHook', 'FuseHook', 'ExactResumeHook', 'CheckFiniteHook']
        searches = searches if training.config == 'odbb_digits' else ['FuseHook']
        assert [hook.type for hook in cfg.custom_hooks] == (searches if 'ODBB' in training.name else [])
        if training.config == 'odbb_digits':
            assert data_root is None and cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
        else:
            assert data_root == str(tmp_path)
            assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == table5.EPOCHS
    assert [row['in the place of'] for row in report.rows] == list(TABLE5)
    assert list(report.rows[0]) == ['backbone', 'in the place of', *COLUMNS]
    assert all(row['seeds'] == 1 for row in report.rows) and 'One seed only' in report.notes[-1]
    for (kind, channels), model in models.items():
        (features,) = model.backbone(torch.zeros(1, 3, 128, 128))
        assert features.shape == (1, channels, 16, 16)
        blocks = find_blocks(model).values()
        assert all(block.deploy for block in blocks) and bool(blocks) == ('ODBB' in kind)
    assert len(models) == 4


def test_a_backbone_that_does_not_fit_is_noticed(tmp_path):
    lab = StubLab(tmp_path, str(tmp_path))
    light, _, heavy, _ = table5.digits_rows()
    training = light.classification_training(CONFIGS, 0)
    (result,) = lab.run([training]).values()
    cfg = heavy.detector_training(0, result.folder).load_config(CONFIGS)
    with pytest.raises(ValueError, match=r"^'backbone\.[^']*' of the detector did not come from '.*epoch_9\.pth'\.$"):
        table5.count_taken_over(cfg, cfg.model.backbone.init_cfg.checkpoint)


def test_coco_without_imagenet_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scale = SCALES['coco']
    for name in scale.files:
        (tmp_path / 'coco' / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"^Scale 'coco' needs 'data/imagenet/train' too, [^.]*\.$"):
        find_data(scale, 'coco', tmp_path / 'unpacked')
    for name in SCALES['imagenet'].files:
        (tmp_path / 'data' / 'imagenet' / name).mkdir(parents=True)
    assert find_data(scale, 'coco', tmp_path / 'unpacked') == 'coco'


def test_without_mmdet_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(table5, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='for which mmdet is missing: pip install'):
        table5.make(StubLab(tmp_path), SCALES['digits'], [0])


def test_digits_run(tmp_path, monkeypatch):
    """Real trainings of the narrowest pair, to the files."""
    configs = tmp_path / 'configs'
    configs.mkdir()
    for name, text in (
        (
            'odbb_digits',
            """train_dataloader = dict(dataset=dict(indices=64))
val_dataloader = dict(dataset=dict(indices=20))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
custom_hooks = [dict(type='RepNASHook', strategy='sample', num_branches=24), dict(type='FuseHook')]
""",
        ),
        ('centernet_odbb_digits', 'train_dataloader = dict(batch_size=4)'),
        ('centernet_resnet18_digits', 'train_dataloader = dict(batch_size=4)'),
    ):
        (configs / f'{name}.py').write_text(f"_base_ = '{CONFIGS / name}.py'\n{text}")
    rows = (table5._resnet('ResNet-18', 'tiny ResNet', 16), table5._odbb('ODBB-A0', 'tiny ODBB', 16))
    monkeypatch.setattr(table5, 'digits_rows', lambda: rows)
    monkeypatch.setattr(timing, 'SECONDS', 0.0)
    write_coco_digits(tmp_path / 'coco', num_train=8, num_val=4, image_size=64)
    lab = HereLab(tmp_path / 'lab', configs, data_root=str(tmp_path / 'coco'), log=lambda line: None)
    report = table5.make(lab, SCALES['digits'], [0])
    page = report.write(tmp_path / 'out', 'command').read_text()
    assert '| tiny ResNet | ResNet-18 | 1 | ' in page and (tmp_path / 'out' / 'table5.png').exists()
    assert all(0 <= row['AP (%)'].mean <= 100 and row['seconds an image'] > 0 for row in report.rows)
    assert (tmp_path / 'lab' / 'centernet_odbb_digits-tiny-ODBB-seed0' / 'fused.pth').exists()
    # again, from what is there
    assert [row['AP (%)'] for row in table5.make(lab, SCALES['digits'], [0]).rows] == [
        row['AP (%)'] for row in report.rows
    ]
