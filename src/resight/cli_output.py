"""What the verbs print at their end."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resight.predictions import Predictions
    from resight.run import Run


def listed(names: tuple[str, ...], most: int = 12) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def headline(predictions: Predictions) -> str:
    low, high = predictions.accuracy_interval
    return (
        f"{predictions.split} accuracy {predictions.accuracy:.2%} (95 %: {low:.2%} to {high:.2%}, "
        f"{len(predictions):,} images) · loss {predictions.loss:.4f}"
    )


def print_classes(predictions: Predictions) -> None:
    rows = predictions.per_class()
    width = max(len(str(row["class"])) for row in rows)
    for row in rows:
        if row["support"]:
            share = f"{row['accuracy']:7.2%}  {'█' * round(20 * float(row['accuracy']))}"
        else:
            share = "no images"
        print(f"  {row['class']:<{width}}  {row['correct']:>5}/{row['support']:<5} {share}")


def print_result(run: Run) -> None:
    from resight.progress import duration

    result = run.result
    low, high = result["test_accuracy_95"]
    print(
        f"test accuracy {result['test_accuracy']:.2%} (95 %: {low:.2%} to {high:.2%}, "
        f"{result['test_images']:,} images) · loss {result['test_loss']:.4f}"
    )
    print(
        f"trained in {duration(result['train_seconds'])} at {result['images_per_second']:,.0f} "
        f"images/s, {duration(result['wall_seconds'])} from the command"
    )
    print(f"run   {run.path}: model.safetensors, predictions.npz, metrics.jsonl, last.pt")
    print(f"next  resight evaluate {shlex.quote(str(run.path))}    (accuracy per class)")
