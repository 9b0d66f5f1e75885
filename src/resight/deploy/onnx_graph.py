"""A net as one ONNX file: uint8 images in, logits out, and in between all that `evaluate` does."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resight.data.augment import normalize
from resight.engine.forward import UNSURE, Tta, Views, mean_of, views_of
from resight.errors import ResightError, described
from resight.runs.predictor import Predictor
from resight.version import __version__

if TYPE_CHECKING:
    import onnx

OPSET = 18  # what the exporter writes by itself, and runtimes since 2023 read
INPUT, OUTPUT = "images", "logits"
UNSURE_NAME = "unsure"  # what the threshold is called


class Graph(nn.Module):
    """What is traced: uint8 (N, H, W, C) → logits float32 (N, K), as `engine.forward.predict`.

    "flip-shift-unsure" stays what it is: images of which one view is not sure are gathered, seen in
    six views and put back, so that the others cost one pass. An image's views go through the net as
    one batch: the file has its layers once, and once more for the unsure images.
    """

    mean: Tensor
    std: Tensor
    unsure: Tensor

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor, tta: Tta) -> None:
        super().__init__()
        self.net, self.tta = net, tta
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer(UNSURE_NAME, torch.tensor(UNSURE))

    def forward(self, images: Tensor) -> Tensor:
        normalized = normalize(images, self.mean, self.std)
        if self.tta != "flip-shift-unsure":
            return self._seen(normalized, self.tta)
        logits = self._seen(normalized, "none")
        unsure = (logits.softmax(1).amax(1) < self.unsure).nonzero().squeeze(1)
        # for the tracing alone, which len() would end: the file works with none too
        torch._check(unsure.shape[0] != 0)  # type: ignore[no-untyped-call]
        return logits.index_copy(0, unsure, self._seen(normalized[unsure], "flip-shift"))

    def _seen(self, normalized: Tensor, tta: Views) -> Tensor:
        views = [*views_of(normalized, tta)]
        logits = self.net(torch.cat(views)) if len(views) > 1 else self.net(normalized)
        return mean_of(logits.unflatten(0, (len(views), -1)).unbind(0))


def onnx_model(predictor: Predictor, about: Mapping[str, Any]) -> onnx.ModelProto:
    """The net in fp32, on the CPU, with `facts` as metadata. about: what is said of it besides.

    Raises `ResightError` if torch can't export it.
    """
    side, channels = predictor.image_size, predictor.channels
    graph = Graph(predictor.model, predictor.mean, predictor.std, predictor.tta).eval()
    example = torch.zeros((2, side, side, channels), dtype=torch.uint8)
    try:
        with quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
    except Exception as error:  # the exporter raises a dozen types, with pages of text
        raise ResightError(
            f"torch {torch.__version__} can't export this net to ONNX ({described(error)}): "
            "install the versions in constraints.txt"
        ) from None
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return labelled(without_traces(model), {**facts(predictor), **about})


def facts(predictor: Predictor) -> dict[str, Any]:
    """What a program needs to know that shows images to the file, and to read its logits."""
    return {
        "resight": __version__,
        "classes": list(predictor.classes),
        "image_size": predictor.image_size,
        "channels": predictor.channels,
        "fit": predictor.fit,
        "mean": predictor.mean.tolist(),
        "std": predictor.std.tolist(),
        "tta": predictor.tta,
        "temperature": predictor.temperature,
    }


def labelled(model: onnx.ModelProto, values: Mapping[str, Any]) -> onnx.ModelProto:
    """The model with `values` as its only metadata, each as JSON."""
    del model.metadata_props[:]
    for key, value in values.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return model


def metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """What `labelled` wrote."""
    return {prop.key: json.loads(prop.value) for prop in model.metadata_props}


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter notes of its source: files and lines of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:]
    graph.doc_string = model.doc_string = ""
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of exporter and quantiser, which are about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
