"""What the members of a pack see at a step: a pure function of each member's seed and the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnsweep.data import Dataset, batch_indices, draw_flip_crop, flip_crop, sent
from bnsweep.errors import Mistake, SpecError
from bnsweep.norms.noise import SiteNoise, draw_noise
from bnsweep.trial import TrialConfig

__all__ = ["MemberBatches"]


class MemberBatches:
    """The minibatches and noise draws of K members; holds no random state.

    Args:
        trials: The members, in order; equal in everything but the per-member parameters.
        dataset: The data set, resident on its device.
        noise_sites: Shape of each noisy site for one member and one sample; empty without noise.
        weight: How many samples each one of ``dataset`` stands for.

    Raises:
        SpecError: If a batch would be larger than the training split.
    """

    def __init__(
        self,
        trials: Sequence[TrialConfig],
        dataset: Dataset,
        noise_sites: Sequence[tuple[int, ...]],
        weight: float = 1.0,
    ) -> None:
        parameters = trials[0].parameters
        self.dataset, self.weight = dataset, weight
        self.seeds = [trial.seed for trial in trials]
        self.noise_sites = tuple(noise_sites)
        self.augment, self.init = str(parameters.get("augment", "none")), str(parameters["init"])
        size = parameters["batch_size"]
        self.samples = len(dataset.train_x)
        self.batch_size = self.samples if size == "full" else int(size)
        if self.batch_size > self.samples:
            must = f"must be <= {self.samples}, the training split of {dataset.name}"
            raise SpecError([Mistake("parameters.batch_size", must, str(size), '"full" takes all of it')])
        like = dataset.train_x
        levels = [float(trial.parameters.get("noise", 0.0)) for trial in trials]
        self.levels = torch.tensor(levels, dtype=like.dtype, device=like.device)

    def inputs(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of each member at ``step``: inputs ``[K, N, ...]`` and targets ``[K, N, ...]``."""
        if self.batch_size == self.samples:  # in the order of the split, for everyone
            splits = (self.dataset.train_x, self.dataset.train_y)
            x, y = (split.expand(len(self.seeds), *split.shape) for split in splits)
        else:
            x, y = self._gathered(step)
        if self.augment == "flip_crop":
            draws = [draw_flip_crop(seed, step, self.batch_size, x.shape[-1]) for seed in self.seeds]
            x = flip_crop(x.flatten(0, 1), torch.cat(draws)).view(x.shape)
        return x, y

    def _gathered(self, step: int) -> tuple[Tensor, Tensor]:
        orders = {seed: batch_indices(seed, step, self.samples, self.batch_size) for seed in set(self.seeds)}
        index = sent(torch.stack([orders[seed] for seed in self.seeds]), self.dataset.train_x.device)
        return self.dataset.train_x[index], self.dataset.train_y[index]

    def noise(self, step: int, purpose: str = "noise", batch: int | None = None) -> list[SiteNoise] | None:
        """Return the base noise draws of every site at ``step``, or ``None`` where nothing is noisy.

        Args:
            step: The optimizer step.
            purpose: Another purpose gives an independent draw.
            batch: Samples of the batch; the training batch's by default.
        """
        if not self.noise_sites:
            return None
        like = self.dataset.train_x
        return draw_noise(
            self.noise_sites,
            batch or self.batch_size,
            self.seeds,
            step,
            dtype=like.dtype,
            device=like.device,
            purpose=purpose,
        )
