"""`Finding` and `Diagnosis`: silent failures by name, with their evidence."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["problem", "note"]


@dataclass(frozen=True)
class Finding:
    """One silent failure. name: stable, for scripts; title, evidence, threshold, advice: for
    people; command: the one to run next, if there is one."""

    name: str
    severity: Severity
    title: str
    evidence: str
    threshold: str
    advice: str
    command: str | None = None

    def __str__(self) -> str:
        command = f": {self.command}" if self.command else ""
        seen = f"{self.evidence} (threshold {self.threshold})"
        return f"{self.severity}: {self.title}: {seen}; {self.advice}{command}"


@dataclass(frozen=True)
class Diagnosis:
    """The findings, problems first, and what could not be checked, each with the reason."""

    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, findings: list[Finding], skipped: list[str]) -> Diagnosis:
        rank = {"problem": 0, "note": 1}
        return cls(tuple(sorted(findings, key=lambda f: rank[f.severity])), tuple(skipped))

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "problem")

    def to_dict(self) -> dict[str, Any]:
        return {"findings": [asdict(f) for f in self.findings], "skipped": list(self.skipped)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Diagnosis:
        findings = tuple(Finding(**f) for f in values["findings"])
        return cls(findings, tuple(values["skipped"]))

    def __str__(self) -> str:
        lines = [] if self.problems else ["no problem found"]
        for finding in self.findings:
            lines.append(f"{finding.severity}: {finding.title}")
            lines.append(f"  evidence   {finding.evidence}")
            lines.append(f"  threshold  {finding.threshold}")
            lines.append(f"  advice     {finding.advice}")
            lines += [f"             {finding.command}"] if finding.command else []
        lines += [f"not checked: {reason}" for reason in self.skipped]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"
