"""A device that is not there: "pretend" computes on the CPU, but its tensors are of another device.

With it the tests run models and trainings as on a GPU: an operation on tensors of two devices fails, as does reading a
tensor of the device as if it were on the CPU (`numpy`).
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from matrixstate import devices

NAME = "pretend"
READS = []  # the names of the operations that read numbers from the device, for which a GPU would have to be waited for


def register():
    """Makes the device known to PyTorch; before the first backward pass, whose engine counts the kinds of devices."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    module, state = torch.get_device_module(NAME), {"random": torch.zeros(4, dtype=torch.uint8)}
    module.synchronize = lambda device=NAME: None
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float32]
    module.max_memory_allocated = lambda device=NAME: 3_000_000
    module.reset_peak_memory_stats = lambda device=NAME: None
    module.get_rng_state = lambda device=NAME: state["random"].clone()
    module.set_rng_state = lambda value, device=NAME: state.update(random=value.clone())


class Pretend(torch.Tensor):
    """A tensor of the device: `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=f"{NAME}:0",
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        READS.append("tolist")
        return self.inner.tolist()

    def __repr__(self):
        return f"Pretend({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes the tensors that are created on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, Pretend)]
    target = kwargs.get("device")
    target = None if target is None else torch.device(target).type
    name = func.overloadpacket.__name__
    moves = name in ("_to_copy", "copy_")
    others = [x for x in tensors if not isinstance(x, Pretend) and x.ndim]
    indices = name in (
        "index",
        "index_put_",
        "index_put",
        "_index_put_impl_",
    )  # by tensors of the CPU, as on any device
    if ours and others and not moves and not indices:
        raise RuntimeError(f"{func}: expected all tensors on one device, got {NAME} and {others[0].device}")
    if not ours and target != NAME:
        return func(*args, **kwargs)
    if name in ("_local_scalar_dense", "equal", "nonzero") or (ours and (target or NAME) != NAME):
        READS.append(name)
    if name == "_conj":  # here, below the dispatch keys that read the flag of a lazy conjugate, it would be lost
        return Pretend(torch.ops.aten._conj_physical(args[0].inner))
    inner_args, inner_kwargs = tree_map(lambda x: x.inner if isinstance(x, Pretend) else x, (args, kwargs))
    if target is not None:
        inner_kwargs["device"] = torch.device("cpu")
    out = func(*inner_args, **inner_kwargs)
    if name in ("_local_scalar_dense", "is_same_size", "equal") or (target is not None and target != NAME):
        return out
    if name == "copy_" and not isinstance(args[0], Pretend):
        READS.append(name)
        return args[0]
    wrapped = tree_map(lambda x: Pretend(x) if isinstance(x, torch.Tensor) and not isinstance(x, Pretend) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _move(module, *args, **options):
    """Module.to, which keeps tied weights tied, as it does for tensors without a type of their own."""
    places = [(part, name, weight) for part in module.modules() for name, weight in part._parameters.items()]
    first = {}
    for part, name, weight in places:
        first.setdefault(id(weight), (part, name))
    _TO(module, *args, **options)
    for part, name, weight in places:
        if weight is not None:
            owner, own_name = first[id(weight)]
            part._parameters[name] = owner._parameters[own_name]
    return module


def _tensor(data, *, device=None, **options):
    return _TENSOR(data, **options) if device is None else _TENSOR(data, **options).to(device)


_TO, _TENSOR = torch.nn.Module.to, torch.tensor


@contextmanager
def pretend_device():
    """Inside, the device exists, and commands know it by its name."""
    with (
        patch.object(devices, "OTHERS", (NAME,)),
        patch.object(torch.nn.Module, "to", _move),
        patch.object(torch, "tensor", _tensor),  # which makes its tensor where no mode sees it
        _Mode(),
    ):
        yield torch.device(NAME, 0)
