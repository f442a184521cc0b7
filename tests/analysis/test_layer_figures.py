"""Figures by layer and step length show the readings that they say: the paper's 1 (c), 2, 3, 6, 8 and 11."""

import numpy as np
import pandas as pd
import pytest

from bnsweep.analysis.layer_figures import drift_figure, fan_figure, ics_figure, step_figure
from bnsweep.analysis.styles import arm_styles, drawing

ARMS = {"none": ["a0", "a1"], "batch": ["b0", "b1"]}
TRIALS = [trial for own in ARMS.values() for trial in own]
STYLES = arm_styles(list(ARMS))
STEPS = (0, 100, 200, 300)


@pytest.fixture(autouse=True)
def defaults():
    with drawing("salt"):
        yield


def readings(names, layers, value):
    rows = [
        (trial, name, step, layer, value(trial, name, step, layer))
        for trial in TRIALS for name in names for step in STEPS for layer in layers
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["trial_id", "name", "step", "layer", "value"])


def drawn(axes, arm):
    [line] = [line for line in axes.get_lines() if line.get_label() == arm]
    return list(line.get_xdata()), list(line.get_ydata())


def test_a_fan_holds_the_quantiles_of_the_first_seed():
    levels = (5, 25, 50, 75, 95)
    names = [f"activations/q{level:02d}" for level in levels]

    def quantile(trial, name, step, layer):
        own = {"a0": 0, "b0": 10}.get(trial, 99)
        return own + layer + step / 100 + int(name[-2:]) / 100

    figure = fan_figure(readings(names, (2, 3, 5, 8, 10), quantile), ARMS, STYLES)
    assert figure is not None
    grid = np.reshape(figure.axes, (3, 2))
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["layer 2", "layer 5", "layer 10"]
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["none", "batch"]
    median = grid[1, 1].get_lines()[0]
    assert list(median.get_ydata()) == pytest.approx([15.5 + step / 100 for step in STEPS])
    outer, inner = (area.get_paths()[0].vertices[:, 1] for area in grid[0, 0].collections)
    assert (outer.min(), outer.max()) == pytest.approx((2.05, 5.95))
    assert (inner.min(), inner.max()) == pytest.approx((2.25, 5.75))


def test_drift_is_the_distance_from_the_first_step_and_the_change_in_one():
    change = readings(["moments/mean_change"], (0, 2, 9), lambda t, n, step, layer: 0.01 * layer + 1e-4)
    means = readings(["activations/mean"], (2, 9), lambda t, n, step, layer: 5.0 - layer * step / 100)
    figure = drift_figure(pd.concat([change, means]), ARMS, {}, STYLES)
    assert figure is not None
    above, below = np.reshape([axes for axes in figure.axes if axes.get_visible()], (2, 2))
    assert drawn(above[1], "batch")[1] == pytest.approx([0.0901] * 4)
    steps, distance = drawn(below[1], "batch")
    assert steps == [100, 200, 300]
    assert distance == pytest.approx([9, 18, 27])
    assert above[0].get_title(loc="left") == "Layer 2"


def test_step_lengths_are_multiples_of_the_learning_rate_and_leave_out_the_first_step():
    names = [f"landscape/gradient_change_at_{size:g}" for size in (0.5, 1, 2)]
    value = lambda trial, name, step, layer: 1e9 if step == 0 else float(name.split("_at_")[1]) * step  # noqa: E731
    figure = step_figure(readings(names, (0,), value), 0.1, ARMS, STYLES)
    assert figure is not None
    bold = figure.axes[0].get_lines()[-1]
    assert list(bold.get_xdata()) == pytest.approx([0.05, 0.1, 0.2])
    assert list(bold.get_ydata()) == pytest.approx([100, 200, 400])
    assert len(figure.axes[0].get_lines()) == len(STEPS)  # three times and their median
    assert "a learning rate" in figure.get_supxlabel()
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0.05", "0.1", "0.2"]


def test_covariate_shift_is_shown_by_layer_at_two_learning_rates():
    names = ["ics/l2", "ics/cosine"]
    value = lambda trial, name, step, layer: layer / 20 if name == "ics/cosine" else layer + step  # noqa: E731
    frame = readings(names, (0, 1, 9, 17), value)  # before layer 1 there is nothing that could shift
    figure = ics_figure(frame, {1e-7: ARMS, 1e-5: {"none": ["a0"]}}, {}, STYLES)
    assert figure is not None
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == [f"Layer {layer}, lr {lr}" for lr in ("1e-7", "1e-5") for _ in "ab" for layer in (9, 17)]
    assert drawn(figure.axes[1], "none")[1] == pytest.approx([0.85] * 4)
    assert drawn(figure.axes[3], "none")[1] == pytest.approx([17, 117, 217, 317])


@pytest.mark.parametrize("draw", [
    lambda frame: fan_figure(frame, ARMS, STYLES), lambda frame: drift_figure(frame, ARMS, {}, STYLES),
    lambda frame: step_figure(frame, 0.1, ARMS, STYLES),
    lambda frame: ics_figure(frame, {0.1: ARMS}, {}, STYLES),
])  # fmt: skip
def test_without_readings_there_is_no_figure(draw):
    assert draw(readings(["train_loss"], (0,), lambda *_: 1.0)) is None
