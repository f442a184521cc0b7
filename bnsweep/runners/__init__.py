"""Where packs are trained: in this process, or on Ray. Importing this imports neither torch nor Ray."""

from .local import LocalRunner
from .planned import PlannedPacks
from .preflight import Preflight, preflight, prepare_images
from .source import FixedPacks, Source
from .work import Progress, WorkerContext

__all__ = [
    "FixedPacks",
    "LocalRunner",
    "PlannedPacks",
    "Preflight",
    "Progress",
    "Source",
    "WorkerContext",
    "preflight",
    "prepare_images",
]
