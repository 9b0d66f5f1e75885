"""A folder for the Hugging Face Hub: its model card and config, filled in from the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from resight.characters import printable
from resight.errors import ResightError, listed
from resight.files import json_bytes
from resight.recipe.recipe import Recipe
from resight.records import accuracy_words, beside_words, weakest_first
from resight.render.markdown import code, escaped, table
from resight.runs.predictor import Predictor
from resight.runs.run import Run
from resight.version import __version__

LICENCE = "unknown"  # the Hub's word for: not stated
MAX_CLASSES_LISTED = 100
FITS = {
    "crop": "its central square, resized to {0}×{0} pixels",
    "pad": "the whole photo within {0}×{0} pixels, between grey borders",
    "squash": "the whole photo, resized to {0}×{0} pixels whatever its shape",
}
VIEWS = {
    "none": "one view of each image",
    "flip": "the mean over the image and its mirror image",
    "flip-shift": "the mean over six views: mirrored, and shifted by one pixel",
    "flip-shift-unsure": "those of one view, or, where that is not sure, the mean over six: "
    "mirrored, and shifted by one pixel",
}


def check_licence(licence: str) -> None:
    """Raise `ResightError` for what can't be an identifier of a licence."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ResightError(
            f"licence = '{licence}' must be one of the Hub's identifiers, such as mit, apache-2.0, "
            "cc-by-4.0, other or unknown"
        )


def config_bytes(facts: Mapping[str, Any], recipe: Recipe, data: str) -> bytes:
    """config.json: what the net is and takes (facts: as in the ONNX file), and its recipe, whose
    images are called `data`: its own word for them may be a default that nobody chose."""
    classes, sections = facts["classes"], recipe.to_dict()
    sections["data"]["source"] = data
    return json_bytes(
        {
            "library_name": "resight",
            "architectures": [recipe.model.net],
            "num_labels": len(classes),
            "id2label": {str(i): name for i, name in enumerate(classes)},
            **facts,
            "recipe": sections,
        }
    )


def card_bytes(
    run: Run, predictor: Predictor, *, licence: str, onnx: Mapping[str, float | None]
) -> bytes:
    """README.md: the Hub's front matter, then what a reader needs to know before using the net.

    onnx: the ONNX files in the folder, and their test accuracy where it was measured. Nothing in it
    says where on this machine anything is.
    """
    result, data = run.result, run.resolved["data"]
    front = _front_matter(run, licence)
    parts = [
        f"---\n{front}---",
        f"# {escaped(_title(run))}",
        f"An image classifier for {len(data['classes'])} classes, trained with "
        f"[Resight](https://pypi.org/project/resight/) {escaped(__version__)}.",
        *_result(run, result),
        "## How to use it",
        *_usage(predictor, onnx),
        "## What it was trained on",
        *_data(data, run.recipe),
        "## How it was trained",
        *_training(run.recipe, result),
        "## Limits",
        *_limits(run, predictor),
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _title(run: Run) -> str:
    return f"{run.recipe.model.net} on {run.resolved['data']['name']}"


def _front_matter(run: Run, licence: str) -> str:
    """YAML, its values as JSON strings, which YAML reads alike."""
    result, name = run.result, run.resolved["data"]["name"]
    dataset = {"name": _text(name), "type": _slug(name), "split": "test"}
    metric = {"name": "Accuracy", "type": "accuracy", "value": round(result["test_accuracy"], 6)}
    task = {"type": "image-classification", "name": "Image classification"}
    results = [{"task": task, "dataset": dataset, "metrics": [metric]}]
    values = {
        "license": licence,
        "library_name": "resight",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resight", run.recipe.model.net],
        "model-index": [{"name": _text(_title(run)), "results": results}],
    }
    return "".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()
    )


def _result(run: Run, result: Mapping[str, Any]) -> Iterator[str]:
    words = accuracy_words(
        "test", result["test_accuracy"], result["test_accuracy_95"], result["test_images"]
    )
    predictions = run.predictions
    beside = beside_words(
        predictions.guess_accuracy, predictions.balanced_accuracy, predictions.classes_measured
    )
    loss = f"loss {result['test_loss']:.4f}"
    yield f"**{escaped(words[:1].upper() + words[1:])}** · {loss} · {beside}"
    rows = weakest_first(predictions.per_class())
    if len(rows) > MAX_CLASSES_LISTED:
        yield f"The {MAX_CLASSES_LISTED} weakest of {len(rows)} classes:"
        rows = rows[:MAX_CLASSES_LISTED]
    shares = ("precision", "recall", "f1")
    cells = (
        (
            row["class"],
            f"{row['support']:,}",
            *("–" if row[share] is None else f"{row[share]:.1%}" for share in shares),
        )
        for row in rows
    )
    yield table(("class", "test images", *shares), cells, numbers_from=1)


def _usage(predictor: Predictor, onnx: Mapping[str, float | None]) -> Iterator[str]:
    yield "With Resight (`pip install resight`), from a copy of this folder:"
    yield code(
        "import resight\n\n"
        'predictor = resight.load_predictor("FOLDER")\n'
        'print(predictor.answers(["photo.jpg"]))',
        "python",
    )
    square = FITS[predictor.fit].format(predictor.image_size)
    colours = "grey" if predictor.channels == 1 else "RGB"
    yield (
        f"A photo is turned upright by its EXIF orientation; the net sees {square}, in {colours} "
        f"(Pillow, Lanczos). The logits are {VIEWS[predictor.tta]}."
    )
    if onnx:
        measured = (
            f"`{name}`" + ("" if share is None else f" (test accuracy {share:.2%})")
            for name, share in onnx.items()
        )
        yield (
            f"{listed(measured)}: for onnxruntime, without Resight and PyTorch. uint8 images "
            "(N, H, W, C) of that size in, logits out; normalisation and views are inside. "
            "Classes, size, channels, `fit` and temperature are in the metadata, each as JSON; "
            "Resight's `examples/onnx_predict.py` is a loader of a few lines."
        )
    yield "`config.json` has the same facts, and the complete recipe."


def _data(data: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    held = f", {data['val']:,} for validation" if data["val"] else ""
    yield (
        f"{escaped(data['name'])}: {data['train']:,} images to train on{held}, {data['test']:,} to "
        f"test, at {recipe.data.image_size}×{recipe.data.image_size} pixels. Classes: "
        f"{escaped(', '.join(data['classes'][:MAX_CLASSES_LISTED]))}"
        + (", …" if len(data["classes"]) > MAX_CLASSES_LISTED else "")
        + "."
    )


def _training(recipe: Recipe, result: Mapping[str, Any]) -> Iterator[str]:
    rows = (
        ("recipe", recipe.name),
        ("net", f"{recipe.model.net}, width {recipe.model.width}"),
        ("parameters", f"{result['parameters']:,}"),
        ("epochs", result.get("epochs_trained", result["epochs"])),
        ("optimizer", recipe.optimizer.name),
        ("highest learning rate", f"{result['lr_max']:.3g}"),
        ("batch", recipe.train.batch_size),
        ("seed", recipe.train.seed),
        ("precision", result["precision"]),
        ("device", result["device"]),
        ("weights of the", result["weights"]),
    )
    head, *rest = rows
    yield table([str(cell) for cell in head], rest, numbers_from=2)


def _limits(run: Run, predictor: Predictor) -> Iterator[str]:
    temperature = run.temperature
    calibrated = (
        "Probabilities are calibrated by a temperature that was fitted on validation images "
        f"({temperature:.3g})."
        if temperature is not None
        else "Probabilities are not calibrated: there was no validation split to do it on."
    )
    lines = [
        "It knows these classes only: a photo of anything else gets one of them too.",
        "The accuracy is that of one test split of the same source. On photos that were taken "
        "differently it may be lower.",
        f"It sees {predictor.image_size}×{predictor.image_size} pixels: what is smaller than a few "
        "of these in the photo, it can't see.",
        calibrated,
    ]
    diagnosis = run.diagnosis
    lines += [
        f"Resight's diagnosis, {finding.severity}: {escaped(finding.title)}."
        for finding in (diagnosis.findings if diagnosis is not None else ())
    ]
    yield "\n".join(f"- {line}" for line in lines)


def _text(name: str) -> str:
    """A name that any YAML reader takes."""
    return printable(name)


def _slug(name: str) -> str:
    """A data set's name as the Hub writes those of data sets."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "images"
