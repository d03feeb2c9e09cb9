"""Mixers, in families by the kind of their state. Each file holds one mixer: its config and its module."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers import attention, cells, conv, delta, matrix, outer, scan
from matrixstate.mixers.attention import *
from matrixstate.mixers.bidirectional import Bidirectional, BidirectionalConfig
from matrixstate.mixers.cells import *
from matrixstate.mixers.conv import *
from matrixstate.mixers.delta import *
from matrixstate.mixers.matrix import *
from matrixstate.mixers.outer import *
from matrixstate.mixers.scan import *
from matrixstate.plugins import extensible

FAMILIES = {
    family.__name__.rpartition(".")[2]: family for family in (matrix, cells, attention, conv, outer, delta, scan)
}
"""The packages of mixers by their names. The docstring of each says what its mixers have in common."""

_MIXERS: dict[str, type[MixerConfig]] = {
    name: config for family in FAMILIES.values() for name, config in family.MIXERS.items()
}
MIXERS = extensible("mixers", _MIXERS, MixerConfig)
"""Names of all mixers in configuration files; plug-ins add to it."""

__all__ = ["FAMILIES", "MIXERS", "Bidirectional", "BidirectionalConfig"]
__all__ += attention.__all__
__all__ += cells.__all__
__all__ += conv.__all__
__all__ += delta.__all__
__all__ += matrix.__all__
__all__ += outer.__all__
__all__ += scan.__all__
