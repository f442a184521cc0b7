import pytest
import torch

from bnsweep.probes import member_gradients, member_shift


def test_gradients_are_those_of_backward_on_modules(conv_case):
    case = conv_case(3)
    losses, gradients = member_gradients(case.loss_fn(), case.params)
    for k in range(3):
        loss, expected = case.reference_gradient(case.params, k)
        assert losses[k].item() == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(case.member(gradients, k), expected, rtol=1e-9, atol=1e-12)


def test_only_the_named_parameters_are_differentiated(conv_case):
    case = conv_case(2)
    _, every = member_gradients(case.loss_fn(), case.params)
    _, some = member_gradients(case.loss_fn(), case.params, ["8.weight", "0.weight"])
    assert list(some) == ["8.weight", "0.weight"]
    assert all(torch.equal(some[name], every[name]) for name in some)


def test_works_without_gradients_enabled_and_returns_plain_tensors(conv_case):
    case = conv_case(1)
    with torch.no_grad():
        losses, gradients = member_gradients(case.loss_fn(), case.params)
    assert not losses.requires_grad
    assert not any(gradient.requires_grad for gradient in gradients.values())


def test_an_unused_parameter_has_a_zero_gradient():
    params = {"used": torch.ones(2), "unused": torch.ones(4)}
    _, gradients = member_gradients(lambda p: p["used"].square(), params)
    assert torch.equal(gradients["unused"], torch.zeros(4))


@pytest.mark.parametrize(
    ("loss_fn", "names", "message"),
    [
        (lambda p: p["w"].sum(), None, "one loss a member"),
        (lambda p: torch.zeros(2), None, "depends on the parameters"),
        (lambda p: p["w"], ["v"], "names must be"),
        (lambda p: p["w"], [], "names must be"),
    ],
    ids=["summed over members", "constant", "unknown name", "no names"],
)
def test_misuse_is_refused(loss_fn, names, message):
    with pytest.raises(ValueError, match=message):
        member_gradients(loss_fn, {"w": torch.ones(2)}, names)


def test_shift_moves_every_member_by_its_own_length():
    params = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([5.0, 6.0])}
    shifted = member_shift(params, params, torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert shifted["w"].tolist() == [[0.0, 0.0], [1.5, 2.0]]
    assert shifted["b"].tolist() == [0.0, 3.0]
    assert shifted["w"].dtype == torch.float32


def test_the_callers_tensors_stay_as_they_were():
    plain = torch.ones(2)
    parameter = torch.nn.Parameter(torch.ones(2))
    fired = []
    parameter.register_hook(fired.append)
    _, gradients = member_gradients(lambda p: p["a"] * p["b"], {"a": plain, "b": parameter})
    assert gradients["b"].tolist() == [1.0, 1.0]
    assert not plain.requires_grad and parameter.requires_grad
    assert parameter.grad is None and not fired
