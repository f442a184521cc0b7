import math

import pytest
import torch

from bnsweep.probes import member_difference, member_norm, pairwise_sum


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 1000, 70_001])
def test_pairwise_sum_is_as_good_as_the_exact_sum(count):
    values = normal(count)
    assert pairwise_sum(values).item() == pytest.approx(math.fsum(values.tolist()), abs=1e-11)


def test_pairwise_sum_of_nothing_is_zero():
    assert torch.equal(pairwise_sum(torch.empty(2, 0)), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_pairwise_sum_takes_any_dimension_and_leaves_its_input(dim):
    values = normal(3, 5, 6)
    copy = values.clone()
    torch.testing.assert_close(pairwise_sum(values, dim), values.sum(dim), rtol=1e-13, atol=1e-13)
    assert torch.equal(values, copy)


def test_float32_is_accumulated_in_float64():
    values = torch.cat([torch.tensor([1.0]), torch.full((100_000,), 1e-8)])
    assert pairwise_sum(values).item() == pytest.approx(math.fsum(values.tolist()), rel=1e-14)
    norm = member_norm({"w": values.sqrt()}, members=1).item()
    exact = math.sqrt(math.fsum(v * v for v in values.sqrt().tolist()))
    assert norm == pytest.approx(exact, rel=1e-14)


def stack(members):
    """Small and large tensors, so that both ways of cutting them are taken."""
    return {
        "a": normal(members * 3, 7, seed=1),
        "b": normal(members * 2, seed=2),
        "c": normal(members * 50, 3000, seed=3),
        "d": normal(members, 4, 2, 2, seed=4),
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_members_are_bit_equal_in_every_pack(threads):
    a = stack(3)
    b = {name: tensor.flip(-1) for name, tensor in a.items()}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = [member_norm(a, 3), *member_difference(a, b, 3)]
        for k in range(3):
            one = {n: t.unflatten(0, (3, -1))[k].clone() for n, t in a.items()}
            two = {n: t.unflatten(0, (3, -1))[k].clone() for n, t in b.items()}
            alone = [member_norm(one, 1), *member_difference(one, two, 1)]
            assert all(torch.equal(t[k : k + 1], s) for t, s in zip(together, alone, strict=True))
    finally:
        torch.set_num_threads(before)


def test_norms_and_cosine_are_those_of_one_long_vector():
    a = stack(2)
    b = {name: normal(*tensor.shape, seed=9) for name, tensor in a.items()}
    u, v = (torch.cat([t.unflatten(0, (2, -1)).flatten(1) for t in x.values()], 1) for x in (a, b))
    found = member_difference(a, b, 2)
    norm = torch.linalg.vector_norm(u, dim=1)
    for own in (found.norm, member_norm(a, 2)):
        torch.testing.assert_close(own, norm, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.difference, torch.linalg.vector_norm(u - v, dim=1), rtol=1e-13, atol=0)
    expected = torch.cosine_similarity(u, v, dim=1, eps=0)
    torch.testing.assert_close(found.cosine, expected, rtol=1e-10, atol=0)


def test_the_difference_of_float32_is_taken_in_float64():
    a, b = ({"w": torch.tensor([value])} for value in (1e8, 0.5))
    assert member_difference(a, b, 1).difference.item() == 1e8 - 0.5


def test_names_are_matched_and_not_their_order():
    a = {"x": torch.tensor([1.0]), "y": torch.tensor([10.0])}
    b = {"y": torch.tensor([3.0]), "x": torch.tensor([2.0])}
    assert member_difference(a, b, 1).difference.item() == pytest.approx(math.sqrt(50), rel=1e-15)


@pytest.mark.parametrize("scale", [10.0**exponent for exponent in range(-170, 161, 5)])
def test_norm_and_cosine_survive_squares_that_do_not(scale):
    a = {"w": scale * torch.tensor([3.0, 4.0], dtype=torch.float64)}
    b = {"w": scale * torch.tensor([4.0, 3.0], dtype=torch.float64)}
    found = member_difference(a, b, 1)
    assert found.norm.item() == pytest.approx(5 * scale, rel=1e-15)
    assert found.difference.item() == pytest.approx(math.sqrt(2) * scale, rel=1e-15)
    assert found.cosine.item() == pytest.approx(0.96, rel=1e-15)
    assert member_difference(a, a, 1).cosine.item() == 1.0


def test_a_member_of_another_magnitude_changes_no_bit_of_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 300, dtype=torch.float64, generator=generator) for _ in range(2))
    sizes = 10.0 ** torch.arange(-160.0, 160.0, 40.0, dtype=torch.float64).unsqueeze(1)
    a, b = a * sizes, b * sizes
    together = member_difference({"w": a}, {"w": b}, 8)
    for k in range(8):
        alone = member_difference({"w": a[k : k + 1]}, {"w": b[k : k + 1]}, 1)
        assert all(
            one.item() == all_of_them[k].item() for one, all_of_them in zip(alone, together, strict=True)
        )


def test_overflow_and_nan_stay_with_their_member():
    inf, nan = math.inf, math.nan
    a = {"w": torch.tensor([3.0, 4.0, inf, 1.0, nan, inf, 0.0, 0.0])}
    norms = member_norm(a, 4).tolist()
    assert norms[0] == 5.0 and norms[1] == inf and math.isnan(norms[2]) and norms[3] == 0.0
    cosines = member_difference(a, a, 4).cosine.tolist()
    assert cosines[0] == 1.0 and all(math.isnan(value) for value in cosines[1:])


@pytest.mark.parametrize(
    ("a", "b", "members", "message"),
    [
        ({"w": torch.ones(3)}, {"w": torch.ones(3)}, 2, "leading axis of 2"),
        ({"w": torch.ones(2)}, {"w": torch.ones(4)}, 2, "one shape"),
        ({"w": torch.ones(2)}, {"v": torch.ones(2)}, 2, "names must be equal"),
        ({}, {}, 2, "not empty"),
        ({"w": torch.ones(2)}, {"w": torch.ones(2)}, 0, "members must be >= 1"),
        ({"w": torch.tensor(1.0)}, {"w": torch.tensor(1.0)}, 1, "leading axis"),
    ],
    ids=["not a multiple", "shapes", "names", "empty", "no members", "scalar"],
)
def test_what_is_not_a_stack_is_refused(a, b, members, message):
    with pytest.raises(ValueError, match=message):
        member_difference(a, b, members)
