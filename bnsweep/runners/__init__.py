"""Where packs are trained: in this process, or on Ray. Importing this imports neither torch nor Ray."""

from .gpu_types import GpuType
from .local import LocalRunner
from .machine import Machine, Node, Site
from .messages import Progress, WorkerContext
from .planned import PlannedPacks
from .preflight import Preflight, preflight, prepare_images
from .source import FixedPacks, Source

__all__ = [
    "FixedPacks",
    "GpuType",
    "LocalRunner",
    "Machine",
    "Node",
    "PlannedPacks",
    "Preflight",
    "Progress",
    "Site",
    "Source",
    "WorkerContext",
    "preflight",
    "prepare_images",
]
