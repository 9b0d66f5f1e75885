"""`Finding` and `Diagnosis`: silent failures by name, with their evidence."""

from __future__ import annotations

import html
import re
import textwrap
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any, Literal

from resight.characters import printable

Severity = Literal["problem", "note"]
COLUMNS = 80
GLUE = "\0"  # in place of a space at which no line ends
FILLER = "\1"  # after a character that is two columns wide


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
        """At most 80 columns wide, but for the command, which is to be pasted."""
        start = f"{self.severity}: "
        lines = [
            *folded(f"{self.title}: {self.evidence}", start),
            *folded(f"{self.advice}{':' * bool(self.command)}", " " * len(start)),
        ]
        lines += [" " * len(start) + printable(self.command)] if self.command else []
        return "\n".join(lines)


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

    @property
    def verdict(self) -> str | None:
        """`no problem found`, with what that covers; None if there are problems."""
        if self.problems:
            return None
        return "no problem found" + " in what could be checked" * bool(self.skipped)

    def to_dict(self) -> dict[str, Any]:
        return {"findings": [asdict(f) for f in self.findings], "skipped": list(self.skipped)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Diagnosis:
        findings = tuple(Finding(**f) for f in values["findings"])
        return cls(findings, tuple(values["skipped"]))

    def __str__(self) -> str:
        """Like a finding; with the thresholds."""
        lines = [self.verdict] if self.verdict else []
        for finding in self.findings:
            lines += folded(f"{finding.severity}: {finding.title}")
            lines += folded(finding.evidence, "  evidence   ")
            lines += folded(finding.threshold, "  threshold  ")
            lines += folded(finding.advice, "  advice     ")
            command = finding.command
            lines += [f"             {printable(command)}"] if command else []
        for reason in self.skipped:
            lines += folded(reason, "not checked: ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def folded(text: str, start: str = "", columns: int = COLUMNS) -> list[str]:
    """Lines of at most `columns`, the first after `start`, the others indented as far; longer words
    stay whole, and so do commands in backticks, which are to be pasted."""
    said = printable(" ".join(text.splitlines()))
    said = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", GLUE), said)
    lines = textwrap.wrap(
        said if said.isascii() else "".join(c + FILLER * _is_wide(c) for c in said),
        columns,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(GLUE, " ").replace(FILLER, "") for line in lines]


def _is_wide(character: str) -> bool:
    """Whether a terminal gives it two columns."""
    return unicodedata.east_asian_width(character) in "WF"
