"""`export`: a trained net as a file or a folder that is of use without its run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from resight.data.types import ImageData
from resight.deploy.hub import LICENCE, card_bytes, check_licence, config_bytes
from resight.deploy.int8 import Int8, measured
from resight.deploy.onnx_check import Check, checked
from resight.deploy.onnx_graph import INPUT, OPSET, facts, onnx_model
from resight.deploy.onnx_session import Session
from resight.deploy.portable import portable_bytes
from resight.engine.forward import images_at_once
from resight.engine.runtime import Runtime
from resight.errors import ResightError, did_you_mean
from resight.extras import missing, require
from resight.files import in_one_line, make_folder, write_atomically
from resight.progress import Quiet, Reporter
from resight.runs.commands import resume_command
from resight.runs.predictor import Predictor
from resight.runs.run import MODEL, Run, load_run

Form = Literal["onnx", "safetensors", "hub-folder"]
FOLDER = "export"  # in the run's
NAMES: dict[str, str] = {"onnx": "model.onnx", "safetensors": MODEL, "hub-folder": "hub"}
ONNX_IN_HUB = "onnx/model.onnx"


@dataclass(frozen=True, eq=False)
class Export:
    """What `export` wrote. path: the file or folder; files: each that was written; check, int8: of
    the ONNX file, if there is one; lines: what is to be said of it."""

    path: Path
    files: tuple[Path, ...]
    lines: tuple[str, ...]
    check: Check | None = None
    int8: Int8 | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines)


def export(
    run: str | Path | Run,
    to: Form = "onnx",
    out: str | Path | None = None,
    *,
    data: str | Path | ImageData | None = None,
    int8: bool = False,
    keep_int8: bool = False,
    licence: str = LICENCE,
    reporter: Reporter | None = None,
) -> Export:
    """Write a finished run's net as "onnx" (one file, checked with onnxruntime against the net),
    "safetensors" (the weights with all that they need) or "hub-folder" (both, with a model card).

    out: a new file or folder; by default one in the run's `export/`, where an older one is
    replaced. data: the run's images, if they have moved. int8: measure 8 bits too, and keep them
    next to the ONNX file if they lose at most 0.2 points, not significantly, or with keep_int8.
    licence: for the model card. Raises `ResightError`, also if the ONNX file is not what the net
    is: then nothing is written.
    """
    reporter = reporter or Quiet()
    run = run if isinstance(run, Run) else load_run(run)
    int8 = int8 or keep_int8
    _check_request(run, to, int8=int8, licence=licence)
    path = _place(run, to, out, int8=int8)
    weights, temperature = run.weights(), run.temperature
    fit = run.recipe.data.fit
    predictor = Predictor.of(weights, fit, Runtime.choose("cpu", "fp32"), temperature)
    made = None
    if to == "onnx" or (to == "hub-folder" and not missing("onnx")):
        made = _onnx(run, predictor, data, reporter, int8=int8, keep_int8=keep_int8)
        reporter.close()
    folder, contents = path.parent, dict[str, bytes]()
    if to == "onnx":
        assert made is not None
        contents = made.files(path.name)
    elif to == "safetensors":
        contents = {path.name: portable_bytes(weights, fit, temperature)}
    else:
        folder = path
        contents = made.files(ONNX_IN_HUB) if made else {}
        contents[MODEL] = portable_bytes(weights, fit, temperature)
        contents["config.json"] = config_bytes(
            facts(predictor), run.recipe, run.resolved["data"]["name"]
        )
        onnx = made.accuracies(ONNX_IN_HUB) if made else {}
        card = card_bytes(run, predictor, licence=licence, onnx=onnx)
        contents["README.md"] = card  # the last: a folder that has one is whole
    _write(folder, contents)
    return Export(
        path,
        tuple(folder / name for name in contents),
        tuple(_lines(run, path, to, contents, predictor, made, licence)),
        made.check if made else None,
        made.int8 if made else None,
    )


@dataclass(frozen=True, eq=False)
class _Onnx:
    """A file that passed its check, and the one of 8 bits, if it was asked for."""

    content: bytes
    check: Check
    int8: Int8 | None
    small: bytes

    def files(self, name: str) -> dict[str, bytes]:
        """What is to be written; name: the file's."""
        kept = {int8_name(name): self.small} if self.int8 and self.int8.kept else {}
        return {name: self.content, **kept}

    def accuracies(self, name: str) -> dict[str, float | None]:
        """Of the same files on the test split, where it was there."""
        if self.int8 is not None:
            shares = zip(self.files(name), self.int8.accuracies, strict=False)
            return dict(shares)
        said = self.check.predictions
        return {name: said.accuracy if said is not None else None}


def _onnx(
    run: Run,
    predictor: Predictor,
    data: str | Path | ImageData | None,
    reporter: Reporter,
    *,
    int8: bool,
    keep_int8: bool,
) -> _Onnx:
    images, missing = _images(run, data, reporter)
    if int8 and images is None:
        raise ResightError(f"8 bits are calibrated on the run's training images: {missing}")
    reporter.say("exporting to ONNX")
    model = onnx_model(predictor, {"recipe": run.recipe.name, "weights": "fp32"})
    content: bytes = model.SerializeToString()
    session = Session(content)
    check = checked(session, predictor, images.test if images else None, missing, reporter)
    if not int8:
        return _Onnx(content, check, None, b"")
    assert images is not None
    assert check.predictions is not None
    at_once = images_at_once(predictor.image_size, predictor.runtime)
    said = check.predictions.logits
    small, found = measured(model, session, images, said, at_once, reporter, keep=keep_int8)
    return _Onnx(content, check, found, small)


def _images(
    run: Run, data: str | Path | ImageData | None, reporter: Reporter
) -> tuple[ImageData | None, str]:
    """The run's images, or why they can't be loaded; raises if `data` says where they are."""
    try:
        return run.images(data, reporter=reporter), ""
    except ResightError as error:
        if data is not None:
            raise
        return None, str(error)


def int8_name(name: str) -> str:
    """`model.onnx` → `model-int8.onnx`."""
    path = Path(name)
    return str(path.with_name(f"{path.stem}-int8{path.suffix}"))


def _check_request(run: Run, to: str, *, int8: bool, licence: str) -> None:
    if to not in get_args(Form):
        raise ResightError(f"to = '{to}'{did_you_mean(to, get_args(Form))}")
    if int8 and to == "safetensors":
        raise ResightError("--int8 is of ONNX files: use --to onnx or --to hub-folder")
    check_licence(licence)
    if licence != LICENCE and to != "hub-folder":
        raise ResightError("--licence is of a model card, which only --to hub-folder writes")
    if not run.finished:
        raise ResightError(
            f"{run.path} has not finished, so there is no net to export: resume it with "
            f"`{resume_command(run.path)}`"
        )
    if to == "onnx" or int8:
        require("onnx")


def _place(run: Run, to: str, out: str | Path | None, *, int8: bool) -> Path:
    """Where to write, before anything costly is done. Raises `ResightError` for what is not
    `export`'s own: only what lies in the run's `export/` is."""
    if out is None:
        path = run.path / FOLDER / NAMES[to]
        _check_no_link(path.parent, path)
        return path
    path = Path(out)
    if not path.absolute().parent.is_dir():
        raise ResightError(f"out: there is no folder {path.parent}; create it first")
    small = [path.with_name(int8_name(path.name))] if int8 and to == "onnx" else []
    for place in (path, *small):
        if os.path.lexists(place) and not (to == "hub-folder" and _empty_folder(place)):
            raise ResightError(f"out: {place} is there already: remove it, or choose another --out")
    return path


def _check_no_link(*places: Path) -> None:
    for place in places:
        if place.is_symlink():
            raise ResightError(f"{place} is a link, and export follows none: remove it")


def _empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        path = folder / name
        _check_no_link(path.parent, path)
        make_folder(path.parent)
        write_atomically(path, content)
    if "config.json" in contents:  # a Hub folder: no ONNX file of an older export beside it
        for name in (ONNX_IN_HUB, int8_name(ONNX_IN_HUB)):
            if name not in contents:
                with in_one_line(folder / name):
                    (folder / name).unlink(missing_ok=True)


def _lines(
    run: Run,
    path: Path,
    to: str,
    contents: Mapping[str, bytes],
    predictor: Predictor,
    made: _Onnx | None,
    licence: str,
) -> list[str]:
    """What is to be said of an export."""
    folder = path if to == "hub-folder" else path.parent
    lines = [f"wrote    {folder / name}, {_size(content)}" for name, content in contents.items()]
    if made is not None:
        side, tta = predictor.image_size, predictor.tta
        views = "no TTA" if tta == "none" else f"TTA {tta}"
        lines += [
            f"ONNX     opset {OPSET}, fp32; {INPUT} uint8 (N, {side}, {side}, "
            f"{predictor.channels}); {views}",
            *made.check.lines(run.predictions, run.result["precision"]),
            *(made.int8.lines() if made.int8 else ()),
        ]
    elif to == "hub-folder":
        lines.append("note: without onnx/, which needs `pip install 'resight[onnx]'`")
    if to == "hub-folder" and licence == LICENCE:
        lines.append("note: the card's licence is unknown: --licence mit, cc-by-4.0, …")
    if to != "onnx":
        lines.append(f'next     resight.load_predictor("{path}") loads it')
    return lines


def _size(content: bytes) -> str:
    """`7.91 MB`, `3.2 kB`."""
    count = len(content)
    return f"{count / 1e6:,.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
