"""`Inspection`: what is in a folder of images, as text, HTML and JSON values."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from resight.data.rows import statistics_of_sums
from resight.inspection import text
from resight.inspection.cases import DataFinding
from resight.inspection.seen import Seen
from resight.inspection.sizes import FileFacts
from resight.render.terminal import wrapped


@dataclass(frozen=True, eq=False)
class Inspection:
    """source: as requested; files: None where images are not in files of their own; findings:
    problems first; notes: of the loading; recipe: its name, and why: what was chosen and for what;
    next_command: the shell line of the training that this looked ahead to, or, if that would refuse
    the images, of the next look at them."""

    source: str
    seen: Seen
    files: FileFacts | None
    findings: tuple[DataFinding, ...]
    notes: tuple[str, ...]
    recipe: str
    why: tuple[str, ...]
    next_command: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.seen.table.classes

    @property
    def counts(self) -> dict[str, list[int]]:
        """Readable images per class by split."""
        return self.seen.counts()

    @property
    def problems(self) -> tuple[DataFinding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "problem")

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and std per channel of the images to train on, in [0, 1]; empty without any."""
        rows = self.seen.train
        if not len(rows):
            return [], []
        mean, std = statistics_of_sums(self.seen.table.sums[rows], self.seen.image_size**2)
        return mean.tolist(), std.tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        mean, std = self.statistics
        return {
            "version": 1,
            "source": self.source,
            "classes": list(self.classes),
            "counts": self.counts,
            "image_size": self.seen.image_size,
            "channels": self.seen.table.images.shape[3],
            "fit": self.seen.fit,
            "mean": mean,
            "std": std,
            "files": self.files and self.files.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
            "recipe": self.recipe,
            "why": list(self.why),
            "next": self.next_command,
        }

    @property
    def first_line(self) -> str:
        size, fit = self.seen.image_size, self.seen.fit
        kind = "grey" if self.seen.table.images.shape[3] == 1 else "RGB"
        oblong = self.files is not None and self.files.outside[1] > 0
        how = {"crop": "cropped", "pad": "padded", "squash": "squashed"}[fit]
        return (
            f"{self.source}: {len(self.seen.rows):,} images of {len(self.classes):,} "
            f"class{'es' * (len(self.classes) != 1)}, seen by the net as {size}×{size} px {kind}"
            + f", {how} where they are not square"
            * oblong
        )

    @property
    def facts(self) -> text.Facts:
        """What is shown below the counts, name and value."""
        mean, std = (" ".join(f"{value:.4f}" for value in part) for part in self.statistics)
        size = self.seen.image_size
        facts = text.file_facts(self.files, self.seen.fit, size) if self.files else []
        return [*facts, ("mean", mean), ("std", std)] if mean else facts

    def __str__(self) -> str:
        """At most 80 columns wide, but for the names of files and the command."""
        table = text.class_table(self.classes, self.counts)
        lines = [text.as_text(self.first_line, table, self.facts, self.findings)]
        lines += [] if self.findings else ["nothing odd found"]
        for note in self.notes:
            lines += wrapped(note, text.COLUMNS, "note:    ")
        lines += [line for why in self.why for line in wrapped(why, text.COLUMNS)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"
