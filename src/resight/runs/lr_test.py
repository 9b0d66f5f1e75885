"""The curve of an LR test and what can be read off it: pure functions of LRs and losses.

The smoothing is an exponential moving average with bias correction; "valley" follows fastai's
suggestion of that name. A curve that supports no suggestion is rejected with the reason.
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
from resight.render import charts, html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["steepest", "valley", "minimum/10", "minimum/2"]
METHODS: tuple[Method, ...] = ("steepest", "valley", "minimum/10", "minimum/2")
SMOOTHING_DECADES = 0.6  # memory of the moving average, for any number of steps
DIVERGED = 2.0  # × the lowest smoothed loss, and above the first one
SKIP_SHARE = 0.1  # of the curve, at its start: the moving average is still settling
MIN_STEPS = 5  # to read an LR from
MIN_FALL_STEPS = 3  # from the start to the lowest loss
MIN_FALL = 0.05  # as a share of the loss at the start
FALL_BEGUN = 0.05  # as a share of the whole fall
ALL_GONE = 0.05  # as a share of the loss at the start
MAX_NOISE = 0.5  # as a share of the fall


@dataclass(frozen=True)
class LrTest:
    """lrs, losses: float64 (n,), one value per step; stop: why it ended, in words; chance: the loss
    at chance level, ln K; method: how the recipe under test reads the curve.

    batch: images per step, 0 if not recorded. With fewer than the recipe's batch the steps' own LRs
    were lower by `lr_scale`; `lrs` are those for the recipe's batch. recipe_lr: the `lr_max` that
    the named recipe sets itself; None if it has none or the LR was to be found. usual_lr: what to
    use instead, where there are too few images for an LR test or its curve shows no LR.
    """

    lrs: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    stop: str
    chance: float = math.inf
    method: Method = "valley"
    batch: int = 0
    lr_scale: float = 1.0
    recipe_lr: float | None = None
    usual_lr: float | None = None

    def __repr__(self) -> str:
        """Not the arrays."""
        return (
            f"LrTest({len(self.lrs)} steps from LR {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}, "
            f"{self.stop}, method={self.method!r})"
        )

    @property
    def smoothed(self) -> npt.NDArray[np.float64]:
        """float64 (n,): the exponential moving average of the losses, bias-corrected."""
        return smooth(self.losses, memory(self.lrs))

    def suggest(self, method: Method | None = None) -> float:
        """An LR read off the curve, by default with `self.method`, as `lr_max = "find"` does.

        valley: halfway along the longest fall (fastai) · steepest: where the smoothed loss falls
        fastest per decade · minimum/10, minimum/2: a tenth or half of the LR of the lowest smoothed
        loss. Raises `ResightError` with the reason if the curve does not support a suggestion
        (flat, noisy, too short).
        """
        method = method or self.method
        if method not in METHODS:
            raise ResightError(f"unknown suggestion '{method}'{did_you_mean(method, METHODS)}")
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

    @property
    def advised_lr(self) -> float:
        """LR max to train with: the built-in recipe's own, or the usual one where the curve shows
        none, else what is read off it. Raises as `suggest` does."""
        known = self.usual_lr if self.recipe_lr is None else self.recipe_lr
        return self.suggest() if known is None else known

    def suggest_lr_min(self, lr_max: float) -> float:
        """Where the smoothed loss starts to fall (5 % of its fall done), at most `lr_max / 10`."""
        self._check()
        smoothed, low = self.smoothed, self._lowest()
        top = smoothed[self._start()]
        above = np.flatnonzero(smoothed[: low + 1] > top - FALL_BEGUN * (top - smoothed[low]))
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
            "batch": self.batch,
            "lr_scale": self.lr_scale,
            "recipe_lr": self.recipe_lr,
            "usual_lr": self.usual_lr,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LrTest:
        chance = math.inf if values["chance"] is None else values["chance"]
        lrs, losses = np.array(values["lrs"]), np.array(values["losses"])
        return cls(
            lrs,
            losses,
            values["stop"],
            chance,
            values["method"],
            batch=values.get("batch", 0),  # an older version did not record these three
            lr_scale=values.get("lr_scale", 1.0),
            recipe_lr=values.get("recipe_lr"),
            usual_lr=values.get("usual_lr"),
        )

    def plot(self) -> Figure:
        """A matplotlib figure of the curve and its suggestions; needs no display."""
        try:
            suggestions, refused = self.suggestions(), None
        except ResightError as error:
            suggestions, refused = {}, str(error)
        read = {"smoothed": self.smoothed, "suggestions": suggestions, "refused": refused}
        return charts.lr_test({**self.to_dict(), **read})

    def _repr_html_(self) -> str:
        """The plot, which says why if no LR can be read off the curve, and the suggestions."""
        return html.joined(
            lambda: html.image(self.plot(), "loss against learning rate"),
            lambda: self._suggestions_html(),
        )

    def _suggestions_html(self) -> str:
        try:
            suggestions = self.suggestions()
        except ResightError:
            return ""  # the plot's title says why
        rows = [
            (f"{method} (--lr find)" if method == self.method else method, f"{lr:.3g}")
            for method, lr in suggestions.items()
        ]
        if self.recipe_lr is not None:
            rows.append(("set in the recipe", f"{self.recipe_lr:.3g}"))
        return html.table(("method", "LR"), rows)

    def _start(self) -> int:
        """Where reading begins: after the average has settled and the loss has fallen to chance.

        Fresh weights give a loss above ln K. Its drop to ln K, at any LR, is not learning, but it
        is steep and would be mistaken for the best part of the curve.
        """
        below = np.flatnonzero(self.smoothed < self.chance)
        return max(self._settled(), int(below[0]) if len(below) else len(self.lrs))

    def _settled(self) -> int:
        return math.ceil(SKIP_SHARE * len(self.lrs))

    def _lowest(self) -> int:
        """Where the loss is lowest, or where almost all of it is gone.

        Memorised images give no gradients: their loss stays near zero, and keeps falling, at
        learning rates that would ruin a training.
        """
        start = self._start()
        read = self.smoothed[start:]
        return start + int((read <= max(read.min(), ALL_GONE * read[0])).argmax())

    def _check(self) -> None:
        """Reject a curve that no LR can be read off."""
        smoothed, start = self.smoothed, self._start()
        advice = "set the LR yourself: `resight train --lr VALUE`"
        if len(self.lrs) - self._settled() < MIN_STEPS:
            raise ResightError(
                f"the LR test stopped after only {len(self.lrs)} steps ({self.stop}): too short to "
                f"suggest an LR; {advice}"
            )
        if smoothed.min() >= self.chance:
            raise ResightError(
                f"the LR test's loss never falls below {self.chance:.3g}, the chance level; check "
                f"the labels or {advice}"
            )
        if len(self.lrs) - start < MIN_STEPS:
            raise ResightError(
                f"the LR test's loss falls below {self.chance:.3g}, the chance level, only "
                f"{len(self.lrs) - start} steps before it stopped ({self.stop}): too late to "
                f"suggest an LR; {advice}"
            )
        low = self._lowest()
        fall = float(smoothed[start] - smoothed[low])
        if fall < MIN_FALL * smoothed[start]:
            raise ResightError(
                f"the LR test's curve is flat: its loss falls only from {smoothed[start]:.3g} to "
                f"{smoothed[low]:.3g}; check the labels or {advice}"
            )
        noise = float(np.std((self.losses - smoothed)[start : low + 1]))
        if low - start < MIN_FALL_STEPS or noise > MAX_NOISE * fall:
            raise ResightError(
                f"the LR test's curve is too noisy: the loss scatters by {noise:.2g} around a fall "
                f"of {fall:.2g}; use a larger --batch-size, or {advice}"
            )


def without_advice(error: ResightError) -> str:
    """Why a curve shows no LR, without what to do about it: for where that is already done."""
    return str(error).split("; ")[0]


def save_plot(test: LrTest, path: Path) -> None:
    """Write the curve as an image, in the format of `path`'s suffix. Raises `ResightError`."""
    check_plot(path)
    try:
        test.plot().savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResightError(f"can't write {path}: {why}; choose another --plot") from None


def check_plot(path: Path) -> None:
    """Raise `ResightError` if `save_plot` could not write, before the test is run."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ResightError(f"--plot {path} must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ResightError(f"there is no folder {path.parent} for the plot: create it first")


def method_for(schedule: Schedule) -> Method:
    """How `lr_max = "find"` reads the curve: close to its lowest point if the schedule warms up to
    `lr_max`, a tenth of that if it starts there. The experiments are in `docs/log.md`."""
    return "minimum/2" if schedule.warms_up else "minimum/10"


def memory(lrs: npt.NDArray[np.float64]) -> float:
    """The decay per step of a moving average that remembers 0.6 decades of `lrs`."""
    if len(lrs) < 2:
        return 0.0
    steps_per_decade = (len(lrs) - 1) / math.log10(lrs[-1] / lrs[0])
    return max(0.0, 1 - 1 / (SMOOTHING_DECADES * steps_per_decade))


def smooth(losses: npt.NDArray[np.float64], beta: float) -> npt.NDArray[np.float64]:
    """Exponential moving average, bias-corrected: the first value is the first loss."""
    smoothed, mean = np.empty(len(losses)), 0.0
    for i, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * loss
        smoothed[i] = mean / (1 - beta ** (i + 1))
    return smoothed


def longest_fall(values: npt.NDArray[np.float64]) -> list[int]:
    """Indices of the longest strictly decreasing subsequence of `values` (O(n²); n ≤ 200)."""
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
    """The number of losses up to and including the first that diverged; None if none did."""
    smoothed = smooth(np.array(losses), beta)
    lowest = np.minimum.accumulate(smoothed)
    bad = ~np.isfinite(smoothed) | ((smoothed > DIVERGED * lowest) & (smoothed > smoothed[0]))
    return int(bad.argmax()) + 1 if bad.any() else None
