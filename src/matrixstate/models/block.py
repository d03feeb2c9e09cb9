"""A residual block: x + mixer(norm(x)), then x + mlp(norm(x))."""

from torch import Tensor, nn

from matrixstate.layers.mixer import State
from matrixstate.layers.norm import RMSNorm
from matrixstate.mixers.attention.shared import SharedAttention, SharedKeys
from matrixstate.models.config import BlockConfig, ModelConfig


def make_norm(config: ModelConfig) -> nn.Module:
    """A norm over the width, as the model's option says, without bias."""
    if config.norm == "rms":
        return RMSNorm(config.width)
    return nn.LayerNorm(config.width, bias=False)


class Block(nn.Module):
    """A pre-norm residual block with a mixer, an MLP or both."""

    def __init__(self, block: BlockConfig, config: ModelConfig) -> None:
        super().__init__()
        self.mixer = self.mixer_norm = self.mlp = self.mlp_norm = None
        if block.mixer is not None:
            self.mixer_norm, self.mixer = make_norm(config), block.mixer.make(config.width)
        if block.mlp is not None:
            self.mlp_norm, self.mlp = make_norm(config), block.mlp.make(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, state: State, mask: Tensor | None, reset: Tensor | None, shared: SharedKeys | None
    ) -> tuple[Tensor, State, SharedKeys | None]:
        """x [B, T, width] -> [B, T, width], the mixer's state (None without a mixer), and the keys for later blocks."""
        if self.mixer is not None and self.mixer_norm is not None:
            z, more = self.mixer_norm(x), {}
            if isinstance(self.mixer, SharedAttention):
                shared = self.mixer.share(z, state, mask, reset) if self.mixer.config.own else shared
                more["shared"] = shared
            y, state = self.mixer(z, state, mask=mask, reset=reset, **more)
            x = x + self._drop(y)
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self._drop(self.mlp(self.mlp_norm(x)))
        return x, state, shared

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout. In evaluation the call is left out, whose overhead is noticeable in generation."""
        return self.dropout(x) if self.training else x
