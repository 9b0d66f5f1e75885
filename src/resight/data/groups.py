"""Groups of images that belong together, such as one person's, and a split in whole groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resight.errors import ResightError

UNSURE = 1e-12  # sums of shares that differ by less are equal but for rounding


@dataclass(frozen=True)
class Groups:
    """numbers: int64 (N,), the group of each image, in [0, len(names)); alone: the ids of images
    that are groups of their own, because the pattern does not match them.

    The numbers depend on the ids alone, not on their order.
    """

    numbers: npt.NDArray[np.int64]
    names: tuple[str, ...]
    alone: tuple[str, ...]

    @classmethod
    def find(cls, ids: npt.NDArray[np.str_], pattern: str) -> Groups:
        """The regular expression `pattern` is searched in each id; its first capturing group, or
        the whole match if it has none, names the group. Raises ResightError if it is not valid."""
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ResightError(
                f"group = '{pattern}' must be a regular expression: {error}"
            ) from None
        part = min(expression.groups, 1)
        matches = [(one, expression.search(one)) for one in ids.tolist()]
        # an empty name names nothing
        keys = [(False, m[part]) if m and m[part] else (True, one) for one, m in matches]
        known = {key: number for number, key in enumerate(sorted(set(keys)))}
        return cls(
            numbers=np.array([known[key] for key in keys], dtype=np.int64),
            names=tuple(name for _, name in known),
            alone=tuple(name for is_alone, name in known if is_alone),
        )

    def at(self, rows: npt.NDArray[np.int64]) -> Groups:
        """The groups of the images at `rows`, with the same numbers."""
        return replace(self, numbers=self.numbers[rows])

    def among(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers of the groups that images at `rows` belong to, sorted."""
        return np.unique(self.numbers[rows])


def hold_out(
    groups: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    targets: Sequence[int],
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Which images are held out: whole groups, of class c about `targets[c]` images, bool (N,).

    groups, labels: int64 (N,); a group may have images of several classes. targets: each fewer than
    the class has. Every class keeps a group; one of two groups or more also gives one, where the
    other classes allow it. In the order of numbers drawn with `seed` (raw Philox output, as in
    `stratified_split`) groups are taken that fit whole into what is still to be held out; then,
    while there are any, those that bring the classes' shares nearer to what they should be, the
    best first.
    """
    k = len(targets)
    goal, sizes = np.array(targets, dtype=np.int64), np.bincount(labels, minlength=k)
    pairs, counts = np.unique(groups * k + labels, return_counts=True)
    owners, classes = pairs // k, pairs % k  # images of a class in a group: rows by group
    total = int(groups.max(initial=-1)) + 1
    starts = np.searchsorted(owners, np.arange(total + 1))
    order = np.argsort(np.random.Philox(key=seed & (2**64 - 1)).random_raw(total), kind="stable")
    kept = np.bincount(classes, minlength=k)  # groups
    several = np.flatnonzero(kept > 1)
    out = np.zeros(k, dtype=np.int64)  # images
    taken = np.zeros(total, dtype=bool)

    def take(group: int) -> None:
        own = slice(starts[group], starts[group + 1])
        out[classes[own]] += counts[own]
        kept[classes[own]] -= 1
        taken[group] = True

    def costs() -> npt.NDArray[np.float64]:
        """By how much each group, if it was taken, would move the shares away: (groups,)."""
        off, then = np.abs(out - goal)[classes], np.abs(out[classes] + counts - goal[classes])
        moved = (then - off) / sizes[classes]
        change = np.bincount(owners, weights=moved, minlength=total).astype(np.float64)
        needed = np.bincount(owners, weights=kept[classes] == 1, minlength=total) > 0
        change[taken | needed] = np.inf
        return change

    for group in order.tolist():
        own = slice(starts[group], starts[group + 1])
        if (out[classes[own]] + counts[own] <= goal[classes[own]]).all():
            take(group)
    for label in several[np.argsort(kept[several], kind="stable")]:
        if not out[label]:
            change = costs()
            has = np.isin(order, owners[classes == label])
            best = order[has][change[order[has]].argmin()]
            if np.isfinite(change[best]):
                take(best)
    while (change := costs()[order]).min(initial=0) < -UNSURE:
        take(order[change.argmin()])
    return taken[groups]
