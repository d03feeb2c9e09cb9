"""A run that trains in a second, for the tests of training and of the command line."""

from pathlib import Path

from matrixstate.data import DataConfig
from matrixstate.layers import MLPConfig
from matrixstate.mixers import GatedConvConfig, M2RNNConfig
from matrixstate.models import BlockConfig, ModelConfig
from matrixstate.training import TextRunConfig, TextTrainingConfig

TEXT = "".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(60, 0, -1))


def text_file(directory: Path) -> Path:
    path = directory / "beer.txt"
    path.write_text(TEXT)
    return path


def small_config(directory: Path, steps: int = 12, dropout: float = 0.1, **training) -> TextRunConfig:
    """A config of a two-block model with dropout, so that the random state matters too."""
    blocks = (
        BlockConfig(M2RNNConfig(heads=2, key_size=3, value_size=5), MLPConfig(hidden=20)),
        BlockConfig(GatedConvConfig(), None),
    )
    options = {"batch": 4, "sequence": 16, "warmup": 3, "evaluate_every": 4, "checkpoint_every": 5, **training}
    return TextRunConfig(
        name="small",
        model=ModelConfig(16, blocks, dropout=dropout),
        data=DataConfig(files=(str(text_file(directory)),)),
        training=TextTrainingConfig(steps=steps, **options),
    )
