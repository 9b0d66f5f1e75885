"""One training step, and the executor that runs it.

The LR test and the time estimate run this very step on a snapshot; nothing else trains a net here.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resight.data.batches import DeviceSplit
from resight.data.plan import EpochPlan
from resight.optim import set_rates
from resight.recipe import Recipe
from resight.runtime import Runtime
from resight.state import TrainState


class Eager:
    """The reference executor: each operation as it comes."""

    def __init__(
        self, state: TrainState, recipe: Recipe, runtime: Runtime, split: DeviceSplit
    ) -> None:
        self.state, self.recipe, self.runtime, self.split = state, recipe, runtime, split

    def step(
        self, index: Tensor, plan: EpochPlan, *, lr: float, momentum: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Train on the images at `index` (int64 (B,)) and advance `state.step` by one.

        Returns the loss (mean over the B images, label smoothing included) and the number of
        images whose prediction was right, both of before the update and still on the device.
        """
        state, recipe = self.state, self.recipe
        images, labels = self.split.augmented(index, plan, recipe.augment)
        state.model.train()
        with self.runtime.autocast():
            logits = state.model(images)
        loss = cross_entropy(logits.float(), labels, label_smoothing=recipe.loss.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.optimizer.clip_grad_norm:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimizer.clip_grad_norm)
        set_rates(state.optimizer, lr, momentum)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema:
            state.ema.update(state.model, state.step)
        state.step += 1
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()
