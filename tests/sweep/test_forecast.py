"""What calibrations say of a sweep, on numbers that can be added up by hand."""

import pytest

from bnsweep.names import DEFAULT_KERNEL
from bnsweep.sweep.forecast import Measured, reading_steps
from bnsweep.trial import TrialConfig

FOUND = {
    "kernel": "channels_last",
    "members": 4,
    "step_seconds": {"1": 0.010, "4": 0.016, "8": 0.040},
    "evaluation_seconds": 0.5,
    "probe_seconds": {"ics": 0.25},
    "build_seconds": 1.0,
    "commit_seconds": 0.125,
    "process_bytes": 900,
    "trial_bytes": 30,
    "limited": "speed",
    "memory": None,
}


def trials(count, **parameters):
    given = {"steps": 100, "eval_every": 50, "log_every": 10, **parameters}
    return [TrialConfig.create({**given, "seed": seed}, {"ics": {"every": 25}}) for seed in range(count)]


def measured(**options):
    return Measured(lambda signature: FOUND, **options)


def test_the_steps_at_which_a_trial_is_read():
    steps = reading_steps(trials(1)[0])
    assert steps == {
        "evaluation": [0, 50, 100],
        "training": [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99],
        "ics": [0, 25, 50, 75],
    }


@pytest.mark.parametrize(
    ("members", "step"),
    [(4, 0.016), (1, 0.010), (2, 0.012), (6, 0.028), (16, 0.080)],
    ids=["measured", "smallest", "between", "between-larger", "beyond"],
)
def test_the_time_of_a_pack_adds_up(members, step):
    share = members / 4
    expected = 100 * step + share * (1.0 + 3 * 0.5 + 4 * 0.25) + members * 0.125
    assert measured().pack_seconds(trials(1)[0], members) == pytest.approx(expected)


def test_packs_have_the_size_and_kernel_that_were_measured():
    packs = measured().packs(trials(8), 1, "cpu")
    assert [len(pack.members) for pack in packs] == [4, 4]
    assert {pack.kernel for pack in packs} == {"channels_last"}


def test_what_the_file_decides_comes_first():
    own = measured(pack_size=2, kernel="loop")
    assert own.decided
    packs = own.packs(trials(6), 1, "cpu")
    assert [len(pack.members) for pack in packs] == [2, 2, 2]
    assert {pack.kernel for pack in packs} == {"loop"}


def test_a_trial_that_cannot_be_stacked_is_alone_whatever_the_file_says():
    packs = measured(pack_size=4, stackable=lambda trial: False).packs(trials(3), 1, "cpu")
    assert [len(pack.members) for pack in packs] == [1, 1, 1]


def test_a_forecast_of_two_workers():
    own = measured()
    forecast = own.forecast(trials(8), 2, "cpu")
    assert forecast.seconds == pytest.approx(own.pack_seconds(trials(1)[0], 4))
    assert (forecast.worker_bytes, forecast.ledger_bytes) == (900, 240)
    alone = own.forecast(trials(8), 1, "cpu")
    assert alone.seconds == pytest.approx(2 * forecast.seconds)
    assert forecast.to_dict()["packs"][0]["size"] == 4


def test_without_a_measurement_there_are_packs_but_no_figures():
    forecast = Measured(lambda signature: None).forecast(trials(20), 2, "cpu")
    assert sum(len(pack.members) for pack in forecast.packs) == 20
    assert {pack.kernel for pack in forecast.packs} == {DEFAULT_KERNEL}
    assert (forecast.seconds, forecast.worker_bytes, forecast.ledger_bytes) == (None, None, None)


def test_nothing_left_takes_nothing():
    forecast = measured().forecast([], 2, "cpu")
    assert (len(forecast.packs), forecast.seconds) == (0, 0.0)
