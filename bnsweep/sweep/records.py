"""What the ledger says of one finished trial, and how it is written down."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bnsweep.errors import LedgerError
from bnsweep.names import DATASETS
from bnsweep.parameters import Value
from bnsweep.trial import RESULTS_VERSION, TrialConfig, TrialState

__all__ = ["SCHEMA", "PlannedTrial", "Record", "aggregate_value", "check_schema", "check_trial_id", "now"]

SCHEMA = 1
"""Version of the ledger's files; a newer one is refused, never guessed at."""

_TRIAL_ID = re.compile(r"[0-9a-f]{16}")
_STATES_ON_RECORD = (TrialState.COMPLETED, TrialState.DIVERGED, TrialState.STOPPED)


def now() -> str:
    """Return the present time in UTC as the ledger writes it, such as 2026-01-31T12:00:00.000Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_trial_id(trial_id: str) -> str:
    """Return ``trial_id`` if it is one.

    Raises:
        ValueError: If it is not 16 hex digits; so no id can lead out of the ledger.
    """
    if not isinstance(trial_id, str) or not _TRIAL_ID.fullmatch(trial_id):
        raise ValueError(f"trial_id must be 16 hex digits, but found {trial_id!r}")
    return trial_id


def check_schema(content: Mapping[str, Any], where: object) -> None:
    """Refuse a file that a newer version of bnsweep wrote.

    Raises:
        LedgerError: If its schema is newer than this version knows.
        ValueError: If it states no schema.
    """
    schema = content.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ValueError(f"schema must be an integer >= 1, but found {schema!r}")
    if schema > SCHEMA:
        raise LedgerError(
            f"The ledger must have schema {SCHEMA} or older, but {where} has schema {schema}: a newer "
            "version of bnsweep wrote it. Install that version, or choose another storage folder."
        )


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of the stored plan.

    Attributes:
        trial_id: Its id when the plan was stored.
        label: Its name for people, such as ``batch lr=0.1 seed=3``.
        config: Parameters, probes and data fingerprint.
    """

    trial_id: str
    label: str
    config: TrialConfig


@dataclass(frozen=True)
class Record:
    """The outcome of one trial; immutable once written.

    Attributes:
        trial_id: 16 hex digits.
        parameters: All parameters, defaults filled in, ``seed`` included.
        state: ``completed``, ``diverged`` or ``stopped``; a failed trial has no record.
        steps: Optimizer updates done.
        readings: Last value of each network-wide reading, by name; may hold NaN and infinities.
        diverged_step: First step whose training-batch loss, before the update, was not finite.
        last_finite_loss: The last finite training-batch loss, where there was one.
        probes: Options by probe.
        fingerprint: Hash of the data set's contents.
        norm_code: Hash of the file that a norm of the user's comes from; empty for the others.
        label: Name for people.
        attempts: One mapping an execution: ``started`` and ``ended`` as :func:`now` writes them,
            ``host``, ``pack_id``, ``from_step``, ``to_step``; in the last one, how it was computed:
            ``kernel``, and ``member`` of ``members``, its place in the pack.
        environment: Package versions, device, threads, and the like.
        data: Facts of the data set: ``classes``, ``train``, ``test``; where absent, those of the
            named data set.
        written_at: UTC time of the record.
        curves_sha256: SHA-256 of ``curves.parquet``; filled in by the ledger.
        curves_bytes: Its size; filled in by the ledger.
        results_version: Version of the code's numbers.
        continued_from: Id of the trial, equal in all but ``steps``, whose kept state this one began with;
            empty where it began at step 0.
        weights_sha256: SHA-256 of the stored final weights; empty where there are none.
    """

    trial_id: str
    parameters: Mapping[str, Value]
    state: TrialState
    steps: int
    readings: Mapping[str, float]
    diverged_step: int | None = None
    last_finite_loss: float | None = None
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fingerprint: str = ""
    norm_code: str = ""
    label: str = ""
    attempts: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    written_at: str = field(default_factory=now)
    curves_sha256: str = ""
    curves_bytes: int = 0
    results_version: int = RESULTS_VERSION
    continued_from: str = ""
    weights_sha256: str = ""

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        state: TrialState,
        steps: int,
        readings: Mapping[str, float],
        **rest: Any,
    ) -> Record:
        """Build the record of ``config``; ``rest`` are further attributes by name."""
        rest.setdefault("label", config.label())
        return cls(
            config.trial_id,
            config.parameters,
            TrialState(state),
            steps,
            readings,
            probes=config.probes,
            fingerprint=config.fingerprint,
            norm_code=config.norm_code,
            **rest,
        )

    @property
    def config(self) -> TrialConfig:
        """The trial this is the outcome of."""
        return TrialConfig(self.parameters, self.probes, self.fingerprint, self.norm_code)

    @property
    def condition_id(self) -> str:
        """Equal for the replicates of one condition."""
        return self.config.condition_id

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return int(self.parameters["seed"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, in which NaN and infinities are text; what is empty is left out."""
        optional = {"continued_from": self.continued_from, "weights_sha256": self.weights_sha256}
        return {
            "schema": SCHEMA,
            "trial_id": self.trial_id,
            "label": self.label,
            "parameters": dict(self.parameters),
            "probes": {name: dict(options) for name, options in self.probes.items()},
            "fingerprint": self.fingerprint,
            "norm_code": self.norm_code,
            "data": dict(self.data),
            "state": TrialState(self.state).value,
            "steps": self.steps,
            "diverged_step": self.diverged_step,
            "last_finite_loss": self.last_finite_loss,
            "readings": {name: _encode_number(value) for name, value in self.readings.items()},
            "attempts": [dict(attempt) for attempt in self.attempts],
            "environment": dict(self.environment),
            "results_version": self.results_version,
            "written_at": self.written_at,
            "curves_sha256": self.curves_sha256,
            "curves_bytes": self.curves_bytes,
            **{name: value for name, value in optional.items() if value},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Record:
        """Rebuild a record written by :meth:`to_dict`.

        Raises:
            ValueError: If a key is absent or has an impossible value.
            LedgerError: If a newer version wrote it.
        """
        check_schema(content, "a record")
        try:
            record = cls(
                trial_id=check_trial_id(content["trial_id"]),
                parameters=dict(content["parameters"]),
                state=TrialState(content["state"]),
                steps=int(content["steps"]),
                readings={name: float(value) for name, value in content["readings"].items()},
                diverged_step=content["diverged_step"],
                last_finite_loss=content["last_finite_loss"],
                probes={name: dict(options) for name, options in content["probes"].items()},
                fingerprint=str(content["fingerprint"]),
                norm_code=str(content["norm_code"]),
                label=str(content["label"]),
                attempts=tuple(dict(attempt) for attempt in content["attempts"]),
                environment=dict(content["environment"]),
                data=dict(content["data"]),
                written_at=str(content["written_at"]),
                curves_sha256=str(content["curves_sha256"]),
                curves_bytes=int(content["curves_bytes"]),
                results_version=int(content["results_version"]),
                continued_from=str(content.get("continued_from", "")),
                weights_sha256=str(content.get("weights_sha256", "")),
            )
            record.check()
        except KeyError as error:
            raise ValueError(f"key {error} is absent") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a key has a value of the wrong kind: {error}") from error
        return record

    def check(self) -> None:
        """Check what must hold of any record.

        Raises:
            ValueError: If something does not hold.
        """
        check_trial_id(self.trial_id)
        if self.state not in _STATES_ON_RECORD:
            raise ValueError(f"state must be completed, diverged or stopped, but found {self.state}")
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0, but found {self.steps}")
        if (self.diverged_step is not None) != (self.state == TrialState.DIVERGED):
            raise ValueError("diverged_step must be given for a diverged trial, and only for one")
        if self.last_finite_loss is not None and not math.isfinite(self.last_finite_loss):
            raise ValueError(f"last_finite_loss must be finite, but found {self.last_finite_loss}")
        if self.continued_from:
            check_trial_id(self.continued_from)
        if "seed" not in self.parameters:
            raise ValueError("parameters must hold seed")


def _encode_number(value: float) -> float | str:
    """Return a finite number as it is, and ``nan``, ``inf``, ``-inf`` as text."""
    return float(value) if math.isfinite(value) else repr(float(value))


def _class_count(record: Record) -> int:
    """Return the number of classes of a record's data set; 0 for a regression or unknown."""
    facts = DATASETS.get(str(record.parameters.get("dataset")))
    return int(record.data.get("classes", facts.classes if facts else 0))


def aggregate_value(record: Record, name: str) -> float | None:
    r"""Return what a trial counts as in means over seeds: always finite, or nothing.

    A diverged trial counts as chance accuracy :math:`1/c`, and as the loss
    :math:`\max(\ln c, \text{last finite loss})`, for :math:`c` classes (:math:`\ln c` is left out for
    a regression). Other readings of any trial count where they are finite.

    Args:
        record: The trial's record.
        name: Name of the reading, such as ``test_accuracy``.

    Example:
        >>> parameters = {"dataset": "digits", "seed": 0}
        >>> burst = Record("0" * 16, parameters, TrialState.DIVERGED, 7, {}, diverged_step=7)
        >>> aggregate_value(burst, "test_accuracy")
        0.1
    """
    if record.state is TrialState.DIVERGED:
        classes = _class_count(record)
        if name in ("test_accuracy", "train_accuracy"):
            return 1.0 / classes if classes else None
        if name in ("test_loss", "train_loss"):
            floors = [math.log(classes)] if classes else []
            losses = [record.last_finite_loss] if record.last_finite_loss is not None else []
            return max(floors + losses, default=None)
    value = record.readings.get(name)
    return value if value is not None and math.isfinite(value) else None
