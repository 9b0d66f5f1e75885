"""What was found, in lines of at most 80 columns; its tables are the page's too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resight.inspection.cases import DataFinding
from resight.inspection.sizes import FileFacts
from resight.recipe.settings import Fit
from resight.render.terminal import aligned, wrapped

COLUMNS = 80
MAX_CLASSES = 12  # of more, the largest and the smallest are shown
MOST = 5  # classes of either kind
MAX_CASES = 3  # of a finding, or one more if that is all; JSON has all
INDENT = " " * 9

Facts = list[tuple[str, str]]  # name and value


def class_table(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Images per class and split, below a head; of many classes those with the most and the fewest
    images in the first split."""
    first = next(iter(counts.values()))
    shown: list[int | None] = [*range(len(classes))]
    if len(classes) > MAX_CLASSES:
        ranked = sorted(range(len(classes)), key=lambda k: -first[k])
        shown = [*ranked[:MOST], None, *ranked[-MOST:]]
    rows = [["class", *counts]]
    for k in shown:
        if k is None:
            rows.append([f"… {len(classes) - 2 * MOST:,} more", *("–" for _ in counts)])
        else:
            rows.append([classes[k], *(f"{numbers[k]:,}" for numbers in counts.values())])
    total = f"all {len(classes):,} classes" if len(classes) != 1 else "all"
    return [*rows, [total, *(f"{sum(numbers):,}" for numbers in counts.values())]]


def file_facts(files: FileFacts, fit: Fit, image_size: int) -> Facts:
    median, most = files.outside
    lost = {
        "crop": f"the crop cuts off {median:.0%} (median), {most:.0%} at most",
        "pad": f"borders fill {median:.0%} (median), {most:.0%} at most",
        "squash": f"squashed to {1 - median:.0%} of the longer side (median), {1 - most:.0%} at "
        "least",
    }[fit]
    smaller = f"; {files.smaller:,} smaller than {image_size} px" if files.smaller else ""
    special = [
        f"{count:,} {what}"
        for count, what in (
            (files.turned, "turned upright by EXIF"),
            (files.frames, "with several frames or pages, of which the first is used"),
        )
        if count
    ]
    sides = f"width {files.width}, height {files.height} px"
    different = any(side.min < side.max for side in (files.width, files.height))
    return [
        ("size", sides + " (min / median / max)" * different + smaller),
        ("shape", counted(files.shapes) + f"; {lost}" * bool(most)),
        ("format", counted(files.formats)),
        ("mode", "; ".join([counted(files.modes), *special])),
    ]


def counted(numbers: Mapping[str, int]) -> str:
    """`12 square, 3 portrait`, without what there is none of."""
    return " · ".join(f"{count:,} {name}" for name, count in numbers.items() if count)


def as_text(
    first_line: str, table: Sequence[Sequence[str]], facts: Facts, findings: Sequence[DataFinding]
) -> str:
    lines = [*wrapped(first_line, COLUMNS), "", *aligned(table, COLUMNS), ""]
    for name, value in facts:
        lines += wrapped(value, COLUMNS, f"{name:<8}")
    lines += [""] if findings else []
    for finding in findings:
        lines += finding_lines(finding)
    return "\n".join(lines)


def finding_lines(finding: DataFinding) -> list[str]:
    said = f"{finding.title}: {finding.evidence}"
    lines = wrapped(said, COLUMNS, f"{finding.severity + ':':<9}")
    shown = finding.cases if len(finding.cases) <= MAX_CASES + 1 else finding.cases[:MAX_CASES]
    for case in shown:
        lines += wrapped(str(case), COLUMNS, f"{INDENT}- ")
    if more := len(finding.cases) - len(shown):
        lines += wrapped(f"{more:,} more (--json has all)", COLUMNS, f"{INDENT}- and ")
    return lines + wrapped(finding.advice, COLUMNS, INDENT)
