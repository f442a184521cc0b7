"""More steps go on from where trials ended, where that was kept; else they begin again, and say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialState


def continued_as_at_once(long: dict[str, Any], sweeps: Any, tmp_path: Path) -> list[Record]:
    """Train a sweep at once in folder b; return the records of a, which went on and equal it to the bit."""
    sweeps.run(long, tmp_path / "b")
    one, other = Ledger(tmp_path / "a" / "tiny"), Ledger(tmp_path / "b" / "tiny")
    records = []
    for trial in api.plan(long).trial_ids:
        assert sweeps.outcome_of(one, trial) == sweeps.outcome_of(other, trial)
        record = one.record(trial)
        assert record is not None and record.continued_from
        records.append(record)
    return records


def records(folder: Path) -> dict[str, Any]:
    return {record.trial_id: record for record in Ledger(folder / "tiny").records()}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"norm": "batch", "optimizer": "adam"}, {"momentum": [0.0, 0.9], "precision": "float64"}],
    ids=["sgd", "adam", "momentum"],
)
def test_a_continued_trial_is_the_one_trained_at_once(
    parameters: dict[str, Any], kept: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    short = sweeps.changed(kept, **parameters)
    if "momentum" in parameters:
        short["resources"]["pack_size"] = 12
    long = sweeps.changed(short, steps=71)
    first, _ = sweeps.run(short, tmp_path / "a")
    assert first.exit_code == 0
    outcome, said = sweeps.run(long, tmp_path / "a")
    assert any("trials go on from step 33" in line for line in said)
    whole, _ = sweeps.run(long, tmp_path / "b")
    assert outcome.states == whole.states
    ids = api.plan(long).trial_ids
    one, other = Ledger(tmp_path / "a" / "tiny"), Ledger(tmp_path / "b" / "tiny")
    assert [sweeps.outcome_of(one, trial) for trial in ids] == [
        sweeps.outcome_of(other, trial) for trial in ids
    ]


def test_the_record_says_what_it_continues(kept: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    sweeps.run(kept, tmp_path)
    before = records(tmp_path)
    times = {t: Ledger(tmp_path / "tiny").curves(t)["time_ms"].to_pylist() for t in before}
    sweeps.run(sweeps.changed(kept, steps=71), tmp_path)
    fresh = {trial: record for trial, record in records(tmp_path).items() if trial not in before}
    assert len(fresh) == 6
    for trial, record in fresh.items():
        former = before[record.continued_from]
        assert former.parameters == {**record.parameters, "steps": 33}
        assert [attempt["from_step"] for attempt in record.attempts] == [0, 33]
        assert record.attempts[0] == former.attempts[0]
        own = Ledger(tmp_path / "tiny").curves(trial)["time_ms"].to_pylist()
        assert own[0] == times[record.continued_from][0]  # the earlier part was read then
    assert before == {trial: record for trial, record in records(tmp_path).items() if trial in before}


def test_a_third_run_goes_on_from_the_longest(kept: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    for steps in (20, 33, 71):
        _, said = sweeps.run(sweeps.changed(kept, steps=steps), tmp_path / "a")
    assert any("6 trials go on from step 33" in line for line in said)
    long = sweeps.changed(kept, steps=71)
    sweeps.run(long, tmp_path / "b")
    one, other = Ledger(tmp_path / "a" / "tiny"), Ledger(tmp_path / "b" / "tiny")
    for trial in api.plan(long).trial_ids:
        assert sweeps.outcome_of(one, trial) == sweeps.outcome_of(other, trial)
        record = one.record(trial)
        assert record is not None
        assert [attempt["from_step"] for attempt in record.attempts] == [0, 20, 33]
    kept_of = [record for record in one.records() if record.trial_id in one.kept_steps()]
    states = {record.parameters["steps"] for record in kept_of}
    assert states == {71}  # of each the longest is kept


def test_interrupted_while_it_goes_on(
    kept: dict[str, Any], sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint at every step, and an end at step 50: the next run goes on from there."""
    from bnsweep.runners.work import PackWorker

    sweeps.run(kept, tmp_path / "a")
    long = sweeps.changed(kept, steps=71)
    real = PackWorker._advance

    def dies(self: PackWorker, deadline: float) -> Any:
        assert self._trainer is not None
        while self._trainer.step_index < 50:
            self._trainer.step()
            self._collect()
        self._checkpoint()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PackWorker, "_advance", dies)
        with pytest.raises(KeyboardInterrupt):
            sweeps.run(long, tmp_path / "a")
    assert PackWorker._advance is real
    outcome, _ = sweeps.run(long, tmp_path / "a")
    assert outcome.exit_code == 0
    for record in continued_as_at_once(long, sweeps, tmp_path):
        assert [attempt["from_step"] for attempt in record.attempts] == [0, 33, 50]


def test_more_steps_and_more_values_at_once(kept: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    sweeps.run(kept, tmp_path)
    long = sweeps.changed(kept, steps=71, lr=[0.1, 0.2, 1e6])
    long["seeds"] = 3
    outcome, said = sweeps.run(long, tmp_path)
    assert outcome.exit_code == 0
    assert any("4 trials go on from step 33" in line for line in said)  # two rates, two seeds
    begun = sorted(
        r.attempts[-1]["from_step"] for r in records(tmp_path).values() if r.parameters["steps"] == 71
    )
    assert begun == [0] * 5 + [33] * 4


def test_without_a_kept_state_a_run_says_that_it_begins_again(
    tiny: dict[str, Any], kept: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    plain = {**kept, "keep_checkpoints": False}
    sweeps.run(plain, tmp_path)
    outcome, said = sweeps.run(sweeps.changed(plain, steps=71), tmp_path)
    (line,) = [line for line in said if "start at step 0" in line]
    assert line.startswith("6 trials") and "keep_checkpoints: true" in line
    assert outcome.exit_code == 0
    _, said = sweeps.run(sweeps.changed(kept, steps=90), tmp_path)
    (line,) = [line for line in said if "start at step 0" in line]
    assert line.startswith("4 trials") and "no checkpoint was kept" in line
    assert any("2 trials go on from step 71" in line for line in said)  # diverged: more steps change nothing
    _, said = sweeps.run(sweeps.changed(kept, steps=90), tmp_path)
    assert not [line for line in said if "step 0" in line]


def test_kept_states_asked_for_too_late_are_said_to_be_absent(
    kept: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run({**kept, "keep_checkpoints": False}, tmp_path)
    _, said = sweeps.run({**kept, "save_weights": "final"}, tmp_path)
    assert (
        "note: of 4 finished trials no checkpoint was kept: they were run without keep_checkpoints: true"
        in said
    )
    assert (
        "note: of 4 finished trials no weights were stored: they were run without save_weights: final" in said
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "absent", "pickle", "foreign", "step"])
def test_a_damaged_state_is_moved_aside_and_training_begins_again(
    damage: str, kept: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(kept, tmp_path / "a")
    root = tmp_path / "a" / "tiny"
    data = sorted(root.glob("trials/*/checkpoint.33.*.bin"))[0]
    spoil(data, damage, tmp_path)
    long = sweeps.changed(kept, steps=71)
    outcome, said = sweeps.run(long, tmp_path / "a")
    assert outcome.exit_code == 0
    assert not (tmp_path / "pwned").exists()
    (line,) = [line for line in said if "start at step 0" in line]
    assert line.startswith("note: 6 trials") and "kept state" in line
    assert list(root.glob("quarantine/the-kept-state-of-trial-*"))
    sweeps.run(long, tmp_path / "b")
    one, other = Ledger(root), Ledger(tmp_path / "b" / "tiny")
    for trial in api.plan(long).trial_ids:
        assert sweeps.outcome_of(one, trial) == sweeps.outcome_of(other, trial)
        record = one.record(trial)
        assert record is not None and record.continued_from == ""


def spoil(data: Path, damage: str, tmp_path: Path) -> None:
    """Damage a kept state; what a checksum would notice, and what it would not."""
    import hashlib
    import io
    import pickle

    import torch

    content = data.read_bytes()
    if damage == "absent":
        data.unlink()
        return
    if damage in ("cut", "flipped"):
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        data.write_bytes(content[:middle] if damage == "cut" else flipped)
        return
    if damage == "pickle":

        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "pwned",))

        content = pickle.dumps(Evil())
    else:
        state = torch.load(io.BytesIO(content), weights_only=True)
        if damage == "foreign":
            state["stack"]["model"] = {}
        else:
            state["step"] = 32
        stream = io.BytesIO()
        torch.save(state, stream)
        content = stream.getvalue()
    data.write_bytes(content)  # and now a manifest that verifies
    manifest = data.parent / "checkpoint.33.json"
    said = json.loads(manifest.read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest.write_text(json.dumps({**said, "bytes": len(content), "sha256": digest}))


def test_a_trial_whose_curves_are_damaged_is_not_gone_on_from(
    kept: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(kept, tmp_path)
    curves = sorted(tmp_path.glob("tiny/trials/*/curves.parquet"))[0]
    content = bytearray(curves.read_bytes())
    content[100] ^= 1
    curves.write_bytes(bytes(content))
    outcome, said = sweeps.run(sweeps.changed(kept, steps=71), tmp_path)
    assert outcome.exit_code == 0
    assert outcome.states == {"completed": 4, "diverged": 2}
    assert any("start at step 0" in line and "SHA-256 of its curves" in line for line in said)


def test_a_pack_that_goes_on_can_be_divided(kept: dict[str, Any]) -> None:
    from bnsweep.sweep.packs import divide, make_packs

    trials = api.plan(kept).trials
    (pack,) = make_packs(trials, 6)
    starts = {member: f"{number:016x}" for number, member in enumerate(pack.members)}
    content = {
        **pack.to_dict(),
        "trials": [trial.to_dict() for trial in trials],
        "labels": list(map(str, range(6))),
        "starts": starts,
    }
    for alone in (False, True):
        parts = [part for _, part in divide(content, alone=alone)]
        assert {member: start for part in parts for member, start in part["starts"].items()} == starts
        assert all(set(part["starts"]) == set(part["members"]) for part in parts)


def test_packs_are_as_large_as_the_user_allows(kept: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    """In float64 a member's bits do not depend on the size of its pack."""
    kept["parameters"]["precision"] = "float64"
    sweeps.run(kept, tmp_path / "a")
    long = sweeps.changed(kept, steps=71)
    long["resources"] = {"pack_size": 2, "kernel": "grouped"}
    sweeps.run(long, tmp_path / "a")
    sweeps.run(long, tmp_path / "b")
    one, other = Ledger(tmp_path / "a" / "tiny"), Ledger(tmp_path / "b" / "tiny")
    for trial in api.plan(long).trial_ids:
        assert sweeps.outcome_of(one, trial) == sweeps.outcome_of(other, trial)
        record = one.record(trial)
        assert record is not None and record.attempts[-1]["members"] == 2


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_too(kept: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    kept["save_weights"] = "final"
    long = sweeps.changed(kept, steps=71)
    for content in (kept, long):
        outcome = api.run(content, storage=str(tmp_path / "a"))
        assert outcome.exit_code == 0
    for record in continued_as_at_once(long, sweeps, tmp_path):
        assert bool(record.weights_sha256) == (record.state is TrialState.COMPLETED)
