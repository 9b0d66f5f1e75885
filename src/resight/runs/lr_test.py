"""The curve of an LR test and what can be read off it: pure functions of LRs and losses.

The smoothing is an exponential mean with bias correction; "valley" follows fastai's suggestion of
that name. A curve that does not bear a suggestion is refused with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from resight.errors import ResightError, did_you_mean
from resight.recipe.settings import Schedule
from resight.render import html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["steepest", "valley", "minimum/10", "minimum/2"]
METHODS: tuple[Method, ...] = ("steepest", "valley", "minimum/10", "minimum/2")
SMOOTHING_DECADES = 0.6  # the mean's memory, whatever the number of steps
DIVERGED = 2.0  # times the lowest smoothed loss, and above the first one
SKIP_SHARE = 0.1  # of the curve's start: the mean still settles
FEWEST_STEPS = 5  # to read from
LEAST_FALL = 0.05  # of the loss at the start
ALL_GONE = 0.05  # of the loss at the start
MOST_NOISE = 0.5  # of the fall


@dataclass(frozen=True)
class LrTest:
    """lrs, losses: float64 (n,), a step each; stop: why it ended, in words; chance: the loss of a
    net that knows nothing, ln K; method: how the recipe that was tested reads the curve."""

    lrs: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    stop: str
    chance: float = math.inf
    method: Method = "valley"

    @property
    def smoothed(self) -> npt.NDArray[np.float64]:
        """float64 (n,): the exponential mean of the losses, corrected for its start."""
        return smooth(self.losses, memory(self.lrs))

    def suggest(self, method: Method | None = None) -> float:
        """An LR read off the curve; by `self.method`, as `lr_max = "find"` does, unless given.

        valley: halfway along the longest fall (fastai) · steepest: where the smoothed loss falls
        fastest per decade · minimum/10, minimum/2: a tenth or half of the LR of the lowest smoothed
        loss. Raises `ResightError` where the curve does not bear it (flat, noisy, too short),
        saying why.
        """
        method = method or self.method
        if method not in METHODS:
            raise ResightError(f"suggestion '{method}'{did_you_mean(method, METHODS)}")
        self._check()
        smoothed, low = self.smoothed, self._lowest()
        start = self._start()
        if method in ("minimum/10", "minimum/2"):
            return float(self.lrs[low]) / (10 if method == "minimum/10" else 2)
        if method == "valley":
            falling = longest_fall(smoothed[start : low + 1])
            return float(self.lrs[start + (falling[0] + falling[-1]) // 2])
        slope = np.gradient(smoothed, np.log10(self.lrs))
        return float(self.lrs[start + int(slope[start : low + 1].argmin())])

    def suggest_lr_min(self, lr_max: float) -> float:
        """Where the smoothed loss starts to fall (5 % of its fall done), at most `lr_max / 10`."""
        self._check()
        smoothed, low = self.smoothed, self._lowest()
        top = smoothed[self._start()]
        above = np.flatnonzero(smoothed[: low + 1] > top - 0.05 * (top - smoothed[low]))
        return min(float(self.lrs[above[-1]]) if len(above) else math.inf, lr_max / 10)

    def suggestions(self) -> dict[str, float]:
        """Every method's suggestion. Raises as `suggest` does."""
        return {method: self.suggest(method) for method in METHODS}

    def to_dict(self) -> dict[str, Any]:
        return {
            "lrs": self.lrs.tolist(),
            "losses": self.losses.tolist(),
            "stop": self.stop,
            "chance": self.chance if math.isfinite(self.chance) else None,
            "method": self.method,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LrTest:
        chance = math.inf if values["chance"] is None else values["chance"]
        lrs, losses = np.array(values["lrs"]), np.array(values["losses"])
        return cls(lrs, losses, values["stop"], chance, values["method"])

    def plot(self) -> Figure:
        """A matplotlib figure of the curve and its suggestions, on no display."""
        from resight.render.charts import lr_test

        try:
            suggestions, refused = self.suggestions(), None
        except ResightError as error:
            suggestions, refused = {}, str(error)
        read = {"smoothed": self.smoothed, "suggestions": suggestions, "refused": refused}
        return lr_test({**self.to_dict(), **read})

    def _repr_html_(self) -> str:
        """The plot, which says why where nothing can be read off it, and the suggestions."""
        return html.joined(
            lambda: html.image(self.plot(), "loss against learning rate"),
            lambda: self._suggestions_html(),
        )

    def _suggestions_html(self) -> str:
        try:
            suggestions = self.suggestions()
        except ResightError:
            return ""  # the plot's title says why
        return html.table(
            ("method", "LR"),
            [
                (f"{method} (the recipe's)" if method == self.method else method, f"{lr:.3g}")
                for method, lr in suggestions.items()
            ],
        )

    def _start(self) -> int:
        """Where reading begins: past the mean's first steps and past the fall to chance.

        Fresh weights give a loss above ln K; that they lose it at any LR is no learning, but it is
        steep, and would be taken for the best place of the curve.
        """
        below = np.flatnonzero(self.smoothed < self.chance)
        return max(self._settled(), int(below[0]) if len(below) else len(self.lrs))

    def _settled(self) -> int:
        return math.ceil(SKIP_SHARE * len(self.lrs))

    def _lowest(self) -> int:
        """Where the loss is lowest, or first all gone.

        What has been learnt by heart makes no gradients: its loss stays near zero, and sinks still
        further, at rates that would wreck a training.
        """
        start = self._start()
        read = self.smoothed[start:]
        return start + int((read <= max(read.min(), ALL_GONE * read[0])).argmax())

    def _check(self) -> None:
        """Refuse a curve that no LR can be read off."""
        smoothed, start = self.smoothed, self._start()
        advice = "give the LR yourself: --lr VALUE"
        if len(self.lrs) - self._settled() < FEWEST_STEPS:
            raise ResightError(
                f"the LR test has only {len(self.lrs)} steps before it stopped ({self.stop}): too "
                f"short to suggest an LR; {advice}"
            )
        if smoothed.min() >= self.chance:
            raise ResightError(
                f"the LR test's loss never falls below {self.chance:.3g}, that of guessing: no LR "
                f"can be suggested; check the labels or {advice}"
            )
        if len(self.lrs) - start < FEWEST_STEPS:
            raise ResightError(
                f"the LR test's loss falls below {self.chance:.3g}, that of guessing, only "
                f"{len(self.lrs) - start} steps before it stopped ({self.stop}): too late to "
                f"suggest an LR; {advice}"
            )
        low = self._lowest()
        fall = float(smoothed[start] - smoothed[low])
        if fall < LEAST_FALL * smoothed[start]:
            raise ResightError(
                f"the LR test's curve is flat: its loss falls from {smoothed[start]:.3g} to "
                f"{smoothed[low]:.3g} only, so no LR can be suggested; check the labels or {advice}"
            )
        noise = float(np.std((self.losses - smoothed)[start : low + 1]))
        if low - start < 3 or noise > MOST_NOISE * fall:
            raise ResightError(
                f"the LR test's curve is too noisy: the loss scatters by {noise:.2g} around a fall "
                f"of {fall:.2g}, so no LR can be suggested; take a larger --batch-size, or {advice}"
            )


def save_plot(test: LrTest, path: Path) -> None:
    """Write the curve as an image of the kind that `path` ends with. Raises `ResightError`."""
    check_plot(path)
    try:
        test.plot().savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ResightError(f"plot: can't write {path}: {error}") from None


def check_plot(path: Path) -> None:
    """Raise `ResightError` where `save_plot` could not write, before the test is paid for."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ResightError(f"plot: {path} must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ResightError(f"plot: there is no folder {path.parent}; make it first")


def method_for(schedule: Schedule) -> Method:
    """How `lr_max = "find"` reads the curve: close to its lowest point where the schedule warms up
    to `lr_max`, a tenth of it where it starts there. `docs/log.md` has the trials."""
    return "minimum/2" if schedule.warms_up else "minimum/10"


def memory(lrs: npt.NDArray[np.float64]) -> float:
    """The weight of the past, a step, in a mean that remembers 0.6 decades of `lrs`."""
    if len(lrs) < 2:
        return 0.0
    steps_per_decade = (len(lrs) - 1) / math.log10(lrs[-1] / lrs[0])
    return max(0.0, 1 - 1 / (SMOOTHING_DECADES * steps_per_decade))


def smooth(losses: npt.NDArray[np.float64], beta: float) -> npt.NDArray[np.float64]:
    """Exponential mean with bias correction: the first value is the first loss."""
    smoothed, mean = np.empty(len(losses)), 0.0
    for i, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * loss
        smoothed[i] = mean / (1 - beta ** (i + 1))
    return smoothed


def longest_fall(values: npt.NDArray[np.float64]) -> list[int]:
    """Indices of the longest strictly falling subsequence of `values` (n²; n ≤ 200)."""
    length = np.ones(len(values), dtype=np.int64)
    previous = np.full(len(values), -1)
    for i in range(1, len(values)):
        higher = np.flatnonzero(values[:i] > values[i])
        if len(higher):
            best = higher[length[higher].argmax()]
            length[i], previous[i] = length[best] + 1, best
    chain = [int(length.argmax())]
    while previous[chain[-1]] >= 0:
        chain.append(int(previous[chain[-1]]))
    return chain[::-1]


def diverged(losses: list[float], beta: float) -> int | None:
    """How many losses there are up to and with the first that diverged, if one did."""
    smoothed = smooth(np.array(losses), beta)
    lowest = np.minimum.accumulate(smoothed)
    bad = ~np.isfinite(smoothed) | ((smoothed > DIVERGED * lowest) & (smoothed > smoothed[0]))
    return int(bad.argmax()) + 1 if bad.any() else None
