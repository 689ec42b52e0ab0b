"""From a search on classification to a fused detector, on embedded data, about 20 minutes on two CPU cores.

Searches on the digit scans, trains CenterNet on the embedded COCO from the subnet that was found, fuses it and tests
it unfused and fused. `--compare` also trains, on the detector's schedule from scratch, the hand-made `plain` and
`repvgg` networks and a search on the detection task itself (another half an hour). `--seeds 3` trains all of that three
times, and prints means. What has finished is not run again.
"""

import argparse
import json
from pathlib import Path

import mmcv
from mmdet.apis import inference_detector, init_detector
from mmdet.datasets.api_wrappers import COCO
from mmengine.config import Config, DictAction
from mmengine.runner import Runner, find_latest_checkpoint

from boxes import plot_boxes
from repnas_mm.datasets import write_coco_digits
from repnas_mm.engine import SafeLoadHook
from repnas_mm.utils import atomic_write
from runs import CONFIGS, load_config, train

# isort: split
from measuring.reports import Mean
from reproduction.data import place_data
from reproduction.transfer import backbone_from, classification_options, count_taken_over

SEARCH, DETECTOR = 'odbb_digits', 'centernet_odbb_digits'
TRANSFERRED = 'searched on classification, transferred'


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo_detection'))
    parser.add_argument('--data', type=Path, default=Path('data/coco_digits'), help='made if it does not exist')
    parser.add_argument('--compare', action='store_true', help='also train plain, repvgg and a search from scratch')
    parser.add_argument('--seeds', type=int, default=1, metavar='N', help='train everything with the seeds 0 to N - 1')
    for task in ('search', 'detector'):
        parser.add_argument(
            f'--{task}-options',
            nargs='+',
            action=DictAction,
            metavar='KEY=VALUE',
            help=f'settings of the {task} config',
        )
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error('--seeds must be at least 1')
    return args


def detector_config(args: argparse.Namespace, seed: int, **backbone) -> Config:
    """configs/centernet_odbb_digits.py; given arguments of the backbone, it trains that network without a search."""
    cfg = load_config(CONFIGS / f'{DETECTOR}.py')
    cfg.randomness.seed = seed
    place_data(cfg, str(args.data))
    if args.detector_options:
        cfg.merge_from_dict(args.detector_options)
    if backbone:
        cfg.model.backbone.update(backbone)
        cfg.custom_hooks = [dict(type='FuseHook')]
        cfg.find_unused_parameters = False
    return cfg


def search_config(args: argparse.Namespace, seed: int) -> Config:
    """configs/odbb_digits.py with the detector's backbone and its normalization, on color images of 32 pixels."""
    cfg = load_config(CONFIGS / f'{SEARCH}.py')
    cfg.randomness.seed = seed
    cfg.merge_from_dict(classification_options(detector_config(args, seed)))
    if args.search_options:
        cfg.merge_from_dict(args.search_options)
    return cfg


def train_once(cfg: Config, folder: Path) -> None:
    """Train into ``folder``: from its last checkpoint if it was interrupted, and not at all if it is done."""
    if (folder / 'fused.pth').exists():
        print(f'{folder} is done already', flush=True)
        return
    cfg.resume = True
    train(cfg, folder)


def average_precision(config: Path, checkpoint: Path, folder: Path) -> float:
    """Test a checkpoint as it is; returns its box AP."""
    cfg = Config.fromfile(config)
    cfg.custom_hooks, cfg.load_from, cfg.resume, cfg.work_dir = [], str(checkpoint), False, str(folder)
    cfg.experiment_name = f'{folder.name}_{checkpoint.stem}'
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SafeLoadHook())
    return runner.test()['coco/bbox_mAP']


def evaluate(folder: Path) -> dict[str, float]:
    """Test the detector that a training left in ``folder``, unfused and fused; returns the box AP of both."""
    result = folder / 'ap.json'
    if not result.exists():
        unfused = folder / 'subnet.py', folder / 'subnet.pth'
        if not unfused[1].exists():  # trained without a search
            unfused = folder / f'{DETECTOR}.py', Path(find_latest_checkpoint(str(folder)))
        ap = dict(
            unfused=average_precision(*unfused, folder / 'test'),
            fused=average_precision(folder / 'fused.py', folder / 'fused.pth', folder / 'test'),
        )
        with atomic_write(result) as f:
            f.write(json.dumps(ap).encode())
    return json.loads(result.read_text())


def draw(folder: Path, data: Path, out: Path, count: int = 5, threshold: float = 0.3) -> None:
    """Draw the first validation images with their annotations (above) and the fused detector's detections (below)."""
    detector = init_detector(str(folder / 'fused.py'), str(folder / 'fused.pth'), device='cpu')
    names = detector.dataset_meta['classes']
    coco = COCO(str(data / 'annotations' / 'instances_val2017.json'))
    images, annotated, detected = [], [], []
    for info in coco.load_imgs(coco.get_img_ids()[:count]):
        path = data / 'val2017' / info['file_name']
        images.append(mmcv.imread(path, channel_order='rgb'))
        boxes = [(a['bbox'], coco.cats[a['category_id']]['name']) for a in coco.imgToAnns[info['id']]]
        annotated.append([((x, y, x + w, y + h), name) for (x, y, w, h), name in boxes])
        found = inference_detector(detector, str(path)).pred_instances
        found = found[found.scores > threshold]
        labels = (f'{names[label]} {score:.2f}' for label, score in zip(found.labels, found.scores))
        detected.append(list(zip(found.bboxes.tolist(), labels)))
    figure = plot_boxes(images, {'annotations': annotated, 'fused detector': detected})
    with atomic_write(out) as f:
        figure.savefig(f, format='png')


def train_detectors(args: argparse.Namespace, seed: int) -> dict[str, Path]:
    """Train all that is asked for with one seed; returns row of the table -> folder of the detector."""
    root = args.work_dir / f'seed{seed}'
    search, transfer = root / 'search', root / 'transfer'
    print(f'[seed {seed}] search on classification', flush=True)
    train_once(search_config(args, seed), search)
    print(f'[seed {seed}] detector from the subnet found', flush=True)
    cfg = detector_config(args, seed, **backbone_from(search))
    tensors = count_taken_over(cfg, search / 'subnet.pth')
    print(f'all {tensors} tensors of the backbone come from {search / "subnet.pth"}', flush=True)
    train_once(cfg, transfer)
    rows = {TRANSFERRED: transfer}
    if args.compare:
        for name, title, backbone in (
            ('search_on_detection', 'searched on detection', {}),
            ('plain', 'plain', dict(genotype='plain')),
            ('repvgg', 'repvgg', dict(genotype='repvgg')),
        ):
            print(f'[seed {seed}] {title}, from scratch', flush=True)
            train_once(detector_config(args, seed, **backbone), root / name)
            rows[f'{title}, from scratch'] = root / name
    return rows


def main(argv=None) -> None:
    args = parse_args(argv)
    if not args.data.exists():
        write_coco_digits(args.data)
    seeds = [train_detectors(args, seed) for seed in range(args.seeds)]
    results = {title: [evaluate(folders[title]) for folders in seeds] for title in seeds[0]}
    picture = args.work_dir / 'detections.png'
    draw(seeds[0][TRANSFERRED], args.data, picture)
    print(f'\n{"backbone":<42}{"AP unfused (%)":>16}{"AP fused (%)":>16}')
    for title, aps in results.items():
        unfused, fused = (str(Mean(tuple(100 * ap[form] for ap in aps))) for form in ('unfused', 'fused'))
        print(f'{title:<42}{unfused:>16}{fused:>16}')
    print(f'\npicture of the detections: {picture}')


if __name__ == '__main__':
    main()
