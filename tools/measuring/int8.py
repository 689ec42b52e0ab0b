"""A network in 8 bits by ONNX Runtime: quantized with training images, tested, and compared with its float form."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from repnas_mm.checks import explain_errors
from repnas_mm.engine.deployment import export_onnx, onnx_session
from repnas_mm.engine.training_batches import batches_of
from repnas_mm.utils.cli import set_loader_defaults
from repnas_mm.utils.fileio import atomic_write

from .timing import medians

#: Operators whose weights are quantized
LAYERS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')


def calibration_batches(cfg: Config, model: nn.Module, count: int, batch_size: int = 32) -> list[np.ndarray]:
    """Normalized training images, chosen by seed 0, as the test pipeline prepares images.

    Raises:
        ValueError: if there are none, or if they have several shapes.
    """
    loader = _loader(cfg, 'train')
    indices = list(DefaultSampler(loader.dataset, shuffle=True, seed=0))[:count]
    batches = [model.data_preprocessor(b, False)['inputs'].numpy() for b in batches_of(loader, indices, batch_size)]
    shapes = sorted({batch.shape[1:] for batch in batches})
    if len(shapes) > 1:
        raise ValueError(
            f'Images must have one shape for an ONNX file, the test pipeline gives {shapes[0]}, {shapes[1]}.'
        )
    return batches


def _loader(cfg: Config, split: str):
    """Training or test images, both through the test pipeline."""
    cfg = deepcopy(cfg)
    set_loader_defaults(cfg)
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        raise ValueError(f"The config has no {split}_dataloader; calibration and test need the config's images.")
    _innermost(loader.dataset).pipeline = _innermost(cfg.test_dataloader.dataset).pipeline
    with explain_errors(f'The {split}_dataloader of the config gives no images'):
        loader = Runner.build_dataloader(loader)
        if not len(loader.dataset):
            raise ValueError('its data set is empty')
    return loader


def _innermost(dataset: dict) -> dict:
    while 'dataset' in dataset:  # RepeatDataset and the like
        dataset = dataset['dataset']
    return dataset


class Reader:
    """Batches as ONNX Runtime's calibration takes them."""

    def __init__(self, batches: Sequence[np.ndarray]):
        self._inputs = ({'images': batch} for batch in batches)

    def get_next(self) -> dict | None:
        """The next batch, or None after the last."""
        return next(self._inputs, None)

    def __iter__(self):
        return self._inputs


def export_float(model: nn.Module, path: Path, shape: tuple[int, int, int]) -> None:
    """Write the network as `export_onnx` does, with norms folded into the convolutions before them."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    export_onnx(model, path, shape)
    quant_pre_process(str(path), str(path), skip_symbolic_shape=True)


def quantize(float_path: Path, out: Path, batches: Sequence[np.ndarray], per_channel: bool = True) -> list[str]:
    """Write ``float_path`` in 8 bits (QDQ), with the activations' ranges in ``batches``.

    Returns:
        Names of the layers that stay in float.

    Raises:
        ValueError: if all do.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    with TemporaryDirectory() as folder:
        path = Path(folder) / 'int8.onnx'
        with explain_errors(f"ONNX Runtime cannot quantize '{out.name}'"):
            quantize_static(
                str(float_path),
                str(path),
                Reader(batches),
                per_channel=per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        layers = _layers(onnx.load(path).graph)
        in_float = [layer.name for layer, inputs in layers if not all(name.endswith(_QUANTIZED) for name in inputs)]
        if len(in_float) == len(layers):
            raise ValueError(f'The network has no layer that ONNX Runtime quantizes ({", ".join(LAYERS)}).')
        with atomic_write(out) as f:
            f.write(path.read_bytes())
    return in_float


_QUANTIZED = '_DequantizeLinear_Output'


def _layers(graph) -> list[tuple]:
    return [(node, list(node.input)[:2]) for node in graph.node if node.op_type in LAYERS]


def noise(float_path: Path, int8_path: Path, images: np.ndarray) -> list[dict]:
    """Signal-to-noise ratios of each quantized layer in dB, the noisiest layer first.

    Of its weights and its output, each by itself, and of the output with all that came before in 8 bits too.
    """
    import onnx
    from onnxruntime.quantization import qdq_loss_debug as debug

    found = []
    with TemporaryDirectory() as folder:
        for path in (float_path, int8_path):
            augmented = Path(folder) / path.name
            debug.modify_model_output_intermediate_tensors(str(path), str(augmented))
            found.append(debug.collect_activations(str(augmented), Reader([images])))
    ratio = debug.compute_signal_to_quantization_noice_ratio

    def rounding_alone(exact, rounded):
        # what a ReLU cuts off, which is part of the rounding in the file, is not noise
        low, high = min(map(np.min, rounded)), max(map(np.max, rounded))
        return ratio([np.clip(x, low, high) for x in exact], rounded)

    matching = debug.create_activation_matching(found[1], found[0])
    accumulated, own = (debug.compute_activation_error(matching, of) for of in (ratio, rounding_alone))
    weights = debug.compute_weight_error(debug.create_weight_matching(str(float_path), str(int8_path)))
    rows = []
    for layer, (_, weight) in _layers(onnx.load(int8_path).graph):
        weight, output = weight.removesuffix(_QUANTIZED), layer.output[0].removesuffix('_QuantizeLinear_Input')
        if weight in weights and output in own:
            rows.append(
                {
                    'layer': weight.removeprefix('model.').removesuffix('.weight'),
                    'weights (dB)': weights[weight],
                    'output (dB)': own[output]['qdq_err'],
                    'output, accumulated (dB)': accumulated[output]['xmodel_err'],
                }
            )
    return sorted(rows, key=lambda row: min(row['weights (dB)'], row['output (dB)']))


def latency(paths: Mapping[str, Path], images: np.ndarray) -> dict[str, float]:
    """Name -> median milliseconds for ``images``, measured side by side."""

    def run(path):
        session = onnx_session(path)
        return lambda: session.run(None, {'images': images})

    return {name: 1000 * seconds for name, seconds in medians({n: run(p) for n, p in paths.items()}).items()}


def metrics(cfg: Config, models: Mapping[str, nn.Module]) -> dict[str, dict[str, float]]:
    """Name -> metrics on the config's test set; a network in a file is tested by `through_onnx`."""
    loader = _loader(cfg, 'test')
    found = {}
    for name, model in models.items():
        evaluator = Evaluator(deepcopy(cfg.test_evaluator))
        evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
        for batch in loader:
            evaluator.process(model.eval().test_step(batch), batch)
        found[name] = evaluator.evaluate(len(loader.dataset))
    return found


def through_onnx(model: nn.Module, path: Path) -> nn.Module:
    """A copy of a classifier or one-stage detector whose head gives what an ONNX file computes of the images."""
    copy, session = deepcopy(model).eval(), onnx_session(path)
    head = next((getattr(copy, name) for name in ('head', 'bbox_head') if hasattr(copy, name)), None)
    if head is None:
        raise ValueError(f'{type(model).__name__} is neither a classifier nor a one-stage detector.')
    structure = None

    @torch.no_grad()
    def forward(images):
        nonlocal structure
        if structure is None:
            structure = tree_flatten(model.eval()(images[:1], mode='tensor'))[1]
        found = session.run(None, {'images': images.numpy()})
        return tree_unflatten([torch.from_numpy(out) for out in found], structure)

    copy.extract_feat = lambda images, *args, **kwargs: images
    head.forward = forward
    return copy
