"""Where packs are trained: in this process, or on Ray. Importing this imports neither torch nor Ray."""

from .local import LocalRunner
from .preflight import Preflight, preflight, prepare_images
from .work import Progress, WorkerContext

__all__ = ["LocalRunner", "Preflight", "Progress", "WorkerContext", "preflight", "prepare_images"]
