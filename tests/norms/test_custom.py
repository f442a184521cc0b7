"""Norms of the user's: what is accepted, what is refused and how it is said."""

import pytest
import torch

from bnsweep.errors import SpecError
from bnsweep.norms import BatchNorm, check_factory, load_factory, make_norm

SOURCE = '''
import torch
from torch import nn

class Scale(nn.Module):
    """Multiply every channel by a learned weight."""
    per_channel = True
    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(num_features))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    def forward(self, x):
        return x * self.weight.view((1, -1) + (1,) * (x.dim() - 2))

class Whole(Scale):
    per_channel = False

class Mixing(Scale):
    def forward(self, x):
        return super().forward(x) / x.square().mean(1, keepdim=True).sqrt()

class MixingAtEval(Scale):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("magnitude", torch.ones(()))
    def forward(self, x):
        if self.training:
            self.magnitude.copy_(x.detach().abs().mean())
            return super().forward(x)
        return super().forward(x) / self.magnitude

class Random(Scale):
    def forward(self, x):
        return super().forward(x) + torch.randn_like(x)

class Infinite(Scale):
    def forward(self, x):
        return super().forward(x) / 0

class Flattening(Scale):
    def forward(self, x):
        return super().forward(x).flatten()

class Single(Scale):
    def forward(self, x):
        return super().forward(x).float()

class Detached(Scale):
    def forward(self, x):
        return super().forward(x).detach()

class Scalar(nn.Identity):
    def __init__(self, num_features):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

class Broadcast(Scale):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.shift = nn.Parameter(torch.zeros(1, num_features, 1, 1))

def only_4d(num_features):
    return nn.BatchNorm2d(num_features)

def broken(num_features):
    raise RuntimeError("no luck")

def nothing(num_features):
    return None

constant = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    name = "custom_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(("factory", "stacks"), [("Scale", True), ("Whole", False)])
def test_a_good_factory_is_accepted(module, factory, stacks):
    assert check_factory(f"{module}:{factory}") is stacks


def test_torch_modules_are_factories():
    assert check_factory("torch.nn:Identity") is False
    assert load_factory("bnsweep.norms:BatchNorm") is BatchNorm


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (
            "Mixing",
            r"must keep channels apart, because it says per_channel = True, but found changing channel 0",
        ),
        ("MixingAtEval", r"must keep channels apart"),
        ("Random", r"must return the same for the same input and state, but found two calls differed"),
        ("Infinite", r"must return finite values, but found an input of shape \(8, 64\) in training"),
        ("Flattening", r"must return the shape and type it is given, .* gave torch.float64 \(512,\)"),
        ("Single", r"of torch.float64 gave torch.float32 \(8, 64\)"),
        ("Detached", r"must let the gradient through"),
        ("Scalar", r"gain is a scalar; use shape \(1,\)"),
        ("Broadcast", r"parameter shift has shape \(1, 64, 1, 1\)"),
        ("only_4d", r"must take \[N, C\] and \[N, C, H, W\], but found .* raised ValueError: expected 4D"),
        ("broken", r"make\(64\) raised RuntimeError: no luck"),
        ("nothing", r"must return a torch.nn.Module, but found make\(64\) returned None"),
        ("constant", r"holds a int, which cannot be called"),
        ("absent", r"holds no such name"),
    ],
)
def test_a_bad_factory_is_refused_with_the_reason(module, factory, said):
    with pytest.raises(SpecError, match=said) as caught:
        check_factory(f"{module}:{factory}")
    assert str(caught.value).startswith(f"norm {module}:{factory} must ")
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_imported_is_refused(module):
    with pytest.raises(
        SpecError, match=r"raised ModuleNotFoundError: .*; put the module's folder on PYTHONPATH"
    ):
        load_factory("no_such_module_anywhere:make")
    with pytest.raises(SpecError, match=r"raised ZeroDivisionError"):
        load_factory(f"{module}_broken:make")


def test_a_stack_is_one_module_of_all_channels(module):
    assert make_norm(f"{module}:Scale", 5, members=3).weight.shape == (15,)


def test_a_norm_that_is_not_per_channel_is_not_stacked(module):
    assert make_norm(f"{module}:Whole", 5).weight.shape == (5,)
    with pytest.raises(SpecError, match=r"to be stacked, but found a stack of 3 was asked for"):
        make_norm(f"{module}:Whole", 5, members=3)


def test_initial_state_does_not_depend_on_the_global_generator_nor_changes_it(module):
    first = make_norm(f"{module}:Scale", 5).weight
    torch.rand(3)
    before = torch.get_rng_state()
    assert torch.equal(make_norm(f"{module}:Scale", 5).weight, first)
    assert torch.equal(torch.get_rng_state(), before)
