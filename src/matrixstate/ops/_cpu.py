"""What the compiled kernels of all ops share on their Python side."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from matrixstate.errors import ShapeError

_LIBRARY = torch.library.Library("matrixstate", "FRAGMENT")
INSIDE = (
    "_after_autograd_keyset",
    "_AutoDispatchBelowAutograd",
    "_any_requires_grad",
    "_are_functorch_transforms_active",
)
Lengths = tuple[int | None, ...] | None  # of those arguments that are lists; None where no argument can be
_KERNELS: dict[str, Callable[..., Any]] = {}  # of every operator, on the CPU


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    """Why the compiled kernels cannot run such inputs; None if they can."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return f"needs torch.float32 or torch.bfloat16 on cpu, got {dtype} on {device}"
    return None


def operator(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of tensors as the operator matrixstate::`name` on the CPU, its schema from its annotations.

    As torch.library.custom_op does, which also imports the whole compiler at the first call: that takes seconds.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CPU")
        _KERNELS[name] = function
        return function

    return register


def refuse_tangents(op: str, arguments: Iterable[Any]) -> None:
    """Forward-mode differentiation would take the outputs of a kernel for constants."""
    if forward_ad._current_level < 0:
        return
    if any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in arguments):
        raise NotImplementedError(f"{op}: backend cpu has no forward-mode derivatives; backend='reference' has")


def differentiable(name: str, backward: Callable[..., tuple], keep: Callable[[Any, tuple, Any], None]) -> None:
    """Makes matrixstate::`name` differentiable; arguments as those of torch.library.register_autograd.

    Its calls cost a third: where nothing but the CPU is left to dispatch to, they go straight to the kernel. The
    operator may take and return lists of tensors. Where a release of PyTorch has not what this needs of its
    inside, register_autograd does the work.
    """
    if not all(hasattr(torch._C, inside) for inside in INSIDE):
        torch.library.register_autograd(f"matrixstate::{name}", backward, setup_context=keep)
        return
    operator, kernel = getattr(torch.ops.matrixstate, name).default, _KERNELS[name]
    after_autograd, cpu = torch._C._after_autograd_keyset, torch._C.DispatchKey.CPU
    takes_lists = any(str(argument.type) == "List[Tensor]" for argument in operator._schema.arguments)
    lists = str(operator._schema.returns[0].type) == "List[Tensor]"

    def below(keys: Any, *arguments: Any) -> Any:
        keys &= after_autograd
        if keys.highestPriorityTypeId() == cpu:
            return kernel(*arguments)
        with torch._C._AutoDispatchBelowAutograd():  # something traces, fakes or transforms it
            return operator.redispatch(keys, *arguments)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keys: Any, lengths: Lengths, *flat: Any) -> tuple:
            ctx.lengths, arguments = lengths, flat if lengths is None else _unflatten(flat, lengths)
            output = below(keys, *arguments)
            keep(ctx, arguments, output)
            return tuple(output) if lists else output

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
            found = backward(ctx, *gradients)
            return None, None, *(found if ctx.lengths is None else _flatten(found)[0])

    def run(keys: Any, *arguments: Any) -> Any:
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
            refuse_tangents(name.split("_cpu")[0], arguments)
            return below(keys, *arguments)
        flat, lengths = _flatten(arguments) if takes_lists else (arguments, None)
        if torch._C._are_functorch_transforms_active():
            output = _apply_at_one_level(Differentiable, keys, lengths, *flat)
        else:
            output = Differentiable.apply(keys, lengths, *flat)
        return list(output) if lists else output

    Differentiable.__name__ = f"Differentiable_{name}"  # what the nodes of a graph are called
    _LIBRARY.impl(name, run, "Autograd", with_keyset=True)
    _LIBRARY.impl(name, partial(_over_samples, operator), "FuncTorchBatched", with_keyset=True)


def _flatten(arguments: Iterable[Any]) -> tuple[list[Any], Lengths]:
    """The arguments with the parts of lists in their place, since autograd looks into no list; and their lengths."""
    arguments = tuple(arguments)
    flat = [part for a in arguments for part in (a if isinstance(a, list) else (a,))]
    return flat, tuple(len(a) if isinstance(a, list) else None for a in arguments)


def _unflatten(flat: Iterable[Any], lengths: tuple[int | None, ...]) -> tuple[Any, ...]:
    parts = iter(flat)
    return tuple(next(parts) if n is None else [next(parts) for _ in range(n)] for n in lengths)


def _apply_at_one_level(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply` inside torch.func.grad, vjp or jacrev.

    There the dispatcher has already unwrapped the tensors of the transform's level, and what is below it is dispatched
    again, to the next level. `Function.apply` would start over from the outermost level, which needs a
    `setup_context`; its base class records the node at this level alone.
    """
    from torch._functorch.utils import enable_single_level_autograd_function

    with enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


def _over_samples(operator: Any, keys: Any, *arguments: Any) -> Any:
    """The rule of torch.vmap for every operator: one sample after another, the results stacked."""
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
    """Says of matrixstate::`name`, the backward of `op`, that it has no backward itself."""

    def refuse(ctx: Any, *gradients: Tensor) -> tuple:
        raise NotImplementedError(f"{op}: backend cpu has no second derivatives; backend='reference' has")

    differentiable(name, refuse, lambda ctx, inputs, output: None)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a backward pass can follow a call with these tensors, for which it must save what that needs."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as the native side takes them: contiguous and without a graph. Most are so already."""
    return [t if t is None or _is_dense(t) else t.detach().contiguous() for t in tensors]


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.requires_grad


def plain(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors contiguous and not lazily negated, which the dispatcher would else see to; mostly themselves."""
    return [None if tensor is None else tensor.resolve_neg().contiguous() for tensor in tensors]


def floats(*parameters: Tensor | None) -> list[Tensor | None]:
    """The same in float32, for parameters."""
    return plain(*(None if p is None else p.to(torch.float32) for p in parameters))


def call_checked(function: Callable[..., None], *arguments: Any) -> None:
    """Calls the native side outside of PyTorch's dispatcher. It checks what it is given, much faster than we could."""
    try:
        function(*arguments, torch.get_num_threads())
    except ValueError as error:
        raise ShapeError(str(error)) from None


def fresh(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised dense tensor; the shape and dtype of `like` where none are given."""
    if shape:
        return like.new_empty(shape, dtype=dtype)
    return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)
