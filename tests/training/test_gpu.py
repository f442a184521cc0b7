"""The same on a GPU."""

import io

import pytest
import torch

from bnsweep.data import load_dataset
from bnsweep.training import PackTrainer, prepare_process, recording, stack
from bnsweep.trial import TrialConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make(device, members=3, precision="float64", norm="batch", lr=0.05, **more):
    base = {"model": "vgg11", "width": 0.125, "activation": "gelu", "pool": "avg", "batch_size": 64}
    base |= {"norm": norm, "precision": precision, "steps": 10, "eval_every": 5, **more}
    probes = {"landscape": {"every": 5}, "moments": {"every": 5}}
    trials = [TrialConfig.create({**base, "lr": lr * (k + 1), "seed": k}, probes) for k in range(members)]
    dtype = getattr(torch, precision)
    prepare_process(torch.get_num_threads())
    return PackTrainer(trials, load_dataset("digits", trials[0].parameters, device=device, dtype=dtype))


def run(trainer):
    while not trainer.finished:
        trainer.step()
    return trainer.take_readings(), trainer.state_dict()


@pytest.mark.parametrize("norm", ["none", "batch", "l1", "group"])
def test_agrees_with_the_cpu(norm):
    cpu, gpu = (run(make(device, norm=norm))[0] for device in ("cpu", "cuda"))
    for a, b in zip(cpu, gpu, strict=True):
        assert a[:4] == b[:4]
        if a.name.startswith(("train", "test")):
            assert b.value == pytest.approx(a.value, rel=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("norm", ["batch", "noisy_batch", "linf"])
def test_repeats_itself_and_goes_on_bit_for_bit(norm, precision):
    rows, end = run(make("cuda", norm=norm, precision=precision))
    trainer = make("cuda", norm=norm, precision=precision)
    for _ in range(4):
        trainer.step()
    before, stream = trainer.take_readings(), io.BytesIO()
    torch.save(trainer.state_dict(), stream)
    stream.seek(0)
    again = make("cuda", norm=norm, precision=precision)
    again.load_state_dict(torch.load(stream, weights_only=True))
    after, state = run(again)
    assert before + after == rows
    for name, value in end["stack"]["model"].items():
        assert value.device.type == "cuda"
        assert torch.equal(value, state["stack"]["model"][name])


@pytest.mark.parametrize("kernel", ["grouped", "channels_last", "loop"])
def test_the_host_does_not_wait_between_readings(kernel):
    trainer = make("cuda", norm="noisy_batch", precision="float32", augment="flip_crop", log_every=5)
    trainer = PackTrainer(trainer.trials, trainer.dataset, kernel)
    while trainer.step_index <= 5:
        trainer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.step()
    assert {row.step for row in trainer.take_readings()} == {0, 5, 9, 10}


@pytest.mark.parametrize("kernel", ["grouped", "channels_last", "loop_channels_last"])
@pytest.mark.parametrize(
    "settings", [{"norm": "noisy_batch", "augment": "flip_crop"}, {"norm": "l1", "optimizer": "adamw"}]
)
def test_a_cuda_graph_repeats_the_step_to_the_bit(monkeypatch, kernel, settings):
    trainer = make("cuda", precision="float32", **settings)
    recorded = PackTrainer(trainer.trials, trainer.dataset, kernel)
    rows, end = run(recorded)
    assert recorded._stack._recording is not None
    monkeypatch.setattr(recording, "RECORDERS", {})
    monkeypatch.setattr(stack, "RECORDERS", {})
    plain, expected = run(PackTrainer(trainer.trials, trainer.dataset, kernel))
    assert rows == plain
    for name, value in expected["stack"]["model"].items():
        assert torch.equal(value, end["stack"]["model"][name])
