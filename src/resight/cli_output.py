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
    print(
        f"trained in {duration(result['train_seconds'])} at {result['images_per_second']:,.0f} "
        f"images/s, {duration(result['wall_seconds'])} from the command"
    )
    print_findings(run)
    path = shlex.quote(str(run.path))
    print(f"run     {run.path}: model.safetensors, predictions.npz, metrics.jsonl, last.pt")
    page = run.path / "report" / "index.html"
    if page.is_file():
        print(f"report  {page}: open it in a browser; README.md beside it")
        print(f"next    resight compare {path} ANOTHER, or resight evaluate {path}")
    else:
        print(f"next    resight report {path}")


def print_findings(run: Run) -> None:
    """A line or two a finding, problems first."""
    diagnosis = run.diagnosis
    if diagnosis is None:
        return
    if not diagnosis.problems:
        print("no problem found")
    for finding in diagnosis.findings:
        command = f": {finding.command}" if finding.command else ""
        print(f"{finding.severity}: {finding.title}: {finding.evidence}")
        print(f"         {finding.advice}{command}")
    for reason in diagnosis.skipped:
        print(f"not looked at: {reason}")
