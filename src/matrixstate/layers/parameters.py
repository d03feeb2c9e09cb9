"""How single parameters are treated, declared on the module's class by the parameter's name.

Attributes set on Parameter objects would be lost where those are replaced: by `copy.deepcopy`, `Module.to_empty` and
`load_state_dict(assign=True)`.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

# A module with this attribute, a tuple of parameter names, exempts those from weight decay.
EXEMPT = "no_weight_decay"


def without_weight_decay(model: nn.Module) -> set[str]:
    """The full names of the parameters below `model` that a module's `no_weight_decay` exempts."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, EXEMPT, ())
    }


class Float32Parameters(nn.Module):
    """A module whose own parameters named in `float32` stay float32 under `.bfloat16()`, `.half()` and `.to(dtype)`.

    Rates like e^{A_log} set how long a head remembers; rounded to 8 bits, lengths of memory change by percents.
    Wider dtypes are taken as they come.
    """

    float32: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = {name: p.data for name in self.float32 if (p := self._parameters[name]) is not None}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._parameters[name]
            if new is not None and new.dtype in (torch.bfloat16, torch.float16):
                new.data = old.to(new.device, torch.float32)  # from before it was rounded
        return self
