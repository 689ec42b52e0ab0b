"""Stock configs of each package with small data: the model, the loops and the metric stay as they are."""

from pathlib import Path

from data import NUM_CLASSES, SIZE
from mmengine.config import Config
from mmengine.hub import get_config

TRAIN, VAL = 'train2017', 'val2017'
#: The fewest with which a search by `Shrink` and a frozen phase fit
ITERATIONS = 4


def stock_config(name: str, data: Path, work_dir: Path) -> Config:
    """Read the stock config ``name`` (``mmseg::...``) and cut it to a few iterations and a validation with ``data``."""
    cfg = get_config(name)
    task = _TASKS[_task(name, cfg)]
    train, val, evaluator = task(cfg, data)
    by_epoch = cfg.train_cfg.get('type', 'EpochBasedTrainLoop') == 'EpochBasedTrainLoop'
    collate = cfg.train_dataloader.get('collate_fn')
    cfg.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True),
        dataset=dict(train, indices=2) if by_epoch else train,
        **(dict(collate_fn=collate) if collate else {}),
    )
    cfg.val_dataloader = cfg.test_dataloader = dict(
        batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=val
    )
    cfg.val_evaluator = cfg.test_evaluator = evaluator
    cfg.val_cfg, cfg.test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
    cfg.train_cfg = (
        dict(by_epoch=True, max_epochs=ITERATIONS, val_interval=ITERATIONS)
        if by_epoch
        else dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
    )
    cfg.param_scheduler = None
    cfg.optim_wrapper.optimizer.lr = 1e-4  # so that nothing diverges without its warm-up
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=ITERATIONS, by_epoch=by_epoch)
    for name in ('visualization', 'param_scheduler'):  # mmyolo's sets the rate itself, over many epochs
        cfg.default_hooks.pop(name, None)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if 'Switch' not in hook['type']]
    cfg.work_dir, cfg.randomness = str(work_dir), dict(seed=0)
    cfg.load_from, cfg.resume = None, False
    _drop_pretrained(cfg.model)
    return cfg


def _task(name: str, cfg: Config) -> str:
    package = name.partition('::')[0]
    return 'text' if package == 'mmocr' and 'det_head' in cfg.model else package


def _drop_pretrained(node) -> None:
    """There is no network to download from."""
    if isinstance(node, dict):
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node['init_cfg'] = None
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None
            if node['type'] == 'MobileNetV2TSM':
                node['pretrained2d'] = False
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        _drop_pretrained(child)


# ---- one function a task: (training data set, validation data set, evaluator) ----


def _classes(cfg, data):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=SIZE), dict(type='PackInputs')]
    train, val = (
        dict(type='CustomDataset', data_root=str(data / 'classes' / split), pipeline=pipeline) for split in (TRAIN, VAL)
    )
    return train, val, dict(type='Accuracy', topk=(1,))


def _boxes(cfg, data):
    masks = 'mask' in str(cfg.model).lower()
    load, annotations = (
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
    )
    resize = dict(type='Resize', scale=(SIZE, SIZE))
    train = _coco(cfg, data, TRAIN, [load, annotations, resize, dict(type='PackDetInputs')])
    val = _coco(cfg, data, VAL, [load, resize, annotations, dict(type='PackDetInputs')])
    return train, dict(val, test_mode=True), _coco_metric('CocoMetric', data, ['bbox', 'segm'] if masks else 'bbox')


def _yolo(cfg, data):
    load, annotations = (
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, _scope_='mmdet'),
    )
    size = 2 * SIZE  # YOLOv6 wants nine cells in every level
    resize = [
        dict(type='YOLOv5KeepRatioResize', scale=(size, size)),
        dict(type='LetterResize', scale=(size, size), allow_scale_up=False, pad_val=dict(img=114)),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param')
    pack = dict(type='mmdet.PackDetInputs', meta_keys=keys)
    train = _coco(cfg, data, TRAIN, [load, annotations, *resize, pack])
    val = _coco(cfg, data, VAL, [load, *resize, annotations, pack])
    for dataset in (train, val):
        dataset['type'] = 'YOLOv5CocoDataset'
    return train, dict(val, test_mode=True), _coco_metric('mmdet.CocoMetric', data, 'bbox')


def _coco(cfg, data, split, pipeline):
    return dict(
        type='CocoDataset',
        data_root=str(data / 'coco'),
        ann_file=f'annotations/instances_{split}.json',
        data_prefix=dict(img=split),
        metainfo=dict(classes=tuple(map(str, range(NUM_CLASSES)))),
        pipeline=pipeline,
    )


def _coco_metric(kind, data, metric):
    return dict(type=kind, ann_file=str(data / f'coco/annotations/instances_{VAL}.json'), metric=metric)


def _rotated(cfg, data):
    load = dict(type='mmdet.LoadImageFromFile')
    annotations = [
        dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
        dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    ]
    resize = dict(type='mmdet.Resize', scale=(SIZE, SIZE), keep_ratio=True)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    train, val = (
        dict(
            type='DOTADataset',
            data_root=str(data),
            ann_file=f'dota/{split}/',
            data_prefix=dict(img_path=f'dota/{split}/'),
            img_shape=(SIZE, SIZE),
            pipeline=pipeline,
        )
        for split, pipeline in (
            (TRAIN, [load, *annotations, resize, dict(type='mmdet.PackDetInputs')]),
            (VAL, [load, resize, *annotations, dict(type='mmdet.PackDetInputs', meta_keys=keys)]),
        )
    )
    return train, dict(val, test_mode=True), dict(type='DOTAMetric', metric='mAP')


def _masks(cfg, data):
    load, annotations = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
    resize = dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=False)
    cfg.model.data_preprocessor.size = (SIZE, SIZE)
    cfg.model.test_cfg = dict(mode='whole')
    classes = tuple(map(str, range(2 if cfg.model.decode_head.num_classes == 2 else 19)))
    train, val = (
        dict(
            type='BaseSegDataset',
            data_root=str(data),
            data_prefix=dict(img_path=f'coco/{split}', seg_map_path=f'masks/{split}'),
            img_suffix='.jpg',
            seg_map_suffix='.png',
            metainfo=dict(classes=classes, palette=[[i, i, i] for i, _ in enumerate(classes)]),
            pipeline=pipeline,
        )
        for split, pipeline in (
            (TRAIN, [load, annotations, resize, dict(type='PackSegInputs')]),
            (VAL, [load, resize, annotations, dict(type='PackSegInputs')]),
        )
    )
    return train, val, dict(type='IoUMetric', iou_metrics=['mIoU'])


def _joints(cfg, data):
    head = [dict(type='LoadImage'), dict(type='GetBBoxCenterScale')]
    codec = cfg.codec
    affine = dict(type='TopdownAffine', input_size=codec['input_size'])
    target, pack = dict(type='GenerateTarget', encoder=codec), dict(type='PackPoseInputs')
    train, val = (
        dict(
            type='CocoDataset',
            data_root=str(data / 'coco'),
            data_mode='topdown',
            ann_file=f'annotations/person_keypoints_{split}.json',
            data_prefix=dict(img=f'{split}/'),
            pipeline=pipeline,
        )
        for split, pipeline in ((TRAIN, [*head, affine, target, pack]), (VAL, [*head, affine, pack]))
    )
    metric = dict(type='CocoMetric', ann_file=str(data / f'coco/annotations/person_keypoints_{VAL}.json'))
    return train, dict(val, test_mode=True), metric


def _videos(cfg, data):
    clips = dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=_number_of_clips(cfg))
    pipeline = [
        dict(type='DecordInit'),
        clips,
        dict(type='DecordDecode'),
        dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=False),
        dict(type='FormatShape', input_format='NCHW'),
        dict(type='PackActionInputs'),
    ]
    train, val = (
        dict(
            type='VideoDataset',
            ann_file=str(data / f'videos/{split}.txt'),
            data_prefix=dict(video=str(data / f'videos/{split}')),
            pipeline=pipeline,
        )
        for split in (TRAIN, VAL)
    )
    if cfg.optim_wrapper.get('constructor') == 'TSMOptimWrapperConstructor':  # takes only torch's own layers
        cfg.optim_wrapper = dict(optimizer=cfg.optim_wrapper.optimizer)
    cfg.test_pipeline = [*pipeline[:1], dict(clips, test_mode=True), *pipeline[2:]]
    val.update(pipeline=cfg.test_pipeline, test_mode=True)
    return train, val, dict(type='AccMetric')


def _number_of_clips(cfg):
    """Frames that the model takes at once."""
    return cfg.model.backbone.get('num_segments') or cfg.model.cls_head.get('num_segments') or 3


def _text(cfg, data):
    load = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    annotations = dict(type='LoadOCRAnnotations', with_polygon=True, with_bbox=True, with_label=True)
    resize = dict(type='Resize', scale=(SIZE, SIZE), keep_ratio=True)
    keys = ('img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pack = dict(type='PackTextDetInputs', meta_keys=keys)
    pipelines = [load, annotations, resize, pack], [load, resize, annotations, pack]
    return *_ocr_datasets(data, 'text', *pipelines), dict(type='HmeanIOUMetric')


def _words(cfg, data):
    pipelines = (
        [step for step in pipeline if 'Aug' not in step['type'] and 'Apply' not in step['type']]
        for pipeline in (cfg.train_pipeline, cfg.test_pipeline)
    )
    return *_ocr_datasets(data, 'words', *pipelines), dict(type='CharMetric')


def _ocr_datasets(data, kind, train_pipeline, val_pipeline):
    train, val = (
        dict(
            type='OCRDataset',
            data_root=str(data),
            ann_file=f'{kind}/{split}.json',
            data_prefix=dict(img_path=''),
            pipeline=pipeline,
        )
        for split, pipeline in ((TRAIN, train_pipeline), (VAL, val_pipeline))
    )
    return train, dict(val, test_mode=True)


_TASKS = dict(
    mmpretrain=_classes,
    mmdet=_boxes,
    mmyolo=_yolo,
    mmrotate=_rotated,
    mmseg=_masks,
    mmpose=_joints,
    mmaction=_videos,
    text=_text,
    mmocr=_words,
)
