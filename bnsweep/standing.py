"""Where a sweep stands, from its ledger alone: read here or on another machine, while it runs or after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bnsweep.execution import count_states

if TYPE_CHECKING:
    from bnsweep.sweep.lease import Holder
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.sweep.places import Place

__all__ = ["Position", "Status", "read_status"]


@dataclass(frozen=True)
class Position:
    """Where one worker was when the driver last wrote it down.

    Attributes:
        pack_id: The pack that it trains.
        members: Trials in it.
        step: Steps made.
        steps: Steps in all.
        from_step: Step at which the worker took the pack up.
        host: The worker's machine.
        pid: Its process.
        since: UTC time at which the driver first heard of it with this pack.
    """

    pack_id: str
    members: int
    step: int
    steps: int
    from_step: int
    host: str
    pid: int
    since: str


@dataclass(frozen=True)
class Status:
    """Where a sweep stands.

    Attributes:
        name: The sweep's name.
        root: The ledger's folder.
        planned: Trials in the stored plan; of a search, all that it may suggest.
        states: Trials of the plan by state: ``completed``, ``diverged``, ``stopped``, ``failed``,
            ``pending``.
        open_packs: Packs that were begun and are not in the ledger yet.
        state: ``running``; ``silent`` where its driver has not been heard of for long; ``interrupted``;
            ``incomplete`` where it ended and trials are left; ``done``; ``not run``.
        driver: ``host``, ``pid`` and ``since`` of the process that runs it, or ran it last, and
            ``heard``, when it last gave a sign of life; empty where none ever did.
        positions: What is running where; empty unless it runs.
        trials_per_minute: Trials' worth of training a minute in this run; ``None`` unless it runs.
        seconds_left: Time that the rest takes at this pace; ``None`` unless it runs.
        interrupted_at: UTC time at which the last run was heard of last, where it did not end by itself.
        last_error: ``text``, ``at`` and number of ``trials`` of the last error; empty where there is none.
        mirrored: Finished trials that MLflow shows in full; ``None`` where that is not known here.
    """

    name: str
    root: Place
    planned: int
    states: Mapping[str, int]
    open_packs: int
    state: str = "not run"
    driver: Mapping[str, Any] | None = None
    positions: tuple[Position, ...] = ()
    trials_per_minute: float | None = None
    seconds_left: float | None = None
    interrupted_at: str | None = None
    last_error: Mapping[str, Any] | None = None
    mirrored: int | None = None

    @property
    def finished(self) -> int:
        """Trials with a record."""
        return sum(self.states.get(state, 0) for state in ("completed", "diverged", "stopped"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        content = {**vars(self), "root": str(self.root), "states": dict(self.states)}
        return content | {"finished": self.finished, "positions": [vars(one) for one in self.positions]}


def read_status(ledger: Ledger, tracking_uri: str | None) -> Status:
    """Say where a sweep stands.

    Args:
        ledger: The sweep's.
        tracking_uri: The store that it is mirrored into, as an absolute address; ``None`` for none.
    """
    plan = ledger.plan()
    ids = [str(trial["trial_id"]) for trial in plan["trials"]]
    states = count_states(ledger, ids)
    planned = max(len(ids), int(plan.get("count") or 0)) if plan.get("method") == "optuna" else len(ids)
    if planned > len(ids):
        states["pending"] = states.get("pending", 0) + planned - len(ids)
    holder, told = ledger.holder(), _Told(ledger.progress())
    running = holder is not None and holder.state == "alive"
    rate = told.rate if running and holder is not None and told.epoch == holder.epoch else None
    positions = told.positions if running and holder is not None and told.epoch == holder.epoch else ()
    state = _state(holder, told, states)
    return Status(
        ledger.name,
        ledger.root,
        planned,
        states,
        len(ledger.pack_ids()),
        state,
        _driver(holder),
        positions,
        None if rate is None else 60 * rate,
        None if not rate else max(0.0, told.left / rate),
        told.updated or _time(holder) if state in ("interrupted", "silent") else None,
        told.last_error,
        _mirrored(ledger, ids, tracking_uri),
    )


def _state(holder: Holder | None, told: _Told, states: Mapping[str, int]) -> str:
    if holder is None:
        return "not run"
    if holder.state in ("alive", "silent"):
        return "running" if holder.state == "alive" else "silent"
    if not states.get("pending"):
        return "done"
    return "interrupted" if holder.state == "dead" or told.ended == "interrupted" else "incomplete"


def _driver(holder: Holder | None) -> dict[str, Any] | None:
    if holder is None:
        return None
    said = {"taken": holder.taken_at, "heard": holder.heard_at}
    times = {name: _iso(value) for name, value in said.items()}
    return {"host": holder.host, "pid": holder.process, "since": times["taken"], "heard": times["heard"]}


def _time(holder: Holder | None) -> str | None:
    return _iso(holder.heard_at) if holder else None


def _iso(seconds: float) -> str | None:
    if not 0 < seconds < 1e11:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _mirrored(ledger: Ledger, trial_ids: list[str], uri: str | None) -> int | None:
    from bnsweep.tracking.mapping import exported_before, mapping_path

    if uri is None or not mapping_path(ledger, uri).is_file():
        return None
    return len(exported_before(ledger, uri) & ledger.done() & set(trial_ids))


class _Told:
    """What a run told of itself; whatever of it cannot be read is absent."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.epoch = _number(content.get("epoch"))
        self.ended = _text(content.get("ended"))
        self.updated = _text(content.get("updated")) or None
        packs = content.get("packs")
        self.positions = tuple(
            Position(
                _text(one.get("pack_id")),
                int(_number(one.get("members"))),
                int(_number(one.get("step"))),
                int(_number(one.get("steps"))),
                int(_number(one.get("from_step"))),
                _text(one.get("host")),
                int(_number(one.get("pid"))),
                _text(one.get("since")),
            )
            for one in (packs if isinstance(packs, list) else ())
            if isinstance(one, dict)
        )
        live = [one for one in self.positions if one.steps]
        here = sum(one.members * (one.step - one.from_step) / one.steps for one in live)
        trained = _number(content.get("trained")) + here
        seconds = _number(content.get("seconds"))
        self.rate = trained / seconds if seconds > 1 and trained > 0 else None
        finished = content.get("finished")
        done = sum(map(_number, finished.values())) if isinstance(finished, dict) else 0
        worth = done + sum(one.members * one.step / one.steps for one in live)
        self.left = _number(content.get("total")) - worth
        error = content.get("last_error")
        self.last_error = None
        if isinstance(error, dict):
            said = {name: _text(error.get(name)) for name in ("text", "at")}
            self.last_error = {**said, "trials": int(_number(error.get("trials")))}


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and -1e15 < value < 1e15 else 0


def _text(value: object) -> str:
    """Return a text without what a terminal would obey."""
    text = value if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def age_of(text: str | None, clock: float | None = None) -> float | None:
    """Return how many seconds ago a time was, as the ledger writes it; ``None`` where it is none."""
    try:
        then = datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None
    return max(0.0, (time.time() if clock is None else clock) - then)
