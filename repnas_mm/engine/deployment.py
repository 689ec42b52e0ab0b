"""The fused network by itself, as deployment tools take it: normalized images in, raw outputs out."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..checks import explain_errors
from ..utils.fileio import atomic_write
from .fusing import TOLERANCE, exact_float32, max_difference


class Network(nn.Module):
    """A model's ``mode='tensor'`` with plain arguments, for torch.export, torch.jit.trace, torch.compile and ONNX.

    Args:
        model: An MMEngine model. Its data preprocessor and post-processing (NMS, top-k) are not part of the network.

    Shapes:
        (N, C, H, W), normalized -> tuple of the model's raw output tensors, flattened.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_flatten(self.model(images, mode='tensor'))[0])


def export_onnx(model: nn.Module, path: Path, shape: tuple[int, int, int]) -> float:
    """Write the network of ``model`` as ONNX, with a free batch size, and compare it in ONNX Runtime.

    Args:
        model: Preferably fused; any model that ONNX can express.
        path: Of the .onnx file.
        shape: (C, H, W) of the images.

    Returns:
        Largest max |Δ| / max |y| between ONNX Runtime's outputs and torch's.

    Raises:
        ImportError: without the packages onnx, onnxscript and onnxruntime.
        RuntimeError: if the outputs differ by more than 1e-4; nothing is written then.
    """
    check_onnx()
    network = Network(model).eval()
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), exact_float32():
        with explain_errors(f'The network does not take images of shape {tuple(shape)}, give others by --shape'):
            expected = network(images)
        names = [f'output{i}' for i in range(len(expected))]
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            input_names=['images'],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            verbose=False,
        )
    model_bytes = program.model_proto.SerializeToString()
    session = onnx_session(model_bytes)
    found = [torch.from_numpy(out) for out in session.run(None, {'images': images.numpy()})]
    difference = max_difference(list(expected), found)
    if not difference <= TOLERANCE:
        raise RuntimeError(f'ONNX Runtime differs from torch by {difference:.1e} of the largest output; not written.')
    with atomic_write(path) as f:
        f.write(model_bytes)
    return difference


def check_onnx() -> None:
    """Raise ImportError, in one sentence, without the packages that ONNX needs."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise ImportError(f'ONNX needs {e.name}: pip install onnx onnxscript onnxruntime') from e


def onnx_session(model: Path | bytes):
    """ONNX Runtime's session of a network on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
