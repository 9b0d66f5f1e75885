"""`Predictions`: the logits of a split and the metrics computed from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.characters import printable
from resight.errors import ResightError, first_line
from resight.files import write_atomically
from resight.formats import FORMAT, check_format
from resight.intervals import wilson_interval
from resight.records import Row, accuracy_words, beside_words, weakest_first
from resight.render import html
from resight.runs.commands import rewrite_command
from resight.runs.manifest import read_file

MAX_CLASSES_SHOWN = 100  # in a notebook
NAMES = ("id", "true", "predicted")
COLUMNS = (*NAMES, "correct", "confidence", "probability_true", "loss")
FORMULA = ("=", "+", "-", "@")  # how a cell begins that a spreadsheet computes


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

    def __repr__(self) -> str:
        return f"Predictions({self.split}: {len(self):,} images, {len(self.classes):,} classes)"

    def __str__(self) -> str:
        """Accuracy with its interval, loss, and what the accuracy is to be compared with."""
        return f"{self.headline}\n{self.beside_accuracy}"

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        """int64 (N,): the class with the highest logit; the first one on a tie."""
        return np.asarray(self.logits.argmax(1), dtype=np.int64)

    @cached_property
    def losses(self) -> npt.NDArray[np.float64]:
        """float64 (N,): cross-entropy of each image, without label smoothing, in nats."""
        logits = self.logits.astype(np.float64)
        top = logits.max(1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
        losses: npt.NDArray[np.float64] = log_sum - logits[np.arange(len(self)), self.labels]
        return losses

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """float32 (N, K): the softmax of the logits."""
        return softmax(self.logits)

    @cached_property
    def confidence(self) -> npt.NDArray[np.float64]:
        """float64 (N,): the probability of the predicted class."""
        return self._probability_of(self.predicted)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """int64 (K, K): number of images by true class (row) and predicted class (column)."""
        k = len(self.classes)
        counts = np.bincount(self.labels * k + self.predicted, minlength=k * k)
        return np.asarray(counts, dtype=np.int64).reshape(k, k)

    @property
    def loss(self) -> float:
        """The mean cross-entropy over all images."""
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

    @property
    def headline(self) -> str:
        """Accuracy with its interval, and loss, in one line."""
        words = accuracy_words(self.split, self.accuracy, self.accuracy_interval, len(self))
        return f"{words} · loss {self.loss:.4f}"

    @property
    def guess_accuracy(self) -> float:
        """The accuracy of always answering the largest class of these images, in (0, 1]."""
        return int(self._support.max()) / len(self)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the classes' recalls, over the classes that have images."""
        there = self._support > 0
        return float((np.diagonal(self.confusion)[there] / self._support[there]).mean())

    @property
    def beside_accuracy(self) -> str:
        """What the accuracy is to be compared with, in one line."""
        return beside_words(self.guess_accuracy, self.balanced_accuracy, self.classes_measured)

    @property
    def classes_measured(self) -> int:
        """Classes that have images."""
        return int((self._support > 0).sum())

    @property
    def _support(self) -> npt.NDArray[np.int64]:
        """int64 (K,): images of each class."""
        support: npt.NDArray[np.int64] = self.confusion.sum(1)
        return support

    def per_class(self) -> list[dict[str, Any]]:
        """One row per class: class (name), support, correct, accuracy, precision, recall, f1.

        accuracy equals recall: correct / support, None for a class without images. precision:
        correct / images predicted as the class, None if there are none. f1: 2 correct / (support +
        predicted), so 0 for a class that is never predicted, None only if both are 0.
        """
        support, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        correct = np.diagonal(self.confusion).tolist()
        return [
            {
                "class": name,
                "support": support[i],
                "correct": correct[i],
                "accuracy": _share(correct[i], support[i]),
                "precision": _share(correct[i], predicted[i]),
                "recall": _share(correct[i], support[i]),
                "f1": _share(2 * correct[i], support[i] + predicted[i]),
            }
            for i, name in enumerate(self.classes)
        ]

    def most_confused(self, limit: int | None = 10) -> list[dict[str, Any]]:
        """The pairs of classes that are confused most, by descending count, then in class order.

        true, predicted: class indices; true_class, predicted_class: their names; count > 0; share:
        of the true class's images.
        """
        k = len(self.classes)
        counts = self.confusion * ~np.eye(k, dtype=bool)
        pairs = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]
        support = self.confusion.sum(1)
        return [
            {
                "true": true,
                "predicted": predicted,
                "true_class": self.classes[true],
                "predicted_class": self.classes[predicted],
                "count": int(counts[true, predicted]),
                "share": float(counts[true, predicted] / support[true]),
            }
            for true, predicted in (divmod(pair, k) for pair in pairs[:limit].tolist())
        ]

    def top_losses(self, limit: int | None = None) -> npt.NDArray[np.int64]:
        """int64: all images, or the first `limit`, by descending loss; ties in their order."""
        return np.argsort(-self.losses, kind="stable")[:limit].astype(np.int64)

    def mistakes(self, limit: int | None = None) -> npt.NDArray[np.int64]:
        """int64: the misclassified images, or the first `limit`, by descending loss."""
        order = self.top_losses()
        wrong: npt.NDArray[np.int64] = order[self.predicted[order] != self.labels[order]]
        return wrong[:limit]

    def label_suspects(self, limit: int | None = None) -> npt.NDArray[np.int64]:
        """int64: images that the net confidently assigns to a class different from their label.

        Confident learning (Northcutt, Jiang, Chuang 2021, arXiv:1911.00068): the threshold of a
        class is its mean probability over the images with that label, and an image counts as the
        most probable class that reaches its threshold. An image is suspect if that class differs
        from its label and is also the predicted one: otherwise a weak class with a low threshold
        would overrule a net that agrees with the label. A class without images has no threshold
        and makes no image suspect. Sorted by ascending probability of the label, which the paper
        calls self-confidence; ties in their order.

        Suspect does not mean wrong: the weaker the net, the more of these are its own mistakes; and
        it has memorised the labels of images that it was trained on.
        """
        own = self._probability_of(self.labels)
        k = len(self.classes)
        support = np.bincount(self.labels, minlength=k)
        totals = np.bincount(self.labels, weights=own, minlength=k)
        threshold = np.full(k, np.inf)
        np.divide(totals, support, out=threshold, where=support > 0)
        confident = self.confidence >= threshold[self.predicted]
        suspects = np.flatnonzero(confident & (self.predicted != self.labels))
        return suspects[np.argsort(own[suspects], kind="stable")][:limit].astype(np.int64)

    def rows(self) -> list[dict[str, Any]]:
        """One row per image, ready for a DataFrame: id, true, predicted (names), correct,
        confidence (of the predicted class), probability_true, loss."""
        own = self._probability_of(self.labels)
        columns = (self.ids, self.labels, self.predicted, self.confidence, own, self.losses)
        return [
            {
                "id": name,
                "true": self.classes[true],
                "predicted": self.classes[predicted],
                "correct": true == predicted,
                "confidence": confidence,
                "probability_true": probability,
                "loss": loss,
            }
            for name, true, predicted, confidence, probability, loss in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]

    def to_csv(self, path: Path) -> None:
        """Write `csv_text` in UTF-8. Raises `ResightError` if that fails."""
        write_atomically(path, self.csv_text().encode())

    def csv_text(self) -> str:
        """`rows` as CSV (RFC 4180).

        Names are printable, one line each; one that begins with = + - @, which a spreadsheet would
        run as a formula, has an apostrophe before it.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        for row in self.rows():
            writer.writerow({**row, **{name: cell(row[name]) for name in NAMES}})
        return text.getvalue()

    def _probability_of(self, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """float64 (N,): for each image, the probability of the class given in `classes` (N,)."""
        return self.probabilities[np.arange(len(self)), classes].astype(np.float64)

    def _repr_html_(self) -> str:
        """Accuracy with its interval, and a table of the classes."""
        return html.joined(
            lambda: html.line(self.headline, "b"),
            lambda: html.line(self.beside_accuracy),
            lambda: self._classes_html(),
        )

    def _classes_html(self) -> str:
        rows: Sequence[Row] = self.per_class()
        note = ""
        if len(rows) > MAX_CLASSES_SHOWN:
            note = html.line(f"the {MAX_CLASSES_SHOWN} weakest of {len(rows)} classes")
            rows = weakest_first(rows)
        shares = ("precision", "recall", "f1")
        return note + html.table(
            ("class", "images", *shares),
            [
                (
                    row["class"],
                    f"{row['support']:,}",
                    *("–" if row[share] is None else f"{row[share]:.1%}" for share in shares),
                )
                for row in rows[:MAX_CLASSES_SHOWN]
            ],
        )

    def save(self, path: Path) -> None:
        """Write an .npz file that loads without pickle."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of such a file."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            logits=self.logits,
            labels=self.labels,
            ids=self.ids,
            classes=np.array(self.classes, dtype=np.str_),
            split=np.array(self.split, dtype=np.str_),
            format=np.array(FORMAT),
        )
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote. Raises `ResightError` for any other file or a damaged one."""
        try:
            with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as file:
                check_format(file["format"].tolist() if "format" in file else 0, path)
                values = {key: file[key] for key in ("logits", "labels", "ids", "classes", "split")}
        except FileNotFoundError:
            raise ResightError(
                f"{path}: no predictions there; `resight evaluate RUN` writes them"
            ) from None
        except ResightError:
            raise
        except Exception as error:  # a truncated archive raises a dozen different types
            raise _not_predictions(path, first_line(error)) from None
        if why := _fault(values):
            raise _not_predictions(path, why)
        return cls(
            logits=values["logits"],
            labels=values["labels"],
            ids=values["ids"],
            classes=tuple(values["classes"].tolist()),
            split=str(values["split"]),
        )


def _not_predictions(path: Path, why: str) -> ResightError:
    return ResightError(
        f"{path}: not a Resight predictions file, or damaged ({why}): `{rewrite_command(path)}` "
        "writes it again"
    )


def _fault(values: dict[str, npt.NDArray[Any]]) -> str | None:
    """Why the arrays of a file can't be predictions; None if they can."""
    kinds = {"logits": ("f4", 2), "labels": ("i8", 1), "ids": ("U", 1), "classes": ("U", 1)}
    for key, (kind, dimensions) in {**kinds, "split": ("U", 0)}.items():
        array = values[key]
        there = array.dtype.kind if kind == "U" else array.dtype.newbyteorder("=").str[1:]
        if (there, array.ndim) != (kind, dimensions):
            return f"{key} is {array.dtype} with {array.ndim} dimensions"
    images, classes = values["logits"].shape
    if not images or len(values["labels"]) != images or len(values["ids"]) != images:
        return f"{images} rows of logits, {len(values['labels'])} labels, {len(values['ids'])} ids"
    if not classes or len(values["classes"]) != classes:
        return f"{classes} columns of logits, {len(values['classes'])} classes"
    if values["labels"].min() < 0 or values["labels"].max() >= classes:
        return f"a label is not one of {classes} classes"
    if not np.isfinite(values["logits"]).all():
        return "a logit is not finite"
    return None


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 (N, K); not float64, as there may be 50,000 x 1000."""
    shares = logits.astype(np.float32)
    shares -= shares.max(1, keepdims=True, initial=-np.inf)
    np.exp(shares, out=shares)
    shares /= shares.sum(1, keepdims=True)
    return shares


def cell(name: str) -> str:
    """A name fit for a cell of a CSV file: printable, and no formula."""
    return "'" * name.startswith(FORMULA) + printable(name)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
