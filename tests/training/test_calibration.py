"""How the size and the kernel of packs are chosen, on a clock that the test owns."""

import itertools

import pytest
import torch

from bnsweep.names import KERNELS
from bnsweep.training import calibrate
from bnsweep.training import calibration as module
from bnsweep.training.memory import available_bytes, peak_bytes, reset_peak


class Timed(module._Search):
    """A search that builds every stack and takes its steps, but reads their time from a rule."""

    def rule(self, size, kernel):
        raise NotImplementedError

    def _time(self, size, kernel):
        super()._time(size, kernel)
        self.bytes[size] = 1_000_000 * size
        return self.rule(size, kernel)


def choose(monkeypatch, packs, rule, *, network="vgg", count=32, **options):
    monkeypatch.setattr(Timed, "rule", lambda self, size, kernel: rule(size, kernel))
    monkeypatch.setattr(module, "_Search", Timed)
    trial = packs.make_trials(network, 1)[0]
    ticks = itertools.count()
    clock = lambda: next(ticks) * 1e-6  # noqa: E731
    return calibrate(trial, packs.small_dataset(trial), count, clock=clock, budget=1e9, **options)


def test_the_smallest_pack_whose_members_are_nearly_as_fast_as_any(monkeypatch, packs):
    per_member = {4: 2.0, 8: 1.02, 16: 1.0, 32: 1.01}
    found = choose(monkeypatch, packs, lambda size, kernel: size * per_member[size])
    assert (found.members, found.limited) == (8, "speed")
    assert found.step_seconds[8] == pytest.approx(8.16)


def test_more_members_end_it_when_they_no_longer_pay(monkeypatch, packs):
    tried = []
    found = choose(
        monkeypatch, packs, lambda size, kernel: tried.append(size) or size * (1 + size), count=512
    )
    assert found.members == 4
    assert max(tried) == 16


def test_a_kernel_is_chosen_where_it_is_clearly_faster(monkeypatch, packs):
    def rule(advantage):
        return lambda size, kernel: 1.0 if kernel == "grouped" else advantage

    assert choose(monkeypatch, packs, rule(0.98), count=4).kernel == "grouped"
    assert choose(monkeypatch, packs, rule(0.8), count=4).kernel == "channels_last"


def test_a_hopeless_kernel_is_tried_once(monkeypatch, packs):
    tried = []

    def rule(size, kernel):
        tried.append((size, kernel))
        return size * (3.0 if kernel == "loop_channels_last" else 1.0 / size)

    choose(monkeypatch, packs, rule, count=16)
    assert [kernel for _, kernel in tried].count("loop_channels_last") == 1


def test_memory_bounds_a_pack(monkeypatch, packs):
    found = choose(monkeypatch, packs, lambda size, kernel: 1.0, count=64, memory=20_000_000)
    assert (found.members, found.limited) == (16, "memory")


def test_a_norm_that_cannot_be_stacked_gets_packs_of_one(monkeypatch, packs):
    found = choose(monkeypatch, packs, lambda size, kernel: 1.0, stackable=False)
    assert found.members == 1


@pytest.mark.parametrize("network", ["vgg", "mlp", "dln"])
def test_everything_that_a_pack_does_is_measured(packs, network):
    probes = {"ics": {"every": 2}, "landscape": {"every": 2, "step_sizes": [1.0]}, "moments": {"every": 2}}
    trial = packs.make_trials(network, 1, probes=probes, precision="float32")[0]
    found = calibrate(trial, packs.small_dataset(trial), 4)
    assert found.kernel in KERNELS
    assert 1 <= found.members <= 4
    assert found.probe_seconds.keys() == probes.keys()
    assert min(found.probe_seconds.values()) > 0
    assert found.evaluation_seconds > 0
    assert found.build_seconds > 0
    names = {name for event in ("training", "evaluation") for name, _ in found.rows[event]}
    classes = set() if network == "dln" else {"train_accuracy", "test_accuracy"}
    assert names == {"train_loss", "test_loss"} | classes
    assert ("ics/l2", 1) in found.rows["ics"]


def test_it_changes_nothing_of_the_trials_and_no_global_random_state(packs):
    trial = packs.make_trials("mlp", 1)[0]
    before, state = dict(trial.parameters), torch.random.get_rng_state()
    calibrate(trial, packs.small_dataset(trial), 2)
    assert trial.parameters == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_peak_of_memory_is_seen_and_forgotten():
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    block = torch.ones(25_000_000)
    assert peak_bytes(cpu) - before > 90_000_000
    del block
    reset_peak(cpu)
    assert peak_bytes(cpu) - before < 50_000_000
    assert (available_bytes(cpu) or 0) > 0
