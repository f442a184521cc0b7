"""``bnsweep ui`` leaves no server behind, also when it is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bnsweep.tracking.ui import free_port


@pytest.mark.slow
def test_no_server_is_left_when_it_is_told_to_end(tmp_path: Path) -> None:
    port = free_port(0)
    command = [sys.executable, "-m", "bnsweep", "ui", "--storage", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"MLflow UI: http://127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
