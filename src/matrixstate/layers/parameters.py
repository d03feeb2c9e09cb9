"""Parameters with special treatment: no weight decay, a bound on the learning rate, or float32 always.

They are declared by name on the module's class. Attributes of the Parameter objects themselves would be lost where the
objects are replaced, as `copy.deepcopy`, `Module.to_empty` and `load_state_dict(assign=True)` do.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

# The attribute of a module that lists the names of its own parameters without weight decay.
EXEMPT = "no_weight_decay"
# That of a dict from names of its own parameters to the highest learning rate that each is trained at.
CAPS = "learning_rate_caps"


def without_weight_decay(model: nn.Module) -> set[str]:
    """The full names of all parameters of `model` that are listed in the `no_weight_decay` of their module."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, EXEMPT, ())
    }


def learning_rate_caps(model: nn.Module) -> dict[str, float]:
    """The highest learning rates of parameters by full name, from the `learning_rate_caps` of their modules."""
    return {
        f"{prefix}.{name}" if prefix else name: cap
        for prefix, module in model.named_modules()
        for name, cap in getattr(module, CAPS, {}).items()
    }


class Float32Parameters(nn.Module):
    """A module whose parameters listed in `float32` stay float32 under `.bfloat16()`, `.half()` and `.to(dtype)`.

    For rates such as e^{A_log}: the 8 significant bits of bfloat16 would change the half-life of a state by percents.
    Conversion to float64 is not affected. Buffers may be listed too.
    """

    float32: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = {name: p.data for name in self.float32 if (p := getattr(self, name)) is not None}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            if new.dtype in (torch.bfloat16, torch.float16):
                new.data = old.to(new.device, torch.float32)  # from the values before rounding
        return self
