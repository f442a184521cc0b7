"""What the members of a pack see at a step: a pure function of each member's seed and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bnsweep.data import Dataset, batch_indices, draw_flip_crop, flip_crop, sent
from bnsweep.errors import Mistake, SpecError
from bnsweep.norms.noise import SiteNoise, at_sites, draw_base, draw_noise
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

    def draws(self, step: int) -> dict[str, Tensor]:
        """Return what is drawn for a training step, on the device: all that :meth:`batch` has to be told.

        Returns:
            As far as the step needs them: ``index`` ``[K, N]`` of the samples, ``crops`` ``[K*N, 3]``, and
            the ``uniform`` and ``normal`` draws of the noise.
        """
        drawn = self._samples_drawn(step)
        if self.noise_sites:
            drawn["uniform"], drawn["normal"] = draw_base(
                self.noise_sites, self.batch_size, self.seeds, step, purpose="noise", **self._like
            )
        return drawn

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[SiteNoise] | None]:
        """Return inputs ``[K, N, ...]``, targets ``[K, N, ...]`` and the noise of a step, from its draws."""
        splits = (self.dataset.train_x, self.dataset.train_y)
        if "index" in drawn:
            x, y = (split[drawn["index"]] for split in splits)
        else:  # in the order of the split, for everyone
            x, y = (split.expand(len(self.seeds), *split.shape) for split in splits)
        if "crops" in drawn:
            x = flip_crop(x.flatten(0, 1), drawn["crops"]).view(x.shape)
        if "uniform" not in drawn:
            return x, y, None
        return x, y, at_sites(self.noise_sites, self.batch_size, drawn["uniform"], drawn["normal"])

    def inputs(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of each member at ``step``: inputs ``[K, N, ...]`` and targets ``[K, N, ...]``."""
        return self.batch(self._samples_drawn(step))[:2]

    def _samples_drawn(self, step: int) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        if self.batch_size != self.samples:
            seeds = set(self.seeds)
            orders = {seed: batch_indices(seed, step, self.samples, self.batch_size) for seed in seeds}
            drawn["index"] = torch.stack([orders[seed] for seed in self.seeds])
        if self.augment == "flip_crop":
            size = self.dataset.train_x.shape[-1]
            draws = [draw_flip_crop(seed, step, self.batch_size, size) for seed in self.seeds]
            drawn["crops"] = torch.cat(draws)
        return {name: sent(value, self._like["device"]) for name, value in drawn.items()}

    def noise(self, step: int, purpose: str = "noise", batch: int | None = None) -> list[SiteNoise] | None:
        """Return the base noise draws of every site at ``step``, or ``None`` where nothing is noisy.

        Args:
            step: The optimizer step.
            purpose: Another purpose gives an independent draw.
            batch: Samples of the batch; the training batch's by default.
        """
        if not self.noise_sites:
            return None
        size = batch or self.batch_size
        return draw_noise(self.noise_sites, size, self.seeds, step, purpose=purpose, **self._like)

    @property
    def _like(self) -> dict[str, Any]:
        like = self.dataset.train_x
        return {"dtype": like.dtype, "device": like.device}
