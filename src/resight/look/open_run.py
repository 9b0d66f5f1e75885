"""`OpenRun`: a run with its images, its net and its predictions, opened for inspection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resight.data.batches import DeviceSplit
from resight.data.duplicates import Duplicate, find_duplicates
from resight.data.plan import EpochPlan
from resight.data.types import ImageData, Split
from resight.engine.runtime import Runtime, RuntimeOptions
from resight.errors import ResightError
from resight.progress import Reporter
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run


@dataclass(frozen=True)
class OpenRun:
    """data is None if the images can't be loaded: `missing` says why, in one line.

    Whatever is costly is computed on first use, and only once.
    """

    run: Run
    data: ImageData | None
    runtime: Runtime
    missing: str | None = None

    @cached_property
    def predictions(self) -> Predictions | None:
        """Of the test split; None if the run has not finished."""
        there = (self.run.path / "predictions.npz").is_file()
        return self.run.predictions if there else None

    @cached_property
    def model(self) -> nn.Module | None:
        """In eval mode, on the runtime's device; None if the run has not finished."""
        there = (self.run.path / "model.safetensors").is_file()
        return self.run.model().to(self.runtime.device) if there else None

    @cached_property
    def temperature(self) -> float | None:
        """See `Run.temperature`."""
        return self.run.temperature

    @cached_property
    def duplicates(self) -> list[Duplicate]:
        """Test images with a duplicate in train, exact ones first, then by distance; [] if the
        images are missing."""
        if self.data is None or self.data.test is self.data.train:
            return []
        found = find_duplicates(
            self.data.train.images, self.data.test.images, device=self.runtime.device
        )
        return sorted(found, key=lambda duplicate: (duplicate.kind != "exact", duplicate.distance))

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """int64 (K,): the number of training images per class; all equal if not known."""
        facts = self.run.resolved["data"]
        if self.data is not None:
            return np.bincount(self.data.train.labels, minlength=len(self.data.classes))
        return np.array(facts.get("class_counts", [1] * len(facts["classes"])), dtype=np.int64)

    def augmented(
        self, count: int, *, mixed: bool = True, repeated: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The first `count` training images of the first epoch as the net saw them: float32 (n, C,
        H, W), normalised, and their labels int64 (n,). Needs `data`.

        mixed: with Mixup and CutMix, repeated: as classes are balanced, if the recipe does so.
        """
        assert self.data is not None
        plan = self._first_plan if repeated else self._plan("uniform")
        plan = plan if mixed else plan.unmixed()
        split = self._place(self.data.train, resident=False)  # only what is shown is loaded
        return split.augmented(plan.order[:count], plan, self.run.recipe.augment)

    def mixture(self, count: int) -> tuple[Tensor, Tensor] | None:
        """What each of `augmented(count)` was mixed with: the other label int64 (n,), and the share
        of its own, float32 (n,). None without Mixup and CutMix. Needs `data`."""
        assert self.data is not None
        plan = self._first_plan
        if plan.partners is None or plan.shares is None:
            return None
        samples = plan.order[:count]
        partners = plan.images_of(plan.partners[samples]).cpu()
        return torch.from_numpy(self.data.train.labels)[partners], plan.shares[samples]

    @cached_property
    def _first_plan(self) -> EpochPlan:
        """Of the first epoch, on the device. Needs `data`."""
        return self._plan(self.run.recipe.train.sampling)

    def _plan(self, sampling: str) -> EpochPlan:
        assert self.data is not None
        recipe = self.run.recipe.with_changes({"train.sampling": sampling})
        return EpochPlan.of(recipe, self.data, epoch=0).to(self.runtime.device)

    def normalized(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 (n, H, W, C) → float32 (n, C, H, W) on the device, with the run's statistics."""
        zeros = np.zeros(len(images), dtype=np.int64)
        split = Split(np.ascontiguousarray(images), zeros, zeros.astype(np.str_))
        return self._place(split).plain(0, len(images))

    def _place(self, split: Split, *, resident: bool = True) -> DeviceSplit:
        facts = self.run.resolved["data"]
        mean, std = (torch.tensor(facts[key], dtype=torch.float32) for key in ("mean", "std"))
        return DeviceSplit.place(split, mean, std, self.runtime.device, resident=resident)


def open_run(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> OpenRun:
    """Open a run folder with its images and its net.

    data: the images, if they have moved. Raises `ResightError` if there is no run to inspect yet,
    and for `data` that can't be loaded or is not the run's.
    """
    run = run if isinstance(run, Run) else load_run(run)
    runtime = Runtime.like(run.environment.get("runtime"), RuntimeOptions(device), run=run.path)
    runtime.apply()
    try:
        loaded, missing = run.images(data, reporter=reporter), None
    except ResightError as error:
        if data is not None:
            raise
        loaded, missing = None, str(error)
    return OpenRun(run, loaded, runtime, missing)
