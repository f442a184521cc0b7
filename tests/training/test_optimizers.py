"""K optimizers in one, against torch.optim."""

import math

import pytest
import torch

from bnsweep.training.optimizers import MemberOptimizer

SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "norm.weight": (4,),
    "linear.weight": (2, 36),
    "linear.bias": (2,),
}
WEIGHTS = ("conv.weight", "linear.weight")
SGD = {"optimizer": "sgd", "nesterov": False, "momentum": 0.0, "weight_decay": 0.0}
ADAM = {"optimizer": "adam", "beta1": 0.9, "beta2": 0.999, "adam_eps": 1e-8, "weight_decay": 0.0}
MEMBERS = {
    "sgd": [SGD | {"lr": lr} for lr in (0.1, 0.003)],
    "sgd-decay": [SGD | {"lr": lr, "weight_decay": decay} for lr, decay in ((0.1, 5e-4), (0.02, 0.3))],
    "sgd-momentum": [SGD | {"lr": lr, "momentum": m} for lr, m in ((0.1, 0.9), (0.2, 0.5), (0.3, 0.0))],
    "nesterov": [
        SGD | {"lr": 0.1, "nesterov": True, "momentum": m, "weight_decay": decay}
        for m, decay in ((0.9, 0.0), (0.5, 0.01))
    ],
    "adam": [ADAM | {"lr": lr, "beta1": beta} for lr, beta in ((0.01, 0.9), (0.1, 0.0))],
    "adam-decay": [ADAM | {"lr": 0.01, "beta2": b, "weight_decay": d} for b, d in ((0.99, 0.1), (0.9, 0.0))],
    "adamw": [
        ADAM | {"optimizer": "adamw", "lr": 0.01, "adam_eps": eps, "weight_decay": decay}
        for eps, decay in ((1e-8, 0.1), (1e-3, 1.0), (1e-4, 0.0))
    ],
}


def draw(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def stack(members):
    return {name: torch.cat([member[name] for member in members]) for name in SHAPES}


def updated(optimizer, gradients):
    optimizer.update(gradients, optimizer.advance())


def reference(settings, params, decayed):
    """Make torch's own optimizer of one member; what is not decayed is a group without decay."""
    s = settings
    groups = [
        {"params": [params[name] for name in SHAPES if name in decayed], "weight_decay": s["weight_decay"]},
        {"params": [params[name] for name in SHAPES if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if s["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=s["lr"], momentum=s["momentum"], nesterov=s["nesterov"])
    kind = torch.optim.Adam if s["optimizer"] == "adam" else torch.optim.AdamW
    return kind(groups, lr=s["lr"], betas=(s["beta1"], s["beta2"]), eps=s["adam_eps"])


def both(members, decayed, steps, dtype):
    """Return final parameters of the stack and of torch's optimizers, stacked."""
    alone = [draw(k, dtype) for k in range(len(members))]
    params = stack(alone)
    optimizer = MemberOptimizer(params, members, decayed)
    references = [reference(s, p, decayed) for s, p in zip(members, alone, strict=True)]
    for step in range(steps):
        gradients = [draw(1000 + 100 * k + step, dtype) for k in range(len(members))]
        updated(optimizer, stack(gradients))
        for own, torch_optimizer, gradient in zip(alone, references, gradients, strict=True):
            for name, value in own.items():
                value.grad = gradient[name]
            torch_optimizer.step()
    return params, stack(alone)


@pytest.mark.parametrize("decayed", [WEIGHTS, tuple(SHAPES)], ids=["weights", "all"])
@pytest.mark.parametrize("case", MEMBERS)
def test_equal_to_torch_in_float64(case, decayed):
    mine, torchs = both(MEMBERS[case], decayed, 60, torch.float64)
    for name in SHAPES:
        torch.testing.assert_close(mine[name], torchs[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", MEMBERS)
def test_as_close_to_torch_as_float32_allows(case):
    mine, torchs = both(MEMBERS[case], WEIGHTS, 10, torch.float32)
    for name in SHAPES:
        torch.testing.assert_close(mine[name], torchs[name], rtol=1e-5, atol=2e-6)


def test_first_adam_step_is_the_sign_of_the_gradient():
    params = {"w": torch.zeros(2, 3)}
    settings = [ADAM | {"lr": lr, "adam_eps": 1e-30} for lr in (0.5, 0.25)]
    gradient = torch.tensor([[1e-3, -7.0, 2.0], [5.0, 1.0, -1e-6]])
    updated(MemberOptimizer(params, settings, []), {"w": gradient})
    expected = torch.tensor([[-0.5, 0.5, -0.5], [-0.25, -0.25, 0.25]])
    torch.testing.assert_close(params["w"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", MEMBERS)
def test_a_member_is_bit_for_bit_what_it_is_alone(case):
    members = MEMBERS[case]
    mine = stack([draw(k, torch.float64) for k in range(len(members))])
    together = MemberOptimizer(mine, members, WEIGHTS)
    alone = [draw(k, torch.float64) for k in range(len(members))]
    single = [MemberOptimizer(p, [s], WEIGHTS) for p, s in zip(alone, members, strict=True)]
    for step in range(20):
        gradients = [draw(1000 + 100 * k + step, torch.float64) for k in range(len(members))]
        updated(together, stack(gradients))
        for optimizer, gradient in zip(single, gradients, strict=True):
            updated(optimizer, gradient)
    assert all(torch.equal(mine[name], stack(alone)[name]) for name in SHAPES)


def test_without_momentum_and_decay_infinity_is_forgotten_beside_members_that_have_them():
    settings = [SGD | {"lr": 1.0}, SGD | {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1}]
    params = {"w": torch.tensor([[1.0, math.inf], [1.0, 1.0]])}
    optimizer = MemberOptimizer(params, settings, ["w"])
    updated(optimizer, {"w": torch.tensor([[math.inf, 1.0], [1.0, 1.0]])})
    updated(optimizer, {"w": torch.ones(2, 2)})
    assert params["w"][0].tolist() == [-math.inf, math.inf]


def test_a_member_that_is_not_finite_leaves_the_others_alone():
    for case in MEMBERS.values():
        healthy = stack([draw(k, torch.float64) for k in range(len(case))])
        ill = {name: value.clone() for name, value in healthy.items()}
        gradient = draw(9, torch.float64)
        nan = {name: torch.full_like(value, math.nan) for name, value in gradient.items()}
        for params, first in ((healthy, gradient), (ill, nan)):
            optimizer = MemberOptimizer(params, case, WEIGHTS)
            for _ in range(3):
                updated(optimizer, stack([first, *[gradient] * (len(case) - 1)]))
        for name, shape in SHAPES.items():
            assert torch.equal(healthy[name][shape[0] :], ill[name][shape[0] :])


@pytest.mark.parametrize("case", ["sgd-momentum", "adamw"])
def test_state_is_a_copy_and_round_trips(case):
    def steps(optimizer, first, last):
        for step in range(first, last):
            updated(optimizer, stack([draw(100 * k + step, torch.float64) for k in range(3)]))

    params = stack([draw(k, torch.float64) for k in range(3)])
    optimizer = MemberOptimizer(params, MEMBERS[case], WEIGHTS)
    steps(optimizer, 0, 3)
    saved, then = optimizer.state_dict(), {name: value.clone() for name, value in params.items()}
    steps(optimizer, 3, 6)
    again = MemberOptimizer(then, MEMBERS[case], WEIGHTS)
    again.load_state_dict(saved)
    steps(again, 3, 6)
    assert all(torch.equal(params[name], then[name]) for name in SHAPES)


def test_take_copies_the_chosen_members():
    members = MEMBERS["sgd-momentum"]
    params = stack([draw(k, torch.float64) for k in range(3)])
    optimizer = MemberOptimizer(params, members, WEIGHTS)
    gradients = [[draw(100 * k + step, torch.float64) for k in range(3)] for step in range(6)]
    for gradient in gradients[:3]:
        updated(optimizer, stack(gradient))
    chosen = {name: value.unflatten(0, (3, -1))[[2, 0]].flatten(0, 1) for name, value in params.items()}
    fewer = MemberOptimizer(chosen, [members[2], members[0]], WEIGHTS)
    fewer.take(optimizer, [2, 0])
    for gradient in gradients[3:]:
        updated(optimizer, stack(gradient))
        updated(fewer, stack([gradient[2], gradient[0]]))
    for name, value in params.items():
        assert torch.equal(chosen[name], value.unflatten(0, (3, -1))[[2, 0]].flatten(0, 1))
