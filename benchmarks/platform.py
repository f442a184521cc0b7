"""What the platform costs where training costs nothing: ``python -m benchmarks.platform``.

Four measurements, on plans whose networks have one layer and train for two steps:

- a real run (``bnsweep run``: Ray with the CPUs of this machine, the ledger, the mirror on SQLite),
  watched from outside: CPU of the driver and of the mirror, memory of the driver, time to the first record;
- a ledger of as many trials, written directly with the same classes: CPU and wall time of ``plan``,
  ``status`` and ``report``, and of the mirror that sends a ledger of ``--mirrored`` trials to SQLite;
- the report of a ledger of as many trials whose claims are judged on made-up readings of the probes;
- the mirror on a small ledger and an MLflow server behind a proxy that counts requests; then several
  mirrors at once, for what one server takes.

CPU is user and system time. The mirror's is that of sending all to a database that is there, less that of
a second run with nothing to send. Bytecode is cached first, also where ``PYTHONDONTWRITEBYTECODE`` is set.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "platform"
TICK = os.sysconf("SC_CLK_TCK")


def content(trials: int, name: str = NAME) -> dict[str, Any]:
    """Return a sweep of that many trials: 4 norms, up to 25 learning rates, the rest seeds."""
    lrs = min(25, max(1, trials // 8))
    return {
        "name": name,
        "parameters": {
            "model": "mlp",
            "depth": 1,
            "features": 2,
            "norm": ["none", "batch", "l1", "l2"],
            "lr": [round(0.001 * 1.3**power, 6) for power in range(lrs)],
            "steps": 2,
            "eval_every": 1,
        },
        "seeds": max(1, trials // (4 * lrs)),
    }


CLAIMS = (
    "lr_robustness", "trains_faster", "ics_not_reduced", "loss_variation", "gradient_predictiveness",
    "effective_beta", "lp_train_as_well", "lp_shift_more", "lp_loss_variation",
)  # fmt: skip
READINGS = {
    "ics": ("l2", "cosine", "relative"),
    "landscape": (
        "loss_min",
        "loss_max",
        "loss_width",
        "gradient_change_min",
        "gradient_change_max",
        "beta_lr",
    ),
    "moments": ("mean_change", "variance_change"),
}


def claimed(trials: int) -> dict[str, Any]:
    """Return a sweep of that many trials with claims, and the readings of probes that they need."""
    own = content(trials, "claimed")
    own["parameters"] |= {"steps": 300, "eval_every": 300}
    return {**own, "probes": {name: {"every": 30} for name in READINGS}, "claims": list(CLAIMS)}


# -- processes -----------------------------------------------------------------------------------


@dataclass
class Spent:
    """What a finished process took: CPU and wall time in seconds."""

    cpu: float
    wall: float


def environment() -> dict[str, str]:
    """Return our environment with bytecode cached in a folder of the machine's temporary files."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own["PYTHONPATH"] = os.pathsep.join([os.getcwd(), own.get("PYTHONPATH", "")])
    own.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "bnsweep-bytecode"))
    own.setdefault("OMP_NUM_THREADS", "1")
    return own


def call(*words: str) -> Spent:
    """Run ``python -m ...`` to its end; a failure ends the benchmark."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env=environment(), stdout=output, stderr=output
        )
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {output.read().decode()}")
    return Spent(used.ru_utime + used.ru_stime, time.monotonic() - began)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a live process, its children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_of_session(leader: int) -> float:
    """Return the CPU seconds of the live processes of a session."""
    spent = 0.0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = entry.read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / TICK if int(fields[3]) == leader else 0.0
    return spent


def memory_of(pid: int, name: str) -> int:
    """Return a figure of ``/proc/<pid>/status`` in kB: ``VmRSS`` now, ``VmHWM`` at its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def child_called(pid: int, word: str) -> int | None:
    """Return the child of a process whose command line holds a word."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if word in Path(f"/proc/{child}/cmdline").read_bytes().decode():
                return int(child)
        except OSError:
            continue
    return None


# -- a real run ----------------------------------------------------------------------------------


@dataclass
class Watched:
    """A real run as seen from outside; times in seconds, memory in kB.

    Attributes:
        first: Wall time to the first record.
        trained: Wall time to the last one.
        wall: Wall time in all.
        driver: CPU of the driver at these three moments.
        mirror: CPU of the mirror at its end.
        grown: Growth of the driver's peak memory from the first record to the last.
        peak: The driver's peak memory when all was trained.
        packs: Packs that the driver opened.
    """

    first: float = 0.0
    trained: float = 0.0
    wall: float = 0.0
    driver: list[float] = field(default_factory=list)
    mirror: float = 0.0
    grown: int = 0
    peak: int = 0
    packs: int = 0


def watch_run(file: Path, storage: Path) -> Watched:
    """Run a sweep and look at its processes twenty times a second."""
    root, seen = storage / NAME, Watched()
    began = time.monotonic()
    with (storage / "run.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bnsweep", "run", str(file), "--storage", str(storage)],
            env=environment(),
            stdout=log,
            stderr=log,
        )
        pid, mirror, at_first, driver = process.pid, None, 0, 0.0
        while process.poll() is None:
            try:
                driver = cpu_of(pid)
                mirror = mirror or child_called(pid, "bnsweep.tracking")
                seen.mirror = cpu_of(mirror) if mirror else 0.0
            except (OSError, IndexError, ValueError):
                pass  # it ended between two looks
            left = _open_packs(root)
            seen.packs = max(seen.packs, left)
            if not seen.first and left and next(root.glob("trials/*/record.json"), None):
                seen.first = time.monotonic() - began
                seen.driver.append(driver)
                at_first = memory_of(pid, "VmRSS")
            if seen.first and not seen.trained and not left:
                seen.trained = time.monotonic() - began
                seen.driver.append(driver)
                seen.peak = memory_of(pid, "VmHWM")
                seen.grown = max(0, seen.peak - at_first)
            time.sleep(0.05)
    seen.driver.append(driver)
    seen.wall = time.monotonic() - began
    if process.returncode or len(seen.driver) != 3:
        raise SystemExit(f"the run ended with {process.returncode}: {(storage / 'run.log').read_text()}")
    return seen


def _open_packs(root: Path) -> int:
    try:
        return len(os.listdir(root / "packs"))
    except FileNotFoundError:
        return 0


def size_of(root: Path) -> tuple[int, int]:
    """Return the number and the bytes of the files of all trials."""
    sizes = [path.stat().st_size for path in (root / "trials").rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


# -- a ledger made up ----------------------------------------------------------------------------


def write_ledger(sweep: dict[str, Any], storage: Path) -> tuple[Path, float]:
    """Write a ledger in which every trial is done; return its folder and the CPU seconds a record."""
    from bnsweep import api
    from bnsweep.analysis.claims import freeze
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.sweep.records import Record
    from bnsweep.trial import TrialState

    spec = api.load(sweep)
    plan = api.plan(spec)
    ledger = Ledger.open(storage, spec.name, create=True)
    frozen = {"claims": freeze(spec, {}, False)} if spec.claims else {}
    metric = {"metric": {"name": "test_accuracy", "goal": "maximize"}}
    ledger.write_sweep("", {**plan.to_dict(), **metric, **frozen})
    attempt = {"started": "2026-01-31T12:00:00.000Z", "host": "host", "pack_id": "0" * 16, "from_step": 0}
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    began = time.process_time()
    for trial, label in zip(plan.trials, plan.labels, strict=True):
        draw = random.Random(trial.trial_id)
        values = {name: draw.random() for name in names}
        rows = [
            (step, name, 0, values[name], 1_769_860_800_000 + step) for step in range(3) for name in names
        ]
        if spec.claims:
            rows = claimed_rows(draw, values)
        record = Record.of(
            trial, TrialState.COMPLETED, 2, values, label=label, attempts=(attempt,),
            environment={"python": "3", "torch": "2", "device": "cpu", "device_name": "cpu", "threads": 1},
            data={"classes": 10, "train": 1437, "test": 360},
        )  # fmt: skip
        ledger.write_record(record, rows)
    return ledger.root, (time.process_time() - began) / plan.count


def claimed_rows(draw: random.Random, values: dict[str, float]) -> list[tuple[int, str, int, float, int]]:
    """Make up the curves of a trial of 300 steps, all probes' readings among them."""
    rows = [(300, name, 0, value, 1_769_860_800_300) for name, value in values.items()]
    for step in range(0, 301, 10):
        rows += [
            (step, name, 0, draw.random(), 1_769_860_800_000 + step)
            for name in ("train_loss", "train_accuracy")
        ]
    for step in range(0, 301, 30):
        for probe, names in READINGS.items():
            rows += [(step, f"{probe}/{name}", 0, draw.random(), 1_769_860_800_000 + step) for name in names]
    return rows


def mirror_cost(trials: int, folder: Path) -> tuple[Spent, float]:
    """Send a whole ledger; return what the sending took, and the CPU of a run with nothing to send."""
    uri = f"sqlite:///{folder}/mirror.db"
    small, _ = write_ledger(content(4, "small"), folder)
    call("bnsweep.tracking", str(small), "--uri", uri)  # makes the database
    root, _ = write_ledger(content(trials, "mirrored"), folder)
    words = ("bnsweep.tracking", str(root), "--uri", uri)
    first, second = call(*words), call(*words)
    return Spent(first.cpu - second.cpu, first.wall - second.wall), second.cpu


# -- requests to a server ------------------------------------------------------------------------


@contextmanager
def tracking_server(folder: Path, database: str | None) -> Iterator[Any]:
    """Start an MLflow server, on SQLite where no database is named."""
    from bnsweep.tracking import start_ui
    from bnsweep.tracking.ui import free_port

    server = start_ui(database or f"sqlite:///{folder}/server.db", folder, free_port(0))
    try:
        server.wait_ready(300.0)  # type: ignore[union-attr]
        yield server
    finally:
        server.stop()  # type: ignore[union-attr]


@contextmanager
def counting(url: str) -> Iterator[tuple[str, Counter[str]]]:
    """Put a proxy before a server; give its address and a count of requests by path."""
    counts: Counter[str] = Counter()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(int(url.rpartition(":")[2]), counts))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}", counts
    finally:
        proxy.shutdown()
        proxy.server_close()


def _proxy(port: int, counts: Counter[str]) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        """Passes every request on and counts it by the last two words of its path."""

        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            path = self.path.partition("?")[0]
            artifact = "mlflow-artifacts" in path
            counts["artifacts" if artifact else "/".join(path.rsplit("/", 2)[1:])] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            received = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(received)))
            self.end_headers()
            self.wfile.write(received)
            connection.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    return Proxy


# -- the table -----------------------------------------------------------------------------------


def line(what: str, value: str, goal: str = "") -> None:
    print(f"{what:<52} {value:>16}  {goal}".rstrip(), flush=True)


def show_run(trials: int, folder: Path, tracked: bool) -> None:
    """Measure a real run, mirrored or not, and print it."""
    from bnsweep.sweep import to_yaml

    storage = folder / "real"
    storage.mkdir()
    file = folder / "real.yaml"
    file.write_text(to_yaml(content(trials) | ({} if tracked else {"tracking": {"uri": "none"}})))
    seen = watch_run(file, storage)
    start, trained, end = seen.driver
    files, size = size_of(storage / NAME)
    count = files // 2
    line("real run: trials in packs", f"{count} in {seen.packs}")
    line(
        "  wall to first record, to last, in all (s)", f"{seen.first:.1f} {seen.trained:.1f} {seen.wall:.1f}"
    )
    line("  driver CPU, start-up to first record (s)", f"{start:.2f}")
    line("  driver CPU a trial, Tune and ledger (ms)", f"{1e3 * (trained - start) / count:.2f}", "goal < 10")
    line("  driver CPU, report and end (s)", f"{end - trained:.2f}")
    line("  driver memory a pack while training (kB)", f"{seen.grown / seen.packs:.0f}", "goal < 50")
    line("  driver peak memory before the report (MB)", f"{seen.peak / 1024:.0f}")
    if tracked:
        line("  mirror CPU in all, its start-up included (s)", f"{seen.mirror:.2f}")
    line("  ledger files, bytes a trial", f"{files / count:.1f}, {size / count:.0f}")


def show_ledger(trials: int, mirrored: int, folder: Path) -> None:
    """Measure the verbs and the mirror on ledgers made up, and print them."""
    from bnsweep.sweep import to_yaml

    file = folder / "made.yaml"
    file.write_text(to_yaml(content(trials)))
    _, each = write_ledger(content(trials), folder)
    line(f"ledger of {trials}: worker CPU a record (ms)", f"{1e3 * each:.2f}")
    out = str(folder / "out")
    for words, goal in (
        (("plan", str(file), "--storage", str(folder)), ""),
        (("status", NAME, "--storage", str(folder)), "goal < 2 at 10 000"),
        (("report", NAME, "--storage", str(folder), "--out", out), "goal < 30 at 10 000"),
    ):
        spent = call("bnsweep", *words)
        line(f"  {words[0]}: wall, CPU (s)", f"{spent.wall:.2f}, {spent.cpu:.2f}", goal)
    spent, idle = mirror_cost(mirrored, folder)
    line(f"mirror of {mirrored}, SQLite: CPU a trial (ms)", f"{1e3 * spent.cpu / mirrored:.1f}", "goal < 40")
    line("  wall a trial (ms)", f"{1e3 * spent.wall / mirrored:.1f}")
    line("  CPU of a run with nothing to send (s)", f"{idle:.2f}")


def show_claims(trials: int, folder: Path) -> None:
    """Measure the report of a ledger made up whose claims are judged on the readings of probes."""
    write_ledger(claimed(trials), folder)
    spent = call("bnsweep", "report", "claimed", "--storage", str(folder), "--out", str(folder / "out"))
    line(f"report of {trials} with {len(CLAIMS)} claims: wall, CPU (s)", f"{spent.wall:.2f}, {spent.cpu:.2f}",
         "goal < 60 at 10 000")  # fmt: skip


def show_server(mirrored: int, mirrors: int, database: str | None, folder: Path) -> None:
    """Count the requests of a mirror to a server; then let several send at once."""
    counted = min(mirrored, 100)
    root, _ = write_ledger(content(counted), folder / "served")
    with tracking_server(folder, database) as server:
        with counting(server.url) as (uri, counts):
            spent = call("bnsweep.tracking", str(root), "--uri", uri)
        line(f"mirror of {counted}, server: requests a trial", f"{sum(counts.values()) / counted:.1f}")
        for name, number in counts.most_common():
            line(f"  {name}", str(number))
        line("  mirror CPU a trial, its start-up included (ms)", f"{1e3 * spent.cpu / counted:.1f}")
        roots = [
            write_ledger(content(mirrored, f"crowd-{number}"), folder / "crowd")[0]
            for number in range(mirrors)
        ]
        before = cpu_of_session(server.pid)
        began = time.monotonic()
        with ThreadPoolExecutor(mirrors) as pool:
            list(pool.map(lambda root: call("bnsweep.tracking", str(root), "--uri", server.url), roots))
        seconds, used = time.monotonic() - began, cpu_of_session(server.pid) - before
    trials = mirrors * mirrored
    line(f"{mirrors} mirrors of {mirrored} at once: trials a second", f"{trials / seconds:.1f}")
    line("  requests a second", f"{sum(counts.values()) / counted * trials / seconds:.1f}")
    line("  server: cores, CPU a trial (ms)", f"{used / seconds:.2f}, {1e3 * used / trials:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="trials of the plan")
    parser.add_argument("--mirrored", type=int, default=500, help="trials that the mirror is timed on")
    parser.add_argument("--untracked", action="store_true", help="the real run without its mirror")
    parser.add_argument("--quick", action="store_true", help="40 trials, no server: only to see it work")
    parser.add_argument("--parts", default="run,ledger,claims,server", help="what to measure")
    parser.add_argument("--mirrors", type=int, default=4, help="mirrors that send to the server at once")
    parser.add_argument("--database", help="database of the server; SQLite by default")
    options = parser.parse_args()
    trials = 40 if options.quick else options.trials
    mirrored = 40 if options.quick else min(options.mirrored, trials)
    parts = ["run", "ledger", "claims"] if options.quick else options.parts.split(",")
    modules = (
        "mlflow, matplotlib.pyplot, pandas, scipy.stats, bnsweep.tracking.exporter, bnsweep.runners.tune"
    )
    subprocess.run([sys.executable, "-c", f"import {modules}"], env=environment(), check=True)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, load {load:.1f} before; {trials} trials, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory(prefix="bnsweep-platform-") as name:
        folder = Path(name)
        if "run" in parts:
            show_run(trials, folder, not options.untracked)
        if "ledger" in parts:
            show_ledger(trials, mirrored, folder)
        if "claims" in parts:
            show_claims(trials, folder)
        if "server" in parts:
            show_server(mirrored, options.mirrors, options.database, folder)


if __name__ == "__main__":
    main()
