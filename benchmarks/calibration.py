"""Are verdicts right as often as they say? ``python -m benchmarks.calibration``.

Tables, all simulated, nothing trained: how often intervals of a mean cover it, for data of
several shapes and numbers of seeds; how often a verdict is *supported* where the claim is false; how
often it is where it is true, beside the planner's forecast; and the same of sequential sweeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnsweep.analysis.claims.final_scores import ScoreTable, lr_robustness
from bnsweep.analysis.claims.parts import ArmTable, Findings, Part
from bnsweep.analysis.claims.verdicts import adjust, conclude, test_findings
from bnsweep.analysis.statistics import paired_interval, power, smallest_excess
from bnsweep.sweep.spec import SeedSchedule

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Array, float]]
"""Makes one sample of that many paired differences, and says their true mean."""

CHANCE, BEST = 0.1, 0.95


def normal(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    return rng.normal(0.3, 0.1, n), 0.3


def skewed(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    """Differences of two log-normal error rates, one twice the other."""
    first, second = (np.exp(rng.normal(np.log(rate), 0.5, n)) for rate in (0.06, 0.03))
    return first - second, 0.03 * float(np.exp(0.125))


def very_skewed(rng: np.random.Generator, n: int) -> tuple[Array, float]:
    """Differences of log-normal error rates of different spread: beyond what five seeds can bear."""
    first, second = np.exp(rng.normal(np.log(0.08), 0.8, n)), np.exp(rng.normal(np.log(0.03), 0.5, n))
    return first - second, float(0.08 * np.exp(0.32) - 0.03 * np.exp(0.125))


def bimodal(share: float) -> Draw:
    """One learning rate at which a share of the seeds trains and the others end at chance."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, float]:
        gap = BEST - CHANCE
        return gap * (rng.random(n) < share) + rng.normal(0, 0.02, n), gap * share

    return draw


def grid(spread: float) -> Draw:
    """Differences of two rounded normals; ``spread`` is their standard deviation in grid steps."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, float]:
        from scipy.stats import norm

        values, means = [], []
        steps = np.arange(-8, 10)
        for offset in rng.random(2):
            values.append(np.round(rng.normal(offset, spread, n)))
            edges = [norm.cdf((steps + shift - offset) / spread) for shift in (0.5, -0.5)]
            means.append(float(((edges[0] - edges[1]) * steps).sum()))
        return values[0] - values[1], means[0] - means[1]

    return draw


LRS = tuple(10.0 ** (-2 + 0.5 * index) for index in range(7))


def lr_table(rng: np.random.Generator, n: int, reach: float, gain: float, spread: float = 0.15) -> ScoreTable:
    """Make accuracies against learning rates: seeds train up to a reach of their own, else diverge.

    Args:
        rng: Generator.
        n: Number of seeds.
        reach: Mean decimal logarithm of the largest learning rate that trains without a norm.
        gain: Decades by which BatchNorm reaches farther.
        spread: Standard deviation of the reach over seeds, in decades.
    """
    logs = np.log10(LRS)
    arms = {}
    for name, mean in (("none", reach), ("batch", reach + gain)):
        reaches = rng.normal(mean, spread, (n, 1))
        burst = logs[None, :] > reaches
        scores = np.where(burst, CHANCE, BEST - 0.01 * np.abs(rng.standard_normal((n, len(LRS)))))
        arms[name] = ArmTable(name, scores, burst)
    return ScoreTable(LRS, arms, CHANCE, (CHANCE + BEST) / 2, 0.02, "points")


SHAPES: dict[str, tuple[Draw, float]] = {
    "normal": (normal, 0.0),
    "skewed": (skewed, 0.0),
    "bimodal, half train": (bimodal(0.5), BEST - CHANCE),
    "bimodal, 80 % train": (bimodal(0.8), BEST - CHANCE),
    "grid-valued, spread 0.15 steps": (grid(0.15), 1.0),
    "grid-valued, spread 0.5 steps": (grid(0.5), 1.0),
    "grid-valued, spread 1 step": (grid(1.0), 1.0),
}
"""Shapes on which coverage is promised, each with the resolution that the test is told."""

HEAD = "| shape | 5 seeds | 10 | 29 |\n|---|---|---|---|"

BEYOND: dict[str, tuple[Draw, float]] = {
    "very skewed": (very_skewed, 0.0),
    "bimodal, 80 % train, no floor": (bimodal(0.8), 0.0),
}
"""Shapes on which it is not."""


def coverage(draw: Draw, resolution: float, n: int, repeats: int, rng: np.random.Generator) -> float:
    """Return the share of intervals that hold the true mean."""
    inside = 0
    for _ in range(repeats):
        values, truth = draw(rng, n)
        _, _, low, high = paired_interval(values.tolist(), resolution)
        inside += low - 1e-9 <= truth <= high + 1e-9
    return inside / repeats


def grid_gain(reach: float, gain: float, spread: float) -> float:
    """Return the mean decades of the largest learning rate on the grid that trains, batch less none."""
    from scipy.stats import norm

    logs = np.log10(LRS)
    steps = np.diff(logs)
    means = [float((steps * norm.sf((logs[1:] - mean) / spread)).sum()) for mean in (reach, reach + gain)]
    below = float(steps.max() * norm.cdf((logs[0] - reach - gain) / spread))  # batch trains at none
    return means[1] - means[0] - below


def robustness_verdicts(
    gain: float,
    n: int,
    claims: int,
    repeats: int,
    rng: np.random.Generator,
    spread: float = 0.15,
    exact: bool = False,
) -> Iterator[list[str]]:
    """Judge learning-rate robustness on made-up sweeps, ``claims`` of them corrected together.

    ``exact`` takes the true mean of what the grid shows for the threshold, in place of 0.3: a gain of 0.3
    decades between learning rates half a decade apart shows as 0.24 to 0.35, by where the reach lies.
    """
    for _ in range(repeats):
        judged = []
        for _ in range(claims):
            reach = rng.uniform(-1.2, -0.2)
            table = lr_table(rng, n, reach, gain, spread)
            least = grid_gain(reach, gain, spread) if exact else 0.3
            judged.append(test_findings(lr_robustness(table, least), int(rng.integers(2**63))))
        yield [conclude(above, below, 0.05) for above, below in adjust(judged)]


def share_supported(verdicts: Iterator[list[str]]) -> float:
    """Return the share of sweeps in which any claim was supported."""
    found = ["supported" in words for words in verdicts]
    return sum(found) / len(found)


def observed_power(
    draw: Draw, resolution: float, excess: float, n: int, repeats: int, rng: np.random.Generator
) -> float:
    """Return the share of samples, their truth ``excess`` above a threshold, that are found to be."""
    found = 0
    for _ in range(repeats):
        values, truth = draw(rng, n)
        part = Part("", tuple(values.tolist()), truth - excess, "decades", resolution)
        judged = test_findings(Findings((part,)), int(rng.integers(2**63)))
        found += conclude(*adjust([judged])[0], 0.05) == "supported"
    return found / repeats


def long_pilot(draw: Draw, rng: np.random.Generator) -> Array:
    """Return 20 000 differences, each less its truth: what a planner with a long pilot would know."""
    many = [draw(rng, 1) for _ in range(20_000)]
    return np.array([float(values[0]) - truth for values, truth in many])


def pilot_errors(
    draw: Draw, resolution: float, seeds: int, n: int, repeats: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return how far forecasts from pilots of ``seeds`` lie from the truth: their mean, and mean distance.

    What they forecast is the power of ``n`` seeds at the excess where a long pilot has it at 0.8.
    """
    known = long_pilot(draw, rng)
    excess = smallest_excess(float(known.std()), n, 0.8, 0.05, resolution, tuple(known))
    off = []
    for _ in range(repeats):
        pilot, _ = draw(rng, seeds)
        off.append(power(excess, float(pilot.std(ddof=1)), n, 0.05, resolution, tuple(pilot)) - 0.8)
    return float(np.mean(off)), float(np.mean(np.abs(off)))


def power_tables(repeats: int, rng: np.random.Generator) -> None:
    """Print, shape by shape, how often one claim is supported: at its threshold, and beyond it."""
    counts = {5: repeats // 2, 10: repeats // 2, 29: max(200, repeats // 4)}
    said = ", ".join(map(str, counts.values()))
    print(f"\nClaims at their threshold that are 'supported', in percent, {said} samples\n\n{HEAD}")
    for name, (draw, resolution) in (SHAPES | BEYOND).items():
        cells = [f"{100 * observed_power(draw, resolution, 0.0, n, counts[n], rng):.1f}" for n in counts]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(
        "\nPower in percent, observed, at the excess that the planner, which knows 20 000 differences, says "
        "is found with probability 0.8; "
        f"{said} samples\n\n{HEAD}"
    )
    for name, (draw, resolution) in (SHAPES | BEYOND).items():
        known, cells = long_pilot(draw, rng), []
        for n in counts:
            excess = smallest_excess(float(known.std()), n, 0.8, 0.05, resolution, tuple(known))
            cells.append(f"{100 * observed_power(draw, resolution, excess, n, counts[n], rng):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    few = max(100, repeats // 10)
    print(
        f"\nForecasts of a power of 80 % at 10 seeds from short pilots: mean, and mean distance, in points; "
        f"{few} pilots\n\n| shape | pilot of 5 seeds | 10 | 29 |\n|---|---|---|---|"
    )
    for name, (draw, resolution) in (SHAPES | BEYOND).items():
        errors = [pilot_errors(draw, resolution, seeds, 10, few, rng) for seeds in (5, 10, 29)]
        cells = [f"{80 + 100 * mean:.0f}, {100 * distance:.0f}" for mean, distance in errors]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def spending(
    looks: tuple[int, ...], alpha: float, repeats: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Return levels of each look, by three rules, of a t test that is wrong in ``alpha`` of all sweeps.

    Bonferroni's are alpha over the number of looks. Pocock's are equal, O'Brien and Fleming's grow; both
    are found from simulated looks at normal data without effect.
    """
    from scipy.stats import norm

    null = looked_at(0.0, looks, repeats, rng)
    count, shares = len(looks), np.asarray(looks) / looks[-1]

    def search(rule: Callable[[float], Array], low: float, high: float) -> Array:
        for _ in range(30):
            middle = (low + high) / 2
            fine = (null <= rule(middle)).any(1).mean() <= alpha / 2
            low, high = (middle, high) if fine else (low, middle)
        return rule(low)

    return {
        "Bonferroni": np.full(count, alpha / count),
        "Pocock": search(lambda level: np.full(count, level), alpha / count, alpha),
        "O'Brien-Fleming": search(lambda level: 2 * norm.sf(norm.isf(level / 2) / np.sqrt(shares)), 0, alpha),
    }


def looked_at(effect: float, looks: tuple[int, ...], repeats: int, rng: np.random.Generator) -> Array:
    """Return two-sided p-values of a t test at each look, ``[repeats, looks]``, for unit spread."""
    from scipy.stats import t

    values = rng.normal(effect, 1.0, (repeats, looks[-1]))
    sums, squares = values.cumsum(1), (values**2).cumsum(1)
    found = []
    for n in looks:
        mean = sums[:, n - 1] / n
        sd = np.sqrt((squares[:, n - 1] - n * mean**2) / (n - 1))
        found.append(2 * t.sf(mean / (sd / np.sqrt(n)), n - 1))
    return np.stack(found, 1)


@dataclass(frozen=True)
class Sequential:
    """What sequential sweeps came to.

    Attributes:
        supported: Share of sweeps that ended with *supported*.
        seeds: Mean number of seeds.
        covered: Share of last intervals that hold the truth.
    """

    supported: float
    seeds: float
    covered: float


def sequential(
    draw: Draw,
    resolution: float,
    excess: float,
    schedule: SeedSchedule,
    repeats: int,
    rng: np.random.Generator,
) -> Sequential:
    """Run made-up sequential sweeps of one claim, whose true mean lies ``excess`` above its threshold."""
    looks = len(schedule.counts)
    supported = seeds = covered = 0
    for _ in range(repeats):
        values, truth = draw(rng, schedule.max)
        smallest = [1.0, 1.0]
        for n in schedule.counts:
            part = Part("", tuple(values[:n].tolist()), truth - excess, "decades", resolution)
            judged = test_findings(Findings((part,)), int(rng.integers(2**63)), looks)
            smallest = [min(smallest[0], judged.p_supported), min(smallest[1], judged.p_refuted)]
            word = conclude(min(1.0, looks * smallest[0]), min(1.0, looks * smallest[1]), 0.05)
            if word != "undecided":
                break
        supported += word == "supported"
        seeds += n
        covered += judged.tests[0].low - 1e-9 <= truth <= judged.tests[0].high + 1e-9
    return Sequential(supported / repeats, seeds / repeats, covered / repeats)


def sequential_tables(repeats: int, rng: np.random.Generator) -> None:
    """Print which rule divides the level among looks, and what sequential sweeps come to."""
    looks = (5, 10, 15, 20, 25, 30)
    many = 10 * repeats
    rules = spending(looks, 0.05, many, rng)
    print(f"\nLooks at {', '.join(map(str, looks))} seeds: power in percent, mean seeds, {many} sweeps\n")
    print(f"| effect / sd | {' | '.join(rules)} |\n|---|---|---|---|")
    for effect in (0.0, 0.5, 1.0, 2.0, 4.0):
        p = looked_at(effect, looks, many, rng)
        cells = []
        for levels in rules.values():
            hit = p <= levels
            stop = np.where(hit.any(1), hit.argmax(1), len(looks) - 1)
            cells.append(f"{100 * hit.any(1).mean():.1f}, {np.asarray(looks)[stop].mean():.1f}")
        print(f"| {effect:g} | {' | '.join(cells)} |", flush=True)
    few = max(200, repeats // 8)
    schedule = SeedSchedule(5, 5, 30)
    print(f"\nSequential sweeps of one claim, 5 to 30 seeds, {few} each: supported, covered in percent\n")
    print("| shape | excess | supported | covered | mean seeds |\n|---|---|---|---|---|")
    for name, excess in [*((name, 0.0) for name in SHAPES), ("normal", 0.1), ("normal", 0.2)]:
        found = sequential(*SHAPES[name], excess, schedule, few, rng)
        cells = (f"{100 * found.supported:.1f}", f"{100 * found.covered:.1f}", f"{found.seeds:.1f}")
        print(f"| {name} | {excess:g} | {' | '.join(cells)} |", flush=True)


def coverage_table(repeats: int, rng: np.random.Generator) -> None:
    """Print how often 95 % intervals hold the truth."""
    print(f"Coverage of 95 % intervals, in percent, {repeats} samples each\n\n{HEAD}")
    for name, (draw, resolution) in (SHAPES | BEYOND).items():
        cells = [f"{100 * coverage(draw, resolution, n, repeats, rng):.1f}" for n in (5, 10, 29)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def verdict_tables(repeats: int, rng: np.random.Generator) -> None:
    """Print how often made-up sweeps on learning-rate robustness end with a false *supported*."""
    few = max(200, repeats // 8)
    print(f"\nSweeps with a false 'supported', in percent, {few} sweeps each (learning-rate robustness)\n")
    print("| true effect | claims | 5 seeds | 10 | 29 |\n|---|---|---|---|---|")
    for said, gain, claims, exact in (
        ("none", 0.0, 1, False),
        ("none", 0.0, 5, False),
        ("the smallest that matters, as the grid shows it", 0.3, 1, True),
        ("the smallest that matters, between the grid's learning rates", 0.3, 1, False),
    ):
        cells = [
            f"{100 * share_supported(robustness_verdicts(gain, n, claims, few, rng, exact=exact)):.1f}"
            for n in (5, 10, 29)
        ]
        print(f"| {said} | {claims} | {' | '.join(cells)} |", flush=True)


PARTS = {
    "coverage": coverage_table, "verdicts": verdict_tables, "power": power_tables,
    "sequential": sequential_tables,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--parts", default=",".join(PARTS), help="which tables")
    options = parser.parse_args()
    for part in options.parts.split(","):
        PARTS[part](options.repeats, np.random.default_rng(0))


if __name__ == "__main__":
    main()
