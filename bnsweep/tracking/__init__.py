"""The ledger mirrored into MLflow, by a process of its own; importing this does not import MLflow."""

from bnsweep.tracking.canary import try_store
from bnsweep.tracking.mapping import Lag, lag
from bnsweep.tracking.process import MirrorProcess, Summary, log_report, start_mirror, sync, unsent
from bnsweep.tracking.ui import UiServer, start_ui
from bnsweep.tracking.uris import check_uri, default_uri, unreachable

__all__ = [
    "Lag",
    "MirrorProcess",
    "Summary",
    "UiServer",
    "check_uri",
    "default_uri",
    "lag",
    "log_report",
    "start_mirror",
    "start_ui",
    "sync",
    "try_store",
    "unreachable",
    "unsent",
]
