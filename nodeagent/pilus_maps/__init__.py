"""Pins and layouts -> typed maps. The agent writes through it; the observer and the command line read."""

from pilus_maps.datapath import Datapath, Program
from pilus_maps.syscall import KernelError
from pilus_maps.typed import TypedMap

__all__ = ["Datapath", "KernelError", "Program", "TypedMap"]
