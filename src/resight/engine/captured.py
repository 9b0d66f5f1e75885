"""The whole step as one CUDA graph: `Captured` replays what `Eager` does, without Python overhead.

Everything that a step reads is in tensors that stay in place: the epoch's plan, its rates, a
counter that selects their next row, and the state. Nothing is passed to a replay; the epoch's
numbers are copied in once.

The order: build, load, warm up on a snapshot, restore in place, capture, and from then on only copy
into existing tensors.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resight.data.plan import EpochPlan
from resight.engine.graphs import CudaGraphs, Graphs
from resight.engine.optim import set_tensor_rates, use_tensor_rates
from resight.engine.rates import Rates
from resight.engine.step import Eager, StepContext, StepKind, learn
from resight.errors import ResightWarning, first_line


@dataclass(frozen=True)
class _Kind:
    """What distinguishes recordings: the size of the batch, the kind of the step, and whether
    averages move."""

    images: int
    step: StepKind
    averages: bool


class Captured:
    """Replays recorded steps. It must give `Eager`'s losses: the same body is recorded.

    There is one recording per combination of what Python decides in a step (the batch's size,
    smaller images, a frozen stem, whether averages move); what changes from step to step is read
    from tables by `_counter`.
    """

    def __init__(self, context: StepContext, graphs: Graphs | None = None) -> None:
        """graphs: CUDA's own by default."""
        self.context = context
        state, device, steps = context.state, context.runtime.device, context.steps
        self._graphs = graphs or CudaGraphs(device)
        self.recording_seconds = 0.0
        self.fallback: str | None = None
        self._replays: dict[_Kind, Callable[[], None]] = {}
        use_tensor_rates(state.optimizer, device)
        columns = len(state.optimizer.param_groups)
        self._table = torch.zeros(steps, columns + 1, device=device)  # LRs, then the average's
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._plan: EpochPlan | None = None
        self._average: tuple[float, ...] = ()
        self._next = 0
        self._instead: Eager | None = None  # if recording fails

    def begin(self, plan: EpochPlan, rates: Rates, first: int = 0) -> None:
        """Load the epoch's numbers, and record those of its steps that were not recorded yet."""
        if self._instead:
            self._instead.begin(plan, rates, first)
            return
        assert rates.momenta is None, "momentum is a Python number: only Eager cycles it"
        self._average = rates.average
        state = self.context.state
        self._table[: len(rates)].copy_(rates.table(state.optimizer))
        if self._plan is None:
            self._plan = _own(plan)
        else:
            _copy_plan(self._plan, plan)
        began = time.perf_counter()
        try:
            for position in range(first, len(rates)):
                kind = self._kind(position, state.step + position - first)
                if kind not in self._replays:
                    self._replays[kind] = self._record(kind, position)
        except RuntimeError as error:  # also out of memory, which Eager will then report
            self._replays.clear()  # and free their memory
            state.optimizer.zero_grad(set_to_none=True)  # left by the failed recording
            warnings.warn(
                f"the step could not be captured as a CUDA graph ({first_line(error)}): falling "
                "back to eager execution, same results; --executor eager silences this",
                ResightWarning,
                stacklevel=2,
            )
            self.fallback = f"the step could not be captured: {first_line(error)}"
            self._instead = Eager(self.context)
            self._instead.begin(plan, rates, first)
            return
        finally:
            self.recording_seconds += time.perf_counter() - began
        self._counter.fill_(first)
        self._next = first

    def step(self, position: int) -> None:
        if self._instead:
            self._instead.step(position)
            return
        assert position == self._next, (position, self._next)
        state = self.context.state
        self._replays[self._kind(position, state.step)]()
        state.step += 1
        self._next += 1

    def train_on(self, index: Tensor, plan: EpochPlan) -> tuple[Tensor, Tensor]:
        """A step on any images, run eagerly: what `Eager.train_on` does."""
        return Eager(self.context).train_on(index, plan)

    def _kind(self, position: int, step: int) -> _Kind:
        batch = self.context.recipe.train.batch_size
        return _Kind(
            images=min(batch, len(self.context.split) - position * batch),
            step=self.context.kind_at(step),
            averages=bool(self.context.state.average and self._average[position]),
        )

    def _record(self, kind: _Kind, position: int) -> Callable[[], None]:
        """Warm up and record the step of `kind` at `position`; the state is unchanged."""
        before = self.context.state.snapshot()

        def body() -> None:
            self._body(kind)

        def warm() -> None:
            self._counter.fill_(position)
            body()

        try:
            self._graphs.warm_up(warm)
        finally:
            self.context.state.restore(before)
        self._counter.fill_(position)  # a valid row, in case `record` reads it
        return self._graphs.record(body)

    def _body(self, kind: _Kind) -> None:
        """One step, from tables and buffers alone."""
        assert self._plan is not None
        state, batch = self.context.state, self.context.recipe.train.batch_size
        row = self._table.index_select(0, self._counter)[0]
        set_tensor_rates(state.optimizer, row[:-1])
        places = self._counter * batch + torch.arange(kind.images, device=self._counter.device)
        index = self._plan.order.index_select(0, places)
        loss, correct = learn(self.context, index, self._plan, kind.step)
        if kind.averages:
            assert state.average is not None
            state.average.update(state.model, row[-1])
        state.trace.losses.index_copy_(0, self._counter, loss.reshape(1))
        state.trace.correct.index_copy_(0, self._counter, correct.reshape(1))
        self._counter.add_(1)


def _own(plan: EpochPlan) -> EpochPlan:
    """A copy of the plan, whose tensors later plans are copied into."""
    return plan.each(torch.clone)


def _copy_plan(mine: EpochPlan, theirs: EpochPlan) -> None:
    for name, to in vars(mine).items():
        if to is not None:
            to.copy_(getattr(theirs, name))
