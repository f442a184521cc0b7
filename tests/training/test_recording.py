"""Steps that are repeated from a recording: the same bits as without, or no recording."""

from collections import Counter

import pytest
import torch
from torch import nn

from bnsweep.names import KERNELS
from bnsweep.norms.table import NORMS
from bnsweep.training import PackTrainer, calibrate, recording
from bnsweep.training.recording import try_recording
from bnsweep.training.stack import WARM_UP
from tests.pretend import Pretence
from tests.taped import taped
from tests.training.test_pretended_device import made, moved

PROBES = {name: {"every": 4} for name in ("activations", "ics", "landscape", "moments", "theory")}


@pytest.fixture
def there(monkeypatch):
    """The device that is none, which records; what counts how often a recording was repeated."""
    count = Counter()
    with Pretence() as pretence:

        def record(call):
            result, replay = taped(pretence)(call)
            return result, lambda: (count.update(["replays"]), replay())

        monkeypatch.setitem(recording.RECORDERS, "lazy", record)
        yield count


def run(trainer):
    while not trainer.finished:
        trainer.step()
    return trainer


def assert_the_same(packs, trials, there, kernel="grouped", replays=None, **sizes):
    """Train here, and there with a recording; returns the trainer there."""
    dataset = packs.small_dataset(trials[0], **sizes)
    here = run(PackTrainer(trials, dataset, kernel))
    other = run(PackTrainer(trials, moved(dataset), kernel))
    repeated = here.steps - WARM_UP if replays is None else replays
    assert there["replays"] == repeated + (1 if repeated else 0), "the first one is the comparison"
    assert_equal(packs, here, other)
    return other


def assert_equal(packs, here, other):
    assert repr(here.outcomes()) == repr(other.outcomes())
    rows, expected = other.take_readings(), here.take_readings()
    for member in range(len(here.trials)):
        assert packs.readings_of(rows, member) == packs.readings_of(expected, member)
    mine, theirs = here.state_dict()["stack"], other.state_dict()["stack"]
    pairs = [(value, theirs["model"][name]) for name, value in mine["model"].items()]
    for moment, values in mine["optimizer"]["moments"].items():
        pairs += [(value, theirs["optimizer"]["moments"][moment][name]) for name, value in values.items()]
    for value, own in pairs:
        assert value.tolist() == own.tolist()


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_with_every_probe(packs, there, norm):
    trials = packs.make_trials("vgg", members=2, norm=norm, probes=PROBES, precision="float32", steps=7)
    assert_the_same(packs, trials, there, pixels=32 if norm == "instance" else 8)


@pytest.mark.parametrize(
    ("network", "kernel"),
    [(network, kernel) for kernel in KERNELS for network in ("vgg", "mlp", "dln") if made(network, kernel)],
)
def test_every_kernel_but_the_reference(packs, there, network, kernel):
    trials = packs.make_trials(network, norm="none" if network == "dln" else "batch", steps=7)
    assert_the_same(packs, trials, there, kernel, replays=0 if kernel == "loop" else None)


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "flip_crop", "norm": "noisy_batch", "noise": 1.0, "noise_at_eval": True},
        {"augment": "flip_crop", "batch_size": "full"},
        {"optimizer": "adam", "weight_decay": [0.0, 0.1, 0.01]},
        {"optimizer": "adamw", "weight_decay": [0.0, 0.1, 0.01], "beta1": [0.9, 0.8, 0.0]},
        {"momentum": [0.9, 0.1, 0.5], "nesterov": True, "weight_decay": 0.1, "weight_decay_as": "loss"},
        {"precision": "bfloat16"},
        {"precision": "float32", "pool": "max", "activation": "relu"},
    ],
)
def test_whatever_differs_between_steps_is_given_to_the_recording(packs, there, settings):
    trials = packs.make_trials("vgg", **{"norm": "batch", "steps": 9, **settings}, log_every=4)
    assert_the_same(packs, trials, there)


def test_members_that_are_left_behind_make_a_new_recording(packs, there):
    rates = {"lr": [1e6, 0.05, 1e6, 0.01, 0.02], "weight_decay": [1e6, 0.0, 1e6, 0.01, 0.0]}
    trials = packs.make_trials("mlp", 5, norm="none", **rates, steps=32, eval_every=10, log_every=10)
    other = assert_the_same(packs, trials, there, replays=32 - 2 * WARM_UP + 1)
    assert other.members == [1, 3, 4]


def test_a_checkpoint_goes_on_bit_for_bit(packs, there):
    trials = packs.make_trials("vgg", norm="noisy_batch", momentum=0.9, steps=12)
    dataset = packs.small_dataset(trials[0])
    here, first, second = (PackTrainer(trials, data) for data in (dataset, moved(dataset), moved(dataset)))
    run(here)
    for _ in range(6):
        first.step()
        second.step()
    state = first.state_dict()
    for _ in range(2):
        second.step()
    second.load_state_dict(state)
    assert second._stack._recording is None, "a stack of its own"
    run(second)
    expected = [row for row in here.take_readings() if row.step >= 6]
    assert repr(second.take_readings()) == repr(expected)
    for name, value in here.state_dict()["stack"]["model"].items():
        assert value.tolist() == second.state_dict()["stack"]["model"][name].tolist()


class Counting(nn.Module):
    """A norm that no recording could repeat: it counts its calls."""

    def __init__(self, num_features, members=1):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x / self.calls


def test_a_norm_of_the_user_is_not_recorded(packs, there):
    assert_the_same(packs, packs.make_trials("mlp", 1, norm=f"{__name__}:Counting"), there, replays=0)


def test_a_step_that_cannot_be_recorded_is_made_without(packs, there, monkeypatch):
    trials = packs.make_trials("mlp", norm="l2", steps=7)
    original = recording.RECORDERS["lazy"]

    def failing(call):
        return original(lambda: (call(), torch.ones(2).to("lazy"))[0])

    monkeypatch.setitem(recording.RECORDERS, "lazy", failing)
    assert_the_same(packs, trials, there, replays=0)


def test_a_recording_that_comes_to_other_bits_is_not_used(packs, there, monkeypatch):
    trials = packs.make_trials("mlp", norm="batch", steps=7)
    original = recording.RECORDERS["lazy"]

    def drifting(call):
        result, replay = original(call)
        return result, lambda: (replay(), result.losses.mul_(1 + 1e-12))

    monkeypatch.setitem(recording.RECORDERS, "lazy", drifting)
    other = run(PackTrainer(trials, moved(packs.small_dataset(trials[0]))))
    assert there["replays"] == 1
    assert other._stack._recording is None
    assert_equal(packs, run(PackTrainer(trials, packs.small_dataset(trials[0]))), other)


def test_the_calibration_times_what_is_repeated(packs, there):
    trial = packs.make_trials("mlp", 1, norm="batch", probes=PROBES)[0]
    found = calibrate(trial, moved(packs.small_dataset(trial)), 4, budget=0.01)
    # each stack that was timed: the comparison and three steps; the pack that was chosen: one, and the probes
    stacks = sum(len(sizes) for sizes in found.timings.values())
    assert there["replays"] == 4 * stacks + 1 + len(PROBES)


def test_recording_takes_no_time_from_the_search_but_has_a_limit_of_its_own(packs, there, monkeypatch):
    now, original = [0.0], recording.RECORDERS["lazy"]

    def slow(call):
        now[0] += 0.1
        return original(call)

    monkeypatch.setitem(recording.RECORDERS, "lazy", slow)
    trial = packs.make_trials("mlp", 1, norm="batch")[0]
    data = moved(packs.small_dataset(trial))
    found = calibrate(trial, data, 1024, budget=0.05, clock=lambda: now[0])
    assert [len(sizes) for sizes in found.timings.values()] == [3], "0.3 s are more than 4 x 0.05 s"


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x * float(x.sum()),
        lambda x: x * torch.rand(3),
        lambda x: x[x > 1],
        lambda x: x.new_tensor([1.0, 2.0, 3.0]).pin_memory() * x,
    ],
)
def test_the_tape_refuses_what_a_graph_would(forbidden):
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        taped()(lambda: forbidden(torch.arange(3.0)))


def test_the_tape_repeats_python_s_numbers_as_they_were():
    x, calls = torch.ones(2), []

    def call():
        calls.append(0)
        return x.mul_(2) + len(calls)

    result, replay = taped()(call)
    assert (x.tolist(), result.tolist()) == ([2.0, 2.0], [3.0, 3.0])
    replay()
    assert (x.tolist(), result.tolist(), len(calls)) == ([4.0, 4.0], [5.0, 5.0], 1)


def test_a_device_that_records_nothing_makes_the_call_once():
    state = torch.ones(2)
    result, found = try_recording(lambda inputs: state.add_(inputs["x"]), {"x": torch.ones(2)}, [state])
    assert found is None
    assert result is state
    assert state.tolist() == [2.0, 2.0]
