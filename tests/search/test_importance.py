"""What settings explain, against functions whose shares are known."""

from __future__ import annotations

import random

import pytest

from bnsweep.search import weigh


def drawn(number, **more):
    draw = random.Random(1)
    conditions = []
    for _ in range(number):
        condition = {
            "lr": 10 ** draw.uniform(-3, 0),
            "norm": draw.choice(["none", "batch"]),
            "idle": draw.random(),
        }
        if condition["norm"] == "batch":
            condition["noise"] = draw.random()
        conditions.append(condition)
    return conditions


def test_what_decides_everything_explains_nearly_everything():
    conditions = drawn(150)
    found = {one.name: one for one in weigh(conditions, [c["lr"] for c in conditions], ["lr"])}
    assert found["lr"].share > 0.8 and found["lr"].number == 150
    assert found["idle"].share < 0.1 and found["norm"].share < 0.1


def test_nothing_stands_out_where_nothing_has_an_effect():
    """A setting is above the mark of five blank ones in about one of six draws, never by far."""
    conditions, draw = drawn(100), random.Random(7)
    above = 0
    for _ in range(5):
        found = weigh(conditions, [draw.random() for _ in conditions])
        above += sum(one.share > one.blank for one in found)
        assert all(one.share < 3 * one.blank for one in found)
    assert above <= 9, f"{above} of 20"


def test_one_value_that_is_far_off_does_not_decide():
    conditions = drawn(120)
    values = [c["lr"] for c in conditions]
    values[conditions.index(min(conditions, key=lambda c: c["lr"]))] = -1e300
    assert weigh(conditions, values, ["lr"])[0].name == "lr"


def test_a_setting_that_applies_in_some_conditions_is_judged_among_these():
    conditions = drawn(160)
    found = {one.name: one for one in weigh(conditions, [c.get("noise", 0.5) for c in conditions])}
    with_noise = sum("noise" in c for c in conditions)
    assert not found["noise"].everywhere and found["noise"].number == with_noise
    assert found["noise"].share > 0.6 and found["lr"].everywhere


def test_it_is_the_same_every_time_and_silent_about_too_few():
    conditions = drawn(60)
    values = [c["idle"] for c in conditions]
    assert weigh(conditions, values) == weigh(conditions, values)
    assert weigh(conditions[:9], values[:9]) == []


@pytest.mark.parametrize("value", [0.5, 1e300])
def test_equal_values_explain_nothing(value):
    found = weigh(drawn(40), [value] * 40)
    assert all(one.share == pytest.approx(0, abs=1e-9) or one.share != one.share for one in found)
