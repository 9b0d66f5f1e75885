"""What is found in images: files that can't be used, copies, odd ones. Pure functions of `Seen`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from resight.data.decode import reader_needed
from resight.data.duplicates import Twins
from resight.data.headers import Header
from resight.inspection.cases import Case, DataFinding
from resight.inspection.seen import Seen
from resight.inspection.sizes import ratio
from resight.inspection.thresholds import THRESHOLDS
from resight.recipe.auto import left_and_right, may_be_mirrored, of_symbols

SQUARE = {  # what happens to a thin image
    "crop": "a square cut out of it shows a part; --set data.fit=pad shows all",
    "pad": "in a square it is a strip between borders",
    "squash": "made square, what it shows is hard to recognise",
}


def unreadable(seen: Seen) -> Iterator[DataFinding]:
    """Files that are images by their name and can't be decoded."""
    bad = {row: why for row, why in seen.table.bad.items() if not _lacks_reader(seen, row)}
    if bad:
        yield DataFinding(
            name="unreadable",
            severity="problem",
            title=f"{_files(len(bad))} can't be read",
            evidence=f"{len(bad):,} of {len(seen.table.labels):,}",
            threshold="1 file",
            advice="replace or remove them; --skip-bad leaves them out",
            cases=tuple(Case((str(seen.table.ids[row]),), why) for row, why in bad.items()),
        )


def unsupported(seen: Seen, others: Sequence[str]) -> Iterator[DataFinding]:
    """others: the paths of files that are no images by their name."""
    lacking = {
        str(seen.table.ids[row]): why
        for row, why in seen.table.bad.items()
        if _lacks_reader(seen, row)
    }
    files = lacking | dict.fromkeys(others, "")
    if not files:
        return
    suffixes = Counter(PurePath(path).suffix.lower() or "no suffix" for path in files)
    yield DataFinding(
        name="unsupported",
        severity="problem" if lacking else "note",
        title=f"{_files(len(files))} of other kinds left out",
        evidence=", ".join(f"{suffix} ({count:,})" for suffix, count in suffixes.most_common()),
        threshold="1 file",
        advice="install what is named, and those are read"
        if lacking
        else "leave them, or convert what shows something to JPEG or PNG",
        cases=tuple(Case((path,), why) for path, why in files.items()),
    )


def outside_classes(paths: Sequence[str]) -> Iterator[DataFinding]:
    """paths: images below the folder that are in no split's class folder."""
    if paths:
        yield DataFinding(
            name="outside-classes",
            severity="note",
            title=f"{_files(len(paths))} in no class folder left out",
            evidence="images that have no label",
            threshold="1 file",
            advice="put them into the folder of their class, or leave them",
            cases=tuple(Case((path,)) for path in paths),
        )


def copies(seen: Seen, twins: Sequence[Twins]) -> Iterator[DataFinding]:
    """The same picture under two labels, in two splits, or twice in one class of one split."""
    labels, splits = seen.table.labels, seen.split_of
    if not may_be_mirrored(seen.table.classes):  # a mirrored b is a d
        twins = [t for t in twins if not t.mirrored]
    conflicts = [t for t in twins if labels[t.first] != labels[t.second]]
    across = [t for t in twins if splits[t.first] != splits[t.second]]
    drawn = "all" in dict(seen.table.parts)  # by Resight, which can keep groups together
    repeated = [t for t in twins if t not in set(conflicts) | set(across)]
    if conflicts:
        proven = any(pair.kind == "exact" for pair in conflicts)
        advice = "one of the two labels is wrong, or the picture shows both: keep one, or none"
        if not proven:
            advice = f"look at them: if they show the same, {advice}"
        yield DataFinding(
            name="label-conflict",
            severity="problem" if proven else "note",
            title="the same picture under two labels"
            if proven
            else "nearly the same picture under two labels",
            evidence=_pairs(conflicts),
            threshold="1 pair; a problem if one is the same pixel for pixel",
            advice=advice,
            cases=tuple(_case(seen, pair) for pair in conflicts),
        )
    if across:
        yield DataFinding(
            name="across-splits",
            severity="problem" if _leaks(seen, across) else "note",
            title="the same picture in two splits",
            evidence=_pairs(across),
            threshold=f"1 pair; a problem above {THRESHOLDS.leak_problem:.0%} of a split's images, "
            "pixel for pixel",
            advice="what was learnt by heart counts as right there: remove one of the two, and "
            "keep pictures of one scene in one split" + " (--group, where names tell them)" * drawn,
            cases=tuple(_case(seen, pair) for pair in across),
        )
    if repeated:
        yield DataFinding(
            name="repeated",
            severity="note",
            title="the same picture twice in one class",
            evidence=_pairs(repeated),
            threshold="1 pair",
            advice="a copy counts twice and adds nothing: one of each is enough",
            cases=tuple(_case(seen, pair) for pair in repeated),
        )


def nearest_of_each(seen: Seen, twins: Sequence[Twins]) -> list[Twins]:
    """Of an image's near twins only the nearest in the same class and split, in another class, in
    another split, and in another of both: ten frames of one scene are not 45 findings."""
    labels, splits = seen.table.labels, seen.split_of
    kept: dict[tuple[int, bool, bool], Twins] = {}
    for pair in sorted(twins, key=lambda pair: pair.distance):
        other_class = bool(labels[pair.first] != labels[pair.second])
        other_split = bool(splits[pair.first] != splits[pair.second])
        kept.setdefault((pair.second, other_class, other_split), pair)
    return sorted(kept.values(), key=lambda pair: (pair.distance, pair.first, pair.second))


def unequal(seen: Seen) -> Iterator[DataFinding]:
    """The largest class has many times the training images of the smallest."""
    counts = seen.counts().get("train", [])
    if not counts or not min(counts) or max(counts) < THRESHOLDS.imbalance_ratio * min(counts):
        return
    most, fewest = counts.index(max(counts)), counts.index(min(counts))
    classes = seen.table.classes
    yield DataFinding(
        name="unequal-classes",
        severity="note",
        title="the classes are unequal",
        evidence=f"{counts[most]:,} images of '{classes[most]}' to train on, {counts[fewest]:,} of "
        f"'{classes[fewest]}'",
        threshold=f"{THRESHOLDS.imbalance_ratio:g} times as many",
        advice="add images of the rare ones; judge by balanced accuracy and recall per class",
    )


def light(seen: Seen) -> Iterator[DataFinding]:
    """Images that are blank, dark or bright, each under the first of these names."""
    rows = seen.rows
    if not len(rows):
        return
    mean, sd, contrast = _light(seen.table.sums[rows], seen.image_size**2)
    blank = contrast <= THRESHOLDS.blank_sd
    dark = ~blank & (mean + 2 * sd <= THRESHOLDS.dark_level)
    bright = ~blank & (mean - 2 * sd >= THRESHOLDS.bright_level)
    found: tuple[tuple[str, npt.NDArray[np.bool_], str, str], ...] = (
        (
            "blank",
            blank,
            f"an sd within the channels of at most {THRESHOLDS.blank_sd:g} grey levels",
            "look at them: an empty frame, a lens cap, a failed download teaches nothing",
        ),
        (
            "dark",
            dark,
            f"mean + 2 sd of at most {THRESHOLDS.dark_level:g} of 255",
            "look at them: if you can't tell the class, a net can't either",
        ),
        (
            "bright",
            bright,
            f"mean − 2 sd of at least {THRESHOLDS.bright_level:g} of 255",
            "look at them: if you can't tell the class, a net can't either",
        ),
    )
    for name, which, threshold, advice in found:
        places = np.flatnonzero(which).tolist()
        shown = contrast if name == "blank" else sd
        whats = [f"mean {mean[i]:.0f}, sd {shown[i]:.1f}" for i in places]
        yield from _odd(seen, name, rows[places].tolist(), whats, threshold, advice)


def odd_sizes(seen: Seen) -> Iterator[DataFinding]:
    """Images that are tiny or thin."""
    headers = seen.readable_headers()
    least = max(float(THRESHOLDS.tiny_px), THRESHOLDS.tiny_share * seen.image_size)
    tiny = {row: h for row, h in headers.items() if min(h.width, h.height) < least}
    thin = {row: h for row, h in headers.items() if ratio(h) >= THRESHOLDS.thin_ratio}
    yield from _odd(
        seen,
        "tiny",
        [*tiny],
        [_size(header) for header in tiny.values()],
        f"a shorter side below {THRESHOLDS.tiny_share:g} × the {seen.image_size} px trained on, or "
        f"{THRESHOLDS.tiny_px} px",
        "they are blown up: take larger ones, remove them, or train on a smaller --image-size",
    )
    yield from _odd(
        seen,
        "thin",
        [*thin],
        [_size(header) for header in thin.values()],
        f"a longer side at least {THRESHOLDS.thin_ratio:g} × the shorter",
        SQUARE[seen.fit],
    )


def symbols(classes: Sequence[str]) -> Iterator[DataFinding]:
    """Classes of which a mirrored image is another one or none."""
    sides = left_and_right(classes)
    if sides or of_symbols(classes):
        yield DataFinding(
            name="symbols",
            severity="note",
            title="'{}' and '{}' look like mirror images".format(*sides)
            if sides
            else "the classes look like letters or digits",
            evidence=f"{len(classes)} classes, {classes[0]} to {classes[-1]}",
            threshold="all names are single characters or digits in words, or two differ by left "
            "and right",
            advice="a mirrored one is another or none: `auto` and `digits` don't mirror; with any "
            "other recipe --set augment.flip=none",
        )


def _odd(
    seen: Seen, name: str, rows: Sequence[int], whats: Sequence[str], threshold: str, advice: str
) -> Iterator[DataFinding]:
    if not rows:
        return
    yield DataFinding(
        name=name,
        severity="note",
        title=f"1 image is {name}" if len(rows) == 1 else f"{len(rows):,} images are {name}",
        evidence=f"{len(rows):,} of {len(seen.rows):,} ({len(rows) / len(seen.rows):.1%})",
        threshold=threshold,
        advice=advice,
        cases=tuple(
            Case((str(seen.table.ids[row]),), what, (row,))
            for row, what in zip(rows, whats, strict=True)
        ),
    )


def _light(
    sums: npt.NDArray[np.int64], pixels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Each image's mean and sd over pixels and channels, and its sd within the channels: (n,), in
    grey levels."""
    means, squares = sums[:, 0] / pixels, sums[:, 1] / pixels  # (n, C)
    mean = means.mean(1)
    sd = np.sqrt(np.maximum(squares.mean(1) - mean**2, 0))
    contrast = np.sqrt(np.maximum(squares - means**2, 0).mean(1))
    return mean, sd, contrast


def _lacks_reader(seen: Seen, row: int) -> bool:
    """Whether an unreadable file only needs something that is not installed."""
    needed = reader_needed(str(seen.table.ids[row]))
    return bool(needed) and seen.table.bad[row] == needed


def _leaks(seen: Seen, across: Sequence[Twins]) -> bool:
    exact: dict[str, set[int]] = {}
    for pair in across:
        names = {seen.split_name(row): row for row in (pair.first, pair.second)}
        if pair.kind == "exact" and "train" in names:
            for name, row in names.items():
                exact.setdefault(name, set()).add(row)
    return any(
        len(exact.get(name, ())) > THRESHOLDS.leak_problem * len(rows)
        for name, rows in seen.splits.items()
        if name != "train"
    )


def _pairs(twins: Sequence[Twins]) -> str:
    exact = sum(pair.kind == "exact" for pair in twins)
    pairs = "1 pair" if len(twins) == 1 else f"{len(twins):,} pairs"
    return f"{pairs}, {exact:,} pixel for pixel, {len(twins) - exact:,} nearly"


def _case(seen: Seen, pair: Twins) -> Case:
    rows = (pair.first, pair.second)
    classes = [*dict.fromkeys(seen.class_name(row) for row in rows)]
    splits = [*dict.fromkeys(seen.split_name(row) for row in rows)]
    where = [" and ".join(names) for names in (classes, splits) if len(names) > 1]
    how = "pixel for pixel"
    if pair.kind == "near":
        how = "mirrored, " * pair.mirrored + f"{pair.distance:.1f} grey levels apart"
    ids = (str(seen.table.ids[pair.first]), str(seen.table.ids[pair.second]))
    return Case(ids, "; ".join([*where, how]), rows)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _size(header: Header) -> str:
    return f"{header.width}×{header.height} px"
