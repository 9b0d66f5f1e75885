"""What files the images are in: how large, of what shape, format and mode."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resight.data.headers import Header


@dataclass(frozen=True)
class Range:
    min: int
    median: int
    max: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Range:
        return cls(min(values), round(statistics.median(values)), max(values))

    def __str__(self) -> str:
        same = self.min == self.max
        return f"{self.min:,}" if same else f"{self.min:,} / {self.median:,} / {self.max:,}"


@dataclass(frozen=True)
class FileFacts:
    """Of readable files. width, height: upright, in px; shapes: how many are square, portrait,
    landscape; outside: the share of the longer side outside the central square, median and
    highest; smaller: with a shorter side below the size that is trained on; formats, modes: how
    many of each, the most frequent first; turned: by EXIF; frames: with several frames or pages."""

    count: int
    width: Range
    height: Range
    shapes: dict[str, int]
    outside: tuple[float, float]
    smaller: int
    formats: dict[str, int]
    modes: dict[str, int]
    turned: int
    frames: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def file_facts(headers: Sequence[Header], image_size: int) -> FileFacts | None:
    """None if there is no file."""
    if not headers:
        return None
    shapes = Counter(shape(header) for header in headers)
    outside = [1 - 1 / ratio(header) for header in headers]
    return FileFacts(
        count=len(headers),
        width=Range.of([header.width for header in headers]),
        height=Range.of([header.height for header in headers]),
        shapes={name: shapes[name] for name in ("square", "portrait", "landscape")},
        outside=(statistics.median(outside), max(outside)),
        smaller=sum(min(header.width, header.height) < image_size for header in headers),
        formats=dict(Counter(header.format for header in headers).most_common()),
        modes=dict(Counter(header.mode for header in headers).most_common()),
        turned=sum(header.turned for header in headers),
        frames=sum(header.frames for header in headers),
    )


def shape(header: Header) -> str:
    if header.width == header.height:
        return "square"
    return "portrait" if header.width < header.height else "landscape"


def ratio(header: Header) -> float:
    """The longer side / the shorter."""
    return max(header.width, header.height) / min(header.width, header.height)
