"""The same few images of digits, annotated as each package's stock data sets are."""

import json
from pathlib import Path

import cv2
import numpy as np

from repnas_mm.datasets import write_coco_digits

SIZE = 64
SPLITS = ('train2017', 'val2017')
NUM_CLASSES, NUM_KEYPOINTS = 80, 17


def write_data(root: Path) -> None:
    """Write images into ``coco/train2017`` and ``coco/val2017``, and beside them:

    ``classes/NAME/*.jpg`` (mmpretrain), ``coco/annotations`` (mmdet, mmyolo; with keypoints mmpose), ``masks`` (mmseg),
    ``dota`` (mmrotate), ``text`` and ``words`` (mmocr), ``videos`` (mmaction).
    """
    write_coco_digits(root / 'coco', num_train=4, num_val=2, image_size=SIZE)
    for folder in ('masks', 'dota', 'words', 'videos', 'text'):
        for split in SPLITS:
            (root / folder / split).mkdir(parents=True)
    for split in SPLITS:
        path = root / 'coco/annotations' / f'instances_{split}.json'
        coco = json.loads(path.read_text())
        # as many as the stock heads have, all of which an untrained one finds
        coco['categories'] = [dict(id=i + 1, name=str(i)) for i in range(NUM_CLASSES)]
        path.write_text(json.dumps(coco))
        images = {image['id']: image['file_name'] for image in coco['images']}
        boxes = {key: [a for a in coco['annotations'] if a['image_id'] == key] for key in images}
        _write_keypoints(path.with_name(f'person_keypoints_{split}.json'), coco)
        text, words, videos = [], [], []
        for key, name in images.items():
            stem, image = Path(name).stem, cv2.imread(str(root / 'coco' / split / name))
            _write_mask(root / 'masks' / split / f'{stem}.png', boxes[key])
            (root / 'dota' / split / f'{stem}.txt').write_text(''.join(map(_dota_line, boxes[key])))
            cv2.imwrite(str(root / 'dota' / split / f'{stem}.png'), image)
            text.append(_text_of(f'coco/{split}/{name}', boxes[key]))
            words += _write_words(root, f'words/{split}/{stem}', image, boxes[key])
            videos.append(_write_video(root / 'videos' / split / f'{stem}.mp4', image))
            folder = root / 'classes' / split / str(key % 2)
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), image)
        _write_ocr(root / 'text' / f'{split}.json', 'det', text)
        _write_ocr(root / 'words' / f'{split}.json', 'recog', words)
        (root / 'videos' / f'{split}.txt').write_text('\n'.join(f'{v} {i % 2}' for i, v in enumerate(videos)))


def _write_keypoints(path: Path, coco: dict) -> None:
    """A digit is a person whose joints stand on its box's diagonal."""
    for annotation in coco['annotations']:
        x, y, w, h = annotation['bbox']
        steps = np.linspace(0, 1, NUM_KEYPOINTS)
        joints = np.stack([x + w * steps, y + h * steps, np.full(NUM_KEYPOINTS, 2)], 1)
        annotation.update(category_id=1, keypoints=joints.ravel().tolist(), num_keypoints=NUM_KEYPOINTS)
    path.write_text(json.dumps({**coco, 'categories': [dict(id=1, name='person')]}))


def _write_mask(path: Path, boxes: list[dict]) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for box in boxes:
        x, y, w, h = box['bbox']
        mask[y : y + h, x : x + w] = box['category_id'] % 2  # two classes are what all stock heads have
    cv2.imwrite(str(path), mask)


def _corners(box: dict) -> list[int]:
    x, y, w, h = box['bbox']
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _dota_line(box: dict) -> str:
    name = 'ship' if box['category_id'] % 2 else 'plane'
    return f'{" ".join(map(str, _corners(box)))} {name} 0\n'


def _text_of(path: str, boxes: list[dict]) -> dict:
    instances = [
        dict(bbox=[*b['bbox'][:2], *_corners(b)[4:6]], bbox_label=0, polygon=_corners(b), ignore=False) for b in boxes
    ]
    return dict(img_path=path, height=SIZE, width=SIZE, instances=instances)


def _write_words(root: Path, prefix: str, image: np.ndarray, boxes: list[dict]) -> list[dict]:
    words = []
    for i, box in enumerate(boxes):
        x, y, w, h = box['bbox']
        words.append(dict(img_path=f'{prefix}_{i}.png', instances=[dict(text=str(box['category_id'] - 1))]))
        cv2.imwrite(str(root / words[-1]['img_path']), image[y : y + h, x : x + w])
    return words


def _write_ocr(path: Path, task: str, items: list[dict]) -> None:
    metainfo = dict(dataset_type=f'Text{task.title()}Dataset', task_name=f'text{task}')
    if task == 'det':
        metainfo['category'] = [dict(id=0, name='text')]
    path.write_text(json.dumps(dict(metainfo=metainfo, data_list=items)))


def _write_video(path: Path, image: np.ndarray) -> str:
    """The image, moving."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (SIZE, SIZE))
    for shift in range(10):
        writer.write(np.roll(image, 4 * shift, axis=1))
    writer.release()
    return path.name
