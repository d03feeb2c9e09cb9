"""What the kernels of all ops share on their Python side: registration with PyTorch, and calls of the native module."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from matrixstate.errors import ShapeError

_LIBRARY = torch.library.Library("matrixstate", "FRAGMENT")
PRIVATE = (  # names of torch._C that `differentiable` needs
    "_after_autograd_keyset",
    "_AutoDispatchBelowAutograd",
    "_any_requires_grad",
    "_are_functorch_transforms_active",
)
Lengths = tuple[int | None, ...] | None  # an argument's length if it is a list, else None; None if no argument can be
_KERNELS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}  # every operator's function and dispatch keys


def operator(name: str, *devices: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that registers a function as the operator matrixstate::`name` with the schema of its annotations.

    `name` is that of the op, _ and that of the backend; `devices` are dispatch keys, the CPU's by default. It does what
    torch.library.custom_op does without importing the compiler, which takes seconds at the first call.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for device in devices or ("CPU",):
            _LIBRARY.impl(name, function, device)
        _KERNELS[name] = function, devices or ("CPU",)
        return function

    return register


def refuse_tangents(op: str, arguments: Iterable[Any], backend: str = "cpu") -> None:
    """Raises where an argument has a tangent: forward-mode differentiation would take a kernel's outputs for constants.

    Outside forward mode the private level answers at once; a release without it asks every tensor.
    """
    if getattr(forward_ad, "_current_level", 0) < 0:
        return
    if any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in arguments):
        raise NotImplementedError(f"{op}: backend {backend} has no forward-mode derivatives; backend='reference' has")


def differentiable(name: str, backward: Callable[..., tuple], save: Callable[[Any, tuple, Any], None]) -> None:
    """Makes matrixstate::`name` differentiable; arguments as those of torch.library.register_autograd.

    A call that saves for the backward pass takes less than half the time that register_autograd needs: where only the
    device is left to dispatch to, it calls the kernel directly. The operator may also take and return lists of tensors,
    and torch.func and torch.vmap accept it. This needs private parts of PyTorch. In a release without the names in
    `PRIVATE`, register_autograd is used: the same results and gradients, slower, while torch.func of a kernel raises a
    RuntimeError of PyTorch's (backend="reference" remains).
    """
    if not all(hasattr(torch._C, private) for private in PRIVATE):
        torch.library.register_autograd(f"matrixstate::{name}", backward, setup_context=save)
        return
    operator, (kernel, devices) = getattr(torch.ops.matrixstate, name).default, _KERNELS[name]
    after_autograd = torch._C._after_autograd_keyset
    direct = tuple(getattr(torch._C.DispatchKey, device) for device in devices)
    op, backend = _op_and_backend(name)
    takes_lists = any(str(argument.type) == "List[Tensor]" for argument in operator._schema.arguments)
    returns_list = str(operator._schema.returns[0].type) == "List[Tensor]"

    def below(keys: Any, *arguments: Any) -> Any:
        """The operator without its gradient: what is below autograd in the dispatcher's order."""
        keys &= after_autograd
        if keys.highestPriorityTypeId() in direct:
            return kernel(*arguments)
        with torch._C._AutoDispatchBelowAutograd():  # a tracer, a fake tensor or a transform is next
            return operator.redispatch(keys, *arguments)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keys: Any, lengths: Lengths, *flat: Any) -> tuple:
            ctx.lengths, arguments = lengths, flat if lengths is None else _unflatten(flat, lengths)
            output = below(keys, *arguments)
            save(ctx, arguments, output)
            return tuple(output) if returns_list else output

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
            found = backward(ctx, *gradients)
            return None, None, *(found if ctx.lengths is None else _flatten(found)[0])

    def run(keys: Any, *arguments: Any) -> Any:
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
            refuse_tangents(op, arguments, backend)
            return below(keys, *arguments)
        flat, lengths = _flatten(arguments) if takes_lists else (arguments, None)
        if torch._C._are_functorch_transforms_active():
            output = _apply_at_one_level(Differentiable, keys, lengths, *flat)
        else:
            output = Differentiable.apply(keys, lengths, *flat)
        return list(output) if returns_list else output

    Differentiable.__name__ = f"Differentiable_{name}"  # what the nodes of a graph are called
    _LIBRARY.impl(name, run, "Autograd", with_keyset=True)
    _LIBRARY.impl(name, partial(_over_samples, operator), "FuncTorchBatched", with_keyset=True)


def _flatten(arguments: Iterable[Any]) -> tuple[list[Any], Lengths]:
    """The arguments with lists replaced by their parts, as autograd finds no tensors in lists; and their lengths."""
    arguments = tuple(arguments)
    flat = [part for a in arguments for part in (a if isinstance(a, list) else (a,))]
    return flat, tuple(len(a) if isinstance(a, list) else None for a in arguments)


def _unflatten(flat: Iterable[Any], lengths: tuple[int | None, ...]) -> tuple[Any, ...]:
    """The inverse of `_flatten`."""
    parts = iter(flat)
    return tuple(next(parts) if n is None else [next(parts) for _ in range(n)] for n in lengths)


def _apply_at_one_level(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply` inside torch.func.grad, vjp or jacrev.

    There the dispatcher has already unwrapped the tensors of the transform's level, and what is below is dispatched
    again, to the next level. `Function.apply` would start again at the outermost level, which needs a `setup_context`;
    the method of its base class records the node at this level alone. It is private too: in a release without it,
    torch.func.grad of a kernel raises an ImportError, and ordinary gradients do not come here.
    """
    from torch._functorch.utils import enable_single_level_autograd_function

    with enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


def _over_samples(operator: Any, keys: Any, *arguments: Any) -> Any:
    """The rule of torch.vmap for every operator: one sample after another, the results stacked.

    It needs private parts of PyTorch; in a release without them torch.vmap of a kernel raises an ImportError.
    """
    from torch._functorch.autograd_function import custom_function_call_vmap_helper
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

    def rule(info: Any, dims: Any, *batched: Any) -> tuple[Any, Any]:
        def sample(i: int) -> Any:
            take = lambda x, dim: x if dim is None else x.select(dim, i)  # noqa: E731
            flat = [
                [take(part, d) for part, d in zip(x, dim, strict=True)] if isinstance(x, list) else take(x, dim)
                for x, dim in zip(batched, dims, strict=True)
            ]
            return operator(*flat)

        results = [sample(i) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(column) for column in zip(*results, strict=True)]
        return type(results[0])(stacked), type(results[0])([0] * len(stacked))

    interpreter: Any = retrieve_current_functorch_interpreter()
    return custom_function_call_vmap_helper(interpreter, rule, operator, *arguments)


def differentiable_once(name: str, op: str) -> None:
    """Lets second derivatives of `op` raise: matrixstate::`name`, its backward pass, has no backward pass itself."""

    _, backend = _op_and_backend(name)

    def refuse(ctx: Any, *gradients: Tensor) -> tuple:
        raise NotImplementedError(f"{op}: backend {backend} has no second derivatives; backend='reference' has")

    differentiable(name, refuse, lambda ctx, inputs, output: None)


def _op_and_backend(name: str) -> tuple[str, str]:
    """Those of an operator: matrix_scan and cpu for matrix_scan_cpu and matrix_scan_cpu_backward."""
    op, _, backend = name.removesuffix("_backward").rpartition("_")
    return op, backend


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a backward pass can follow a call with these tensors, for which it must save what that needs."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors contiguous and without a graph, as the native module takes them; themselves where they are so."""
    return [t if t is None or _is_dense(t) else t.detach().contiguous() for t in tensors]


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.requires_grad


def plain(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors contiguous and not lazily negated, for calls that bypass the dispatcher, which would ensure that."""
    return [None if tensor is None else tensor.resolve_neg().contiguous() for tensor in tensors]


def floats(*parameters: Tensor | None) -> list[Tensor | None]:
    """`plain`, and in float32: for parameters, which may be in half precision."""
    return plain(*(None if p is None else p.to(torch.float32) for p in parameters))


def call_checked(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function of the native module without PyTorch's dispatcher.

    The function checks shapes and dtypes itself, much faster than Python could; what it finds becomes a `ShapeError`.
    """
    try:
        function(*arguments, torch.get_num_threads())
    except ValueError as error:
        raise ShapeError(str(error)) from None


def fresh(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised dense tensor; the shape and dtype of `like` where none are given."""
    if shape:
        return like.new_empty(shape, dtype=dtype)
    return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)
