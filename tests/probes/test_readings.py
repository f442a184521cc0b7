import math

import torch

from bnsweep.probes import (
    ICSReading,
    MomentsReading,
    gradient_landscape,
    ics_rows,
    landscape_rows,
    moments_rows,
)

NAN = math.nan


def test_ics_has_a_row_for_the_network_and_one_for_each_layer():
    l2 = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    reading = ICSReading((3, 9), l2, l2 / 100, l2 * 2)
    assert ics_rows(reading, member=1) == [
        ("ics/l2", 0, 15.0), ("ics/l2", 3, 10.0), ("ics/l2", 9, 20.0),
        ("ics/cosine", 0, (l2 / 100)[:, 1].mean().item()), ("ics/cosine", 3, (l2 / 100)[0, 1].item()),
        ("ics/cosine", 9, (l2 / 100)[1, 1].item()),
        ("ics/relative", 0, 30.0), ("ics/relative", 3, 20.0), ("ics/relative", 9, 40.0),
    ]  # fmt: skip


def test_an_undefined_layer_is_left_out_of_the_mean():
    cosine = torch.tensor([[NAN, NAN], [0.5, NAN], [1.0, NAN]])
    reading = ICSReading((1, 2, 3), torch.ones(3, 2), cosine, torch.ones(3, 2))
    first = {row[:2]: row[2] for row in ics_rows(reading, 0)}
    assert first["ics/cosine", 0] == 0.75 and math.isnan(first["ics/cosine", 1])
    second = {row[:2]: row[2] for row in ics_rows(reading, 1)}
    assert math.isnan(second["ics/cosine", 0])


def test_landscape_rows_of_a_quadratic():
    # L = w^2 with w = 1 and g = 2: steps 1/4 and 1 of lr 1/2 lead to 3/4 and 0
    lr = torch.tensor([0.5, 0.5])
    reading = gradient_landscape(
        lambda p: p["w"].square(), {"w": torch.tensor([1.0, 5.0])}, lr, [0.25, 1.0], 2
    )
    assert landscape_rows(reading, member=0) == [
        ("landscape/loss", 0, 1.0),
        ("landscape/loss_min", 0, 0.0),
        ("landscape/loss_max", 0, 0.5625),
        ("landscape/loss_width", 0, 0.5625),
        ("landscape/gradient_norm", 0, 2.0),
        ("landscape/gradient_change_min", 0, 0.5),
        ("landscape/gradient_change_max", 0, 2.0),
        ("landscape/beta", 0, 2.0),
        ("landscape/beta_lr", 0, 1.0),
        ("landscape/beta_step", 0, 0.25),
        ("landscape/n_overflow", 0, 0.0),
    ]


def test_a_diverged_member_has_infinite_bands_and_a_count():
    reading = gradient_landscape(
        lambda p: p["w"].square(), {"w": torch.tensor([NAN, 1.0])}, torch.ones(2), [1.0, 2.0], 2
    )
    rows = {name.removeprefix("landscape/"): value for name, _, value in landscape_rows(reading, 0)}
    assert rows["n_overflow"] == 4.0
    infinite = ("loss_min", "loss_max", "loss_width", "gradient_change_min", "gradient_change_max", "beta")
    assert all(rows[name] == math.inf for name in infinite)
    assert math.isnan(rows["beta_step"]) and math.isnan(rows["loss"])


def test_moments_rows_carry_the_layers_of_the_sites():
    reading = MomentsReading(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]]))
    assert moments_rows(reading, 1, layers=[2, 5]) == [
        ("moments/mean_change", 0, 4.0),
        ("moments/mean_change", 2, 2.0),
        ("moments/mean_change", 5, 6.0),
        ("moments/variance_change", 0, 2.0),
        ("moments/variance_change", 2, 1.0),
        ("moments/variance_change", 5, 3.0),
    ]
