"""The engine imports and trains where everything around it is missing."""

import subprocess
import sys

PROGRAM = """
import sys

BLOCKED = {"ray", "mlflow", "optuna", "yaml", "pydantic", "pyarrow", "pandas"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Blocker())

import torch

import bnsweep.data, bnsweep.models, bnsweep.norms, bnsweep.probes, bnsweep.training
from bnsweep.trial import TrialConfig

torch.set_num_threads(1)
probes = {"ics": {"every": 2, "layers": [2]}, "landscape": {"every": 2}, "moments": {"every": 2}}
parameters = {"model": "vgg11", "width": 0.0625, "norm": "noisy_batch", "batch_size": 16, "steps": 3}
trials = [TrialConfig.create({**parameters, "seed": seed}, probes) for seed in range(2)]
trainer = bnsweep.training.PackTrainer(trials, bnsweep.data.load_dataset("digits", parameters))
while not trainer.finished:
    trainer.step()
names = sorted({row.name.partition("/")[0] for row in trainer.take_readings()})
print(names, [str(outcome.state) for outcome in trainer.outcomes()])
print(sorted(BLOCKED & {name.partition(".")[0] for name in sys.modules}))
"""


def test_trains_a_pack_with_probes():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    names = ["ics", "landscape", "moments", "test_accuracy", "test_loss", "train_accuracy", "train_loss"]
    assert run.stdout.splitlines() == [f"{names} ['completed', 'completed']", "[]"]
