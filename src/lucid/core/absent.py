"""Names that PyTorch has and Lucid has not, and what to do instead: an AttributeError says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_NO_SEQUENCES = "there are no recurrent layers and no attention: convolutions over time stand for them"
_NO_GRAPHS = "there is nothing to compile: kernels are generated as they are called; take the model as it is"
_NO_TRANSFORMS = "of torch.func there is functional_call; a gradient is lucid.autograd.grad, a batch an axis"

ADVICE: dict[str, dict[str, str]] = {
    "lucid": {
        "jit": _NO_GRAPHS,
        "compile": _NO_GRAPHS,
        "vmap": _NO_TRANSFORMS,
        "fft": "lucid.stft and lucid.istft are there; numpy.fft takes x.detach().numpy()",
        "linalg": "lucid.norm, matmul and einsum are there; numpy.linalg takes x.detach().numpy()",
        "inverse": "numpy.linalg.inv takes x.detach().numpy()",
        "svd": "numpy.linalg.svd takes x.detach().numpy()",
        "distributed": "one process trains, on all its cores",
        "distributions": "lucid.randn, rand, bernoulli and multinomial draw; densities are a line of functions",
        "hub": "models are code: copy it, and load its weights by lucid.load",
        "set_default_dtype": "the type of new tensors is float32; say dtype= where they are made, or model.double()",
        "sparse": "all tensors are dense",
        "quantization": "half precision is what there is: lucid.autocast",
        "as_strided": "Tensor.unfold gives windows, indexing by arrays all else",
    },
    "lucid.nn": {
        **dict.fromkeys(
            ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "MultiheadAttention", "Transformer",
             "TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoder", "TransformerDecoderLayer"),
            _NO_SEQUENCES,
        ),
        "SyncBatchNorm": "one process trains: nn.BatchNorm2d is the same there",
        "parallel": "one process trains, on all its cores: take the model as it is, or nn.DataParallel",
        "EmbeddingBag": "nn.Embedding and a sum are the same",
    },
    "lucid.nn.functional": {
        "scaled_dot_product_attention": "softmax(q @ k.mT / d**0.5, dim=-1) @ v is the same",
        "multi_head_attention_forward": _NO_SEQUENCES,
        "upsample": "interpolate is its name now",
    },
    "lucid.nn.utils": {
        "rnn": "padding and masks by length are what convolutions need: there are no recurrent layers",
        "stateless": "lucid.func.functional_call is its name now",
    },
    "lucid.optim": {"LBFGS": "SGD, Adam and their kin are there; scipy.optimize has L-BFGS"},
    "lucid.optim.lr_scheduler": {
        "ChainedScheduler": "a rate is a function of the step: SequentialLR puts them in a row, LambdaLR multiplies",
    },
    "lucid.nn.utils.parametrizations": {
        "orthogonal": "parametrize.register_parametrization takes one of your own; nn.init.orthogonal_ draws one",
    },
    "lucid.func": dict.fromkeys(("vmap", "grad", "jvp", "vjp", "jacrev", "jacfwd", "hessian"), _NO_TRANSFORMS),
    "lucid.utils": {
        "checkpoint": "results are kept, not computed again: call the function itself",
        "tensorboard": "write figures where you like; the command lucid train draws a report",
    },
}  # fmt: skip


def missing(module: str, otherwise: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """A module's ``__getattr__``: says what to do about a name that PyTorch has and the module has not.

    >>> missing("lucid")("jit")
    Traceback (most recent call last):
    AttributeError: module 'lucid' has no attribute 'jit': there is nothing to compile: …
    """

    def look(name: str) -> Any:
        if otherwise is not None and name not in ADVICE[module]:
            return otherwise(name)
        advice = ADVICE[module].get(name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}" + (f": {advice}" if advice else ""))

    return look
