"""The study in a database: shown while the search runs, harmless whatever becomes of it."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest

from bnsweep.errors import SpecError
from bnsweep.search import Shown, StudyMirrorProcess, check, show_study
from bnsweep.search.databases import closing, open_storage
from bnsweep.search.mirror import StudyMirror
from bnsweep.sweep import load_spec
from bnsweep.sweep.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def shown(world, tmp_path):
    """Return a world whose ledger holds its sweep file, and the URI of a file for its study."""
    made = world()
    made.ledger.write_sweep(made.spec().text, {"trials": [], "method": "optuna", "search": {"goal": {}}})
    return made, f"sqlite:///{tmp_path / 'study.db'}"


def show(made, uri: str, seconds: float = 60.0) -> Shown:
    """Do here what a mirror's process does once."""
    return Shown(**StudyMirror(Ledger(made.ledger.root), uri, follow=False, seconds=seconds).run())


def trials(uri: str, name: str = "s") -> list[optuna.trial.FrozenTrial]:
    with closing(open_storage(uri)) as storage:
        return storage.get_all_trials(storage.get_study_id_from_name(name))


def wait(met, what: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if met():
                return
        except Exception as error:
            what = f"{what} ({error})"[:500]
        time.sleep(0.1)
    raise AssertionError(what)


def facts(trial: optuna.trial.FrozenTrial) -> tuple:
    constraints = dict(trial.constraints)
    return trial.number, trial.state, trial.params, trial.values, trial.distributions, constraints


def same(uri: str, search, name: str = "s") -> bool:
    """Whether the database shows the study that the sampler learns from."""
    return [facts(one) for one in trials(uri, name)] == [facts(one) for one in search.study.study.trials]


def test_the_study_is_shown_while_the_search_runs(shown, world):
    made, uri = shown
    search = made.search(12)
    mirror = StudyMirrorProcess(made.ledger.root, uri)
    try:
        first = search.ask()
        wait(lambda: [t.state.name for t in trials(uri)] == ["RUNNING"], "the first condition runs")
        world.finish(search, first)
        wait(lambda: [t.state.name for t in trials(uri)] == ["COMPLETE"], "the first condition has ended")
        world.run(search)
    finally:
        ended = mirror.finish()
    assert (ended.study, ended.shown, ended.pending, ended.error) == ("s", 12, 0, "")
    assert same(uri, search)
    study = optuna.load_study(study_name="s", storage=open_storage(uri))
    assert study.metric_names == ["test_loss"]
    assert [one.user_attrs["trials"] for one in study.trials] == [
        list(s.trial_ids) for s in search.suggestions
    ]
    assert study.best_value == min(end["values"][0] for end in search.ends.values())


PLOTS = ("optimization_history", "param_importances", "parallel_coordinate", "slice", "contour", "edf")


def plotted(uri: str) -> list[str]:
    """Load the study as a user would, and let Optuna draw it; return the plots that were drawn."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as drawing

    with closing(open_storage(uri)) as storage:
        study = optuna.load_study(study_name="s", storage=storage)
        params, drawn = {"lr", "momentum"}, []
        for name in PLOTS:
            axes = getattr(drawing, f"plot_{name}")(study)
            panels = axes.flat if hasattr(axes, "flat") else [axes]
            text = " ".join(f"{p.get_xlabel()} {p.get_ylabel()} {p.get_yticklabels()}" for p in panels)
            if name == "optimization_history":
                assert sum(len(c.get_offsets()) for p in panels for c in p.collections) >= len(study.trials)
            elif name in ("slice", "contour", "param_importances"):
                assert all(param in text for param in params), (name, text)
            plt.close("all")
            drawn.append(name)
    return drawn


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_draws_what_is_shown(shown, world):
    made, uri = shown
    world.run(made.search(12))
    show(made, uri)
    assert plotted(uri) == list(PLOTS)


def test_it_is_brought_up_to_date_without_doubles(shown, world):
    made, uri = shown
    search = made.search(20)
    live = [search.ask() for _ in range(3)]
    for once in (show_study, lambda root, uri: show(made, uri)):
        assert once(made.ledger.root, uri).error == ""
        assert same(uri, search)
    for one in live:
        world.finish(search, one)
    world.run(search, until=4)
    again = made.search(20)
    world.run(again, 2)
    for _ in range(2):
        assert show(made, uri).shown == 20
        assert same(uri, again)
    with closing(open_storage(uri)) as storage:
        assert [study.study_name for study in storage.get_all_studies()] == ["s"]


def test_a_mirror_killed_at_any_moment_leaves_nothing_twice(shown, world):
    made, uri = shown
    search = made.search(30, "qmc")
    for count in range(3):
        mirror = StudyMirrorProcess(made.ledger.root, uri)
        world.run(search, until=10)
        wait(lambda count=count: len(trials(uri)) > 10 * count + 2 * (count % 3), "some are shown")
        os.kill(mirror.pid, signal.SIGKILL)
        assert "ended with code -9" in mirror.finish().error
    assert show(made, uri).shown == 30
    assert same(uri, search)


def test_a_database_that_is_deleted_is_made_again(shown, world, tmp_path):
    made, uri = shown
    search = made.search(12)
    mirror = StudyMirrorProcess(made.ledger.root, uri)
    try:
        world.run(search, until=5)
        wait(lambda: len(trials(uri)) == 5, "five conditions are shown")
        (tmp_path / "study.db").unlink()
        world.run(search, until=3)
        wait(lambda: (tmp_path / "study.db").exists() and len(trials(uri)) == 8, "it is made again")
        with closing(open_storage(uri)) as storage:
            storage.delete_study(storage.get_study_id_from_name("s"))
        world.run(search)
    finally:
        ended = mirror.finish()
    assert ended.error == "" and same(uri, search)


def test_a_file_that_is_locked_for_long_harms_nothing(shown, world, tmp_path):
    """Another process holds the file for more than 30 s; the search and the end of a run go on without it."""
    made, uri = shown
    search = made.search(30)
    world.run(search, until=3)
    assert show(made, uri).shown == 3
    code = (
        "import sqlite3, sys, time\n"
        f"held = sqlite3.connect({str(tmp_path / 'study.db')!r}, isolation_level=None)\n"
        "held.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(float(sys.argv[1]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, "34"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        began = time.monotonic()
        mirror = StudyMirrorProcess(made.ledger.root, uri)
        short = StudyMirrorProcess(made.ledger.root, uri)
        world.run(search, until=10)
        missing = short.finish(1.0)
        assert missing.error and time.monotonic() - began < 30, "the end of a run waits for nobody"
        wait(lambda: "locked" in mirror.log.read_text(), "the mirror meets the lock")
        assert holder.wait() == 0
    world.run(search)
    ended = mirror.finish()
    assert ended.error == "" and ended.shown == 30
    assert same(uri, search)


def test_a_file_of_another_kind_is_left_alone(shown, world, tmp_path):
    made, uri = shown
    world.run(made.search(2))
    (tmp_path / "study.db").write_bytes(b"my only copy" * 500)
    ended = show(made, uri, seconds=3.0)
    assert "not a database" in ended.error and ended.pending == 2
    assert (tmp_path / "study.db").read_bytes() == b"my only copy" * 500


def test_a_disk_without_room_harms_nothing(shown, world, tmp_path):
    made, uri = shown
    search = made.search(40, "qmc")
    world.run(search, until=2)
    assert show(made, uri).shown == 2
    world.run(search)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "study.db").stat().st_size, limits[1]))
        ended = show(made, uri, seconds=3.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert ("full" in ended.error or "I/O" in ended.error) and ended.pending, ended
    assert show(made, uri).shown == 40
    assert same(uri, search)


def test_a_study_of_somebody_else_is_left_alone(shown, world):
    made, uri = shown
    with closing(open_storage(uri)) as storage:
        optuna.create_study(storage=storage, study_name="s").add_trial(optuna.trial.create_trial(value=1.0))
    search = made.search(3)
    world.run(search)
    assert show(made, uri).study == "s-2"
    assert same(uri, search, "s-2")
    assert [trial.value for trial in trials(uri)] == [1.0]


def test_a_search_that_lost_events_gets_another_study(shown, world):
    made, uri = shown
    world.run(made.search(6), value=lambda parameters: 0.5)
    assert show(made, uri).shown == 6
    (made.ledger.root / "search" / "00000005.json").write_text("{")
    again = made.search(6)
    world.run(again)
    assert show(made, uri).study == "s-2"
    assert same(uri, again, "s-2") and len(trials(uri)) == 6


def test_rungs_are_intermediate_values(world, tmp_path):
    made = world(early_stop={"type": "asha", "min_steps": 2, "eta": 2})
    made.ledger.write_sweep(made.spec().text, {"trials": [], "search": {"goal": {}}})
    search, uri = made.search(4), f"sqlite:///{tmp_path / 'study.db'}"
    one = search.ask()
    assert one is not None
    condition = one.trials[0].condition_id
    search.log.append("rung", condition=condition, step=2, value=0.75, stop=False)
    assert show(made, uri).error == ""
    assert trials(uri)[0].intermediate_values == {2: 0.75}
    world.finish(search, one)
    assert show(made, uri).error == ""
    assert trials(uri)[0].intermediate_values == {2: 0.75} and trials(uri)[0].state.name == "COMPLETE"


@pytest.mark.parametrize("key", ["storage: postgresql://me:hush@h/db", "storage: 'postgresql://h/d?password=hush'",
                                 "warm_start: 'postgresql://me:hush@h/db#s'"])  # fmt: skip
def test_a_password_is_stored_nowhere(key):
    top = "name: s\nmethod: optuna\nparameters: {lr: {min: 0.1, max: 1}}\n"
    text = f"{top}search: {{num_trials: 4, {key}}}\n"
    with pytest.raises(SpecError, match="PGPASSWORD") as caught:
        load_spec(text)
    assert "hush" not in str(caught.value)


def test_a_database_without_its_driver_is_refused(world, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "psycopg" else find(name))
    with pytest.raises(SpecError, match=r"psycopg\[binary\]"):
        check(world().spec(4, storage="postgresql://host/db"))


# PostgreSQL


class Postgres:
    """A cluster of our own, run by a user without rights, with a password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.user = programs, folder, None
        if os.getuid() == 0:
            self.user = "nobody"
            shutil.chown(folder, "nobody")
        (folder / "password").write_text("hush-hush")
        (folder / "password").chmod(0o644)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._call("initdb", "-D", folder / "data", "-U", "sweeper", "--auth=scram-sha-256",
                   f"--pwfile={folder / 'password'}")  # fmt: skip
        self.uri = f"postgresql://sweeper@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._call("pg_ctl", "-D", self.folder / "data", "-w", "-t", "120", "-o", options,
                   "-l", self.folder / "log", "start")  # fmt: skip

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def _call(self, program: str, *words: object) -> None:
        command = [str(self.programs / program), *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd=self.folder)


@pytest.fixture(scope="module")
def postgres():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].name:
        pytest.skip("NOT TESTED: PostgreSQL is absent (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="bnsweep-postgres-"))
    server = Postgres(found[-1].parent, folder)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", "hush-hush")
        yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_in_postgresql_survives_its_server(world, postgres):
    made = world()
    made.ledger.write_sweep(made.spec(12, storage=postgres.uri).text, {"trials": [], "search": {"goal": {}}})
    search = made.search(12, storage=postgres.uri)
    mirror = StudyMirrorProcess(made.ledger.root, postgres.uri)
    try:
        world.run(search, until=5)
        wait(lambda: len(trials(postgres.uri)) == 5, "five conditions are shown")
        postgres.stop()
        began = time.monotonic()
        world.run(search, until=4)
        assert show(made, postgres.uri, seconds=2.0).error
        assert time.monotonic() - began < 60
        postgres.start()
        world.run(search)
    finally:
        ended = mirror.finish()
    assert ended.error == "" and ended.shown == 12
    assert same(postgres.uri, search)
    assert plotted(postgres.uri) == list(PLOTS)
    for path in made.ledger.root.rglob("*.*"):
        assert path.is_dir() or b"hush-hush" not in path.read_bytes()
