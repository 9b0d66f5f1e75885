"""`Predictions`: the logits of a split, and what follows from them."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.errors import ResightError
from resight.files import write_atomically


@dataclass(frozen=True)
class Predictions:
    """logits: float32 (N, K); labels: int64 (N,); ids: str (N,); classes: K names."""

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    classes: tuple[str, ...]
    split: str = "test"

    def __post_init__(self) -> None:
        n, k = self.logits.shape
        assert self.labels.shape == self.ids.shape == (n,), (n, self.labels.shape, self.ids.shape)
        assert k == len(self.classes), (k, len(self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """int64 (N,): the class of the highest logit, the first of equals."""
        return np.asarray(self.logits.argmax(1), dtype=np.int64)

    @cached_property
    def losses(self) -> npt.NDArray[np.float64]:
        """float64 (N,): cross-entropy of each image, without label smoothing, in nats."""
        logits = self.logits.astype(np.float64)
        top = logits.max(1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
        losses: npt.NDArray[np.float64] = log_sum - logits[np.arange(len(self)), self.labels]
        return losses

    @property
    def loss(self) -> float:
        """The mean over images of the cross-entropy."""
        return float(self.losses.mean())

    @property
    def correct(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / len(self)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(self.correct, len(self))

    def per_class(self) -> list[dict[str, Any]]:
        """A row a class: name, support, correct, accuracy (its recall; None without images)."""
        k = len(self.classes)
        support = np.bincount(self.labels, minlength=k)
        correct = np.bincount(self.labels[self.predicted == self.labels], minlength=k)
        return [
            {
                "class": name,
                "support": int(support[i]),
                "correct": int(correct[i]),
                "accuracy": float(correct[i] / support[i]) if support[i] else None,
            }
            for i, name in enumerate(self.classes)
        ]

    def save(self, path: Path) -> None:
        """Write an .npz that loads without pickle."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            logits=self.logits,
            labels=self.labels,
            ids=self.ids,
            classes=np.array(self.classes, dtype=np.str_),
            split=np.array(self.split, dtype=np.str_),
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote. Raises `ResightError` for another or a torn file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(
                    logits=file["logits"],
                    labels=file["labels"],
                    ids=file["ids"],
                    classes=tuple(str(name) for name in file["classes"]),
                    split=str(file["split"]),
                )
        except FileNotFoundError:
            raise ResightError(
                f"{path}: no predictions there; `resight evaluate RUN` writes them"
            ) from None
        except Exception as error:  # a torn archive raises of a dozen kinds
            raise ResightError(f"{path}: not a predictions file of Resight: {error}") from None


def wilson_interval(correct: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval for `correct` of `n`; 95 % at the default z."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
