"""The ledger mirrored into MLflow, by a process of its own; importing this does not import MLflow."""

from bnsweep.tracking.process import MirrorProcess, Summary, log_report, start_mirror, sync
from bnsweep.tracking.ui import UiServer, start_ui
from bnsweep.tracking.uris import check_uri, default_uri

__all__ = [
    "MirrorProcess",
    "Summary",
    "UiServer",
    "check_uri",
    "default_uri",
    "log_report",
    "start_mirror",
    "start_ui",
    "sync",
]
