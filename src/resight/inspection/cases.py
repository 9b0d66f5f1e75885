"""`DataFinding`: what is wrong or odd with images, by name, and the images that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resight.findings import Severity


@dataclass(frozen=True)
class Case:
    """A file, an image or a pair of images (ids). what: of it, in a few words, may be empty; rows:
    of the table, () for files without pixels."""

    images: tuple[str, ...]
    what: str = ""
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " and ".join(self.images) + (f" ({self.what})" if self.what else "")


@dataclass(frozen=True)
class DataFinding:
    """name, severity, title, evidence, threshold, advice: as in `findings.Finding`; cases: all of
    them."""

    name: str
    severity: Severity
    title: str
    evidence: str
    threshold: str
    advice: str
    cases: tuple[Case, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "severity": self.severity,
            "title": self.title,
            "evidence": self.evidence,
            "threshold": self.threshold,
            "advice": self.advice,
            "cases": [{"images": list(case.images), "what": case.what} for case in self.cases],
        }
