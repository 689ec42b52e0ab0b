"""The scales at which the paper's experiments can be repeated: their configs, data and lengths."""

from dataclasses import dataclass

ARCHS = ('A0', 'A1', 'A2', 'B1', 'B2', 'B3')
SEARCHES = ('table4', 'figure1', 'figures6-11')
ABLATIONS = ('figure4', 'figure5')
#: Not in the paper
BEYOND = ('deep', 'stock', 'controls', 'int8', 'int8-vgg16')


@dataclass(frozen=True)
class Scale:
    """Size of a reproduction. Its configs have its name at their end, such as ``vgg16_odbb_digits``.

    Args:
        name: As ``--preset`` takes it.
        items: What can be reproduced at this scale.
        seeds: Trainings of each network, unless the user says otherwise.
        ablation: Pattern of the configs of Figures 4 and 5; the method goes into the braces.
        algorithm1: Method of the config that searches by Algorithm 1.
        deep: Pattern of the configs of ``deep``.
        deep_short_epochs: Epochs of a random draw's training there.
        sweep: Numbers of branches of Figure 4.
        short_epochs: Epochs of a random draw's training before the best is trained in full.
        held_out: Training images that choose the best draw, at the end of the training set; the draws train on
            the ``trained_on`` images at its start.
        lengths: Epochs of the trainings whose length is compared, in ascending order.
        snapshots: Epochs of the search at which Figure 5 samples a subnet.
        image_size: Side of the images whose latency is measured, in pixels.
        base_channels: Width of the networks of Table 4, which have 64 in the paper.
        data_root: Where the configs expect the data; None for data that needs no files.
        files: What must be there.
        get_data: How the user gets them, as a sentence.
        without_data: Items that need no data at this scale.
        pretrained_on: Scale whose data the backbones of detectors are trained on first.
    """

    name: str
    items: tuple[str, ...]
    seeds: int
    image_size: int
    base_channels: int = 64
    ablation: str = ''
    algorithm1: str = 'sample'
    deep: str = ''
    deep_short_epochs: int = 0
    sweep: tuple[int, ...] = ()
    short_epochs: int = 0
    trained_on: int = 0
    held_out: int = 0
    lengths: tuple[int, ...] = ()
    snapshots: tuple[int, ...] = ()
    data_root: str | None = None
    files: tuple[str, ...] = ()
    get_data: str = ''
    without_data: tuple[str, ...] = ()
    pretrained_on: str = ''

    def check(self, item: str) -> None:
        """Raise ValueError if this scale does not have ``item``."""
        if item not in self.items:
            having = ', '.join(name for name, scale in SCALES.items() if item in scale.items)
            raise ValueError(f"Scale '{self.name}' has no {item}; scales that have it: {having}.")


_IDX = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            'digits',
            items=('table2', 'table3', 'table5', *SEARCHES, *ABLATIONS, *BEYOND),
            seeds=1,
            image_size=32,
            base_channels=8,
            ablation='vgg16_{}_digits',
            deep='{}_deep_digits',
            deep_short_epochs=5,
            sweep=(20, 26, 39, 52, 58),
            short_epochs=2,
            trained_on=1150,
            held_out=287,
            snapshots=(8, 16),
        ),
        Scale(
            'fashion',
            items=('table2', 'table3', *SEARCHES, *ABLATIONS, 'schedule', *BEYOND),
            seeds=3,
            image_size=32,
            base_channels=8,
            ablation='vgg16_{}_fashion',
            deep='{}_deep_fashion',
            deep_short_epochs=1,
            sweep=(20, 39, 52, 58),
            short_epochs=1,
            trained_on=16000,
            held_out=10000,
            lengths=(7, 21),
            snapshots=(2, 4, 6),
            data_root='data/fashion_mnist',
            files=_IDX,
            get_data='install the Debian package dataset-fashion-mnist and give --data-root '
            '/usr/share/datasets/fashion-mnist, or download the four .gz files of Fashion-MNIST to there',
        ),
        Scale(
            'cifar10',
            items=('table3', *ABLATIONS),
            seeds=1,
            image_size=32,
            ablation='vgg16_{}_cifar10',
            algorithm1='odbb',
            sweep=(20, 26, 39, 52, 65, 87),
            short_epochs=100,
            trained_on=45000,
            held_out=5000,
            snapshots=tuple(range(5, 601, 5)),
            data_root='data/cifar10',
            files=('cifar-10-batches-py/data_batch_1', 'cifar-10-batches-py/test_batch'),
            get_data='download cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it '
            'to there',
        ),
        Scale(
            'imagenet',
            items=('table2', *SEARCHES, *ABLATIONS),
            seeds=1,
            image_size=224,
            ablation='{}_a0_imagenet',
            algorithm1='odbb',
            sweep=(30, 50, 66, 75, 88, 110),
            snapshots=tuple(range(5, 151, 5)),
            data_root='data/imagenet',
            files=('train', 'val'),
            get_data='download ImageNet-1k (ILSVRC 2012) and put its folders train and val to there',
            without_data=('table2',),
        ),
        Scale(
            'coco',
            items=('table5',),
            seeds=1,
            image_size=512,
            data_root='data/coco',
            files=(
                'annotations/instances_train2017.json',
                'annotations/instances_val2017.json',
                'train2017',
                'val2017',
            ),
            get_data='download COCO 2017 from https://cocodataset.org and unpack it to there',
            pretrained_on='imagenet',
        ),
    )
}
