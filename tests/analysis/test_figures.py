import math

import numpy as np
import pandas as pd
import pytest

from bnsweep.analysis import make_report, results_table
from bnsweep.analysis.curve_figures import BINS, Curves, Panel, band_figure, curves_figure, draw_panel
from bnsweep.analysis.figures import arm_figure, lr_figure
from bnsweep.analysis.ranges import facet_ranges
from bnsweep.analysis.styles import arm_styles, drawing, encode, new_figure, tick_text
from bnsweep.names import NAMES

TABLE = {
    ("none", 0.01): [0.5, 0.6, 0.4],
    ("none", 0.1): [0.5, None, None],
    ("batch", 0.01): [0.9, 0.8, 0.85],
    ("batch", 0.1): [0.95, 0.9, 0.94],
}


@pytest.fixture(autouse=True)
def defaults():
    with drawing("salt"):
        yield


def lines(axes):
    return {str(line.get_label()): line for line in axes.get_lines()}


def test_the_line_is_the_mean_and_every_seed_is_drawn(accuracies):
    ranges = facet_ranges(results_table(accuracies(TABLE)))
    top, bottom = lr_figure(ranges, arm_styles(["none", "batch"])).axes
    assert list(lines(top)["none"].get_ydata()) == pytest.approx([50.0, 100 * (0.5 + 0.1 + 0.1) / 3])
    assert list(lines(top)["batch"].get_ydata()) == pytest.approx([85.0, 93.0])
    seeds = np.concatenate(
        [dots.get_offsets()[:, 1] for dots in top.collections if len(dots.get_offsets()) > 1]
    )
    assert sorted(seeds) == pytest.approx([10, 10, 40, 50, 50, 60, 80, 85, 90, 90, 94, 95])
    assert [text.get_text() for text in bottom.get_yticklabels()] == ["batch", "none"]


def test_seeds_stand_beside_their_own_learning_rate(accuracies):
    ranges = facet_ranges(results_table(accuracies(TABLE)))
    top, _ = lr_figure(ranges, arm_styles(["none", "batch"])).axes
    places = np.concatenate(
        [dots.get_offsets()[:, 0] for dots in top.collections if len(dots.get_offsets()) > 1]
    )
    distance = [min(abs(math.log10(x / lr)) for lr in (0.01, 0.1)) for x in places]
    assert max(distance) < 0.25
    assert len(set(np.round(places, 9))) == 12


def test_axes_are_labelled_with_units_and_the_rate_is_logarithmic(accuracies):
    ranges = facet_ranges(results_table(accuracies(TABLE)))
    top, bottom = lr_figure(ranges, arm_styles(["none", "batch"])).axes
    assert top.get_ylabel() == "final test accuracy (%)"
    assert bottom.get_xlabel() == "learning rate (log scale)"
    assert top.get_xscale() == "log"
    assert [text.get_text() for text in bottom.get_xticklabels()] == ["0.01", "0.1"]
    assert "chance, 10 %" in {text.get_text() for text in top.texts}


def test_one_learning_rate_is_drawn_arm_by_arm(accuracies):
    ranges = facet_ranges(results_table(accuracies({("none", 0.1): [0.4, None], ("batch", 0.1): [0.9, 0.8]})))
    (axes,) = arm_figure(ranges, arm_styles(["none", "batch"])).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["none", "batch"]
    assert len(axes.collections) == 4


def test_norms_differ_in_colour_and_in_line_or_marker():
    styles = arm_styles([*NAMES["norm"], "mine:norm", "mine:other"])
    assert len({style.color for style in styles.values()}) == len(styles)
    assert len({style.marker for style in styles.values()}) == len(styles)


def test_a_norm_looks_the_same_in_every_sweep_and_its_arms_differ():
    alone = arm_styles(["batch"])["batch"]
    assert arm_styles(["none", "l1", "batch"])["batch"] == alone
    levels = arm_styles(["batch", "noisy_batch noise=0.5", "noisy_batch noise=1", "noisy_batch noise=2"])
    assert len({(style.color, style.marker) for style in levels.values()}) == 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.003, "0.003"), (3000, "3000"), (1e4, "$10^{4}$"), (3e-7, r"$3\times10^{-7}$"), (math.inf, "")],
)
def test_ticks(value, expected):
    assert tick_text(value) == expected


def curves(values, diverged=None, name="r"):
    """Curves of one arm from a mapping of trial to values, one a step of 10."""
    rows = [
        (trial, name, 10 * index, value) for trial, own in values.items() for index, value in enumerate(own)
    ]
    frame = pd.DataFrame(rows, columns=["trial_id", "name", "step", "value"])
    return Curves(frame, {"batch": list(values)}, diverged or {})


def mean_line(made, panel):
    axes = new_figure(4, 3).subplots()
    draw_panel(axes, made, panel, arm_styles(["batch"]))
    line = lines(axes)["batch"]
    return axes, list(line.get_xdata()), list(line.get_ydata())


def test_the_mean_curve_is_over_seeds():
    _, steps, mean = mean_line(curves({"a": [1.0, 2.0], "b": [3.0, 6.0]}), Panel("r", "", "y"))
    assert (steps, mean) == ([0, 10], [2.0, 4.0])


def test_the_mean_on_a_logarithmic_axis_is_geometric_and_leaves_out_what_cannot_be_shown():
    made = curves({"a": [1.0, 4.0, 0.0], "b": [100.0, math.inf, 7.0]})
    axes, _, mean = mean_line(made, Panel("r", "", "y", log=True))
    assert mean == pytest.approx([10.0, 4.0, 7.0])
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "y, log scale"


def test_a_diverged_seed_counts_at_chance_from_its_step_on():
    made = curves({"a": [0.1, 0.5, 0.9], "b": [0.1, 0.3]}, diverged={"b": 15})
    axes, _, mean = mean_line(made, Panel("r", "", "y", percent=True, fill=0.1))
    assert mean == pytest.approx([10.0, 40.0, 50.0])
    assert [tuple(dots.get_offsets()[0]) for dots in axes.collections] == [(10.0, 30.0)]


def test_a_diverged_seed_without_a_fill_leaves_the_mean_to_the_others():
    made = curves({"a": [1.0, 2.0, 3.0], "b": [3.0, 4.0]}, diverged={"b": 15})
    assert mean_line(made, Panel("r", "", "y"))[2] == pytest.approx([2.0, 3.0, 3.0])


def test_long_curves_are_averaged_within_stretches():
    values = np.random.default_rng(0).random(12 * BINS)
    _, steps, mean = mean_line(curves({"a": list(values)}), Panel("r", "", "y"))
    assert len(mean) == BINS
    assert np.mean(mean) == pytest.approx(values.mean(), rel=0.01)
    assert mean[0] == pytest.approx(values[:12].mean())
    assert all(np.diff(steps) > 0)


def test_legends_read_row_by_row_and_name_every_arm():
    made = curves({"a": [1.0, 2.0]})
    arms = [f"arm{index}" for index in range(7)]
    every = Curves(made.frame, {arm: ["a"] for arm in arms}, {})
    figure = curves_figure([(every, [Panel("r", "", "y")], {})], arm_styles(arms))
    (part,) = figure.subfigs
    assert sorted(text.get_text() for text in part.legends[0].get_texts()) == arms


def test_bands_have_a_panel_an_arm_on_common_axes():
    frame = pd.concat(
        [curves({"a": [1.0, 2.0]}, name="low").frame, curves({"a": [4.0, 8.0]}, name="high").frame]
    )
    both = Curves(frame.reset_index(drop=True), {"none": ["a"], "batch": ["a"]}, {})
    low, high = Panel("low", "", "loss", log=True), Panel("high", "", "loss", log=True)
    figure = band_figure(both, low, high, "Loss", arm_styles(["none", "batch"]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["none", "batch"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.get_supylabel() == "loss, log scale"


def test_encoding_holds_no_date_or_version():
    figure = new_figure(2, 2)
    figure.subplots().plot([0, 1])
    png, svg, pdf = encode(figure)
    assert png.startswith(b"\x89PNG")
    assert b"Matplotlib" not in png
    assert b"dc:date" not in svg
    assert b"dc:creator" not in svg
    assert b"Matplotlib v" not in svg
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf


def test_probes_that_overflow_or_vanish_do_not_stop_the_report(tmp_path, synthetic):
    def outcome(config):
        big = math.inf if config.seed else 1e300
        rows = []
        for step in range(0, 300, 50):
            for name, value in (
                ("train_loss", 100.0), ("landscape/loss_min", 1.0), ("landscape/loss_max", big),
                ("landscape/loss_width", big), ("landscape/gradient_change_max", 1e16),
                ("landscape/gradient_change_min", 0.0), ("landscape/beta_lr", math.nan),
                ("ics/l2", 0.0), ("ics/cosine", math.nan), ("moments/mean_change", 1e-80),
            ):  # fmt: skip
                rows.append((step, name, 0, value, 0))
        return synthetic.Outcome({"train_loss": 100.0, "test_loss": big}, rows)

    plan = synthetic.trials(synthetic.grid(["none", "batch"], [1e-7, 1e-6], model="dln"), range(2))
    report = make_report(synthetic.build(tmp_path, plan, outcome))
    names = {path.stem for path in report.figures}
    assert names == {"train-loss-vs-lr", "test-loss-vs-lr", "training", "landscape", "moments"}


def test_the_last_bits_of_a_layout_change_no_byte() -> None:
    """The layout's solver is not the same to the last bit from run to run."""
    made = []
    for left in (0.1, math.nextafter(0.1, 1)):
        with drawing("salt"):
            figure = new_figure(3, 2)
            figure.set_layout_engine("none")
            figure.add_axes((left, 0.1, 0.8, 0.8)).plot([0, 1], [0, 1])
            made.append(encode(figure))
    assert made[0] == made[1]
    assert made[0][1].count(b"clip-path=") > 0
