"""The same ONNX file with 8-bit weights and activations, calibrated on training images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resight.comparison.pairs import PairTest
from resight.data.types import ImageData
from resight.deploy.onnx_graph import INPUT, UNSURE_NAME, labelled, metadata, quiet
from resight.deploy.onnx_session import Images, Logits, Session, logits_by, speeds
from resight.engine.forward import UNSURE
from resight.errors import ResightError, described
from resight.findings import folded
from resight.intervals import SURE, exact_p
from resight.progress import Reporter

if TYPE_CHECKING:
    import onnx

CALIBRATION_IMAGES = 256
MAX_LOSS = 0.002  # of accuracy, up to which the file is kept
QUANTISED = ["Conv", "Gemm", "MatMul"]  # the rest costs little, and GELU suffers
FEW_IMAGES = 100
FEW = f"fewer than {FEW_IMAGES} test images show little: compare the two on more"
EVERYONE = 2.0  # a threshold that no probability reaches


@dataclass(frozen=True)
class Int8:
    """The 8-bit file beside the float one on the test split. accuracies, rates (images/s, `at_once`
    images at a time), sizes_bytes: of float and of 8 bits; kept: whether it was written."""

    test: PairTest
    accuracies: tuple[float, float]
    rates: tuple[float, float]
    at_once: int
    sizes_bytes: tuple[int, int]
    calibrated_on: int
    kept: bool

    def lines(self) -> list[str]:
        plain, small = self.accuracies
        fast, faster = self.rates
        share = self.sizes_bytes[1] / self.sizes_bytes[0]
        kept = "kept" if self.kept else "not kept (--keep-int8 keeps it)"
        return [
            f"int8     {kept}: {share:.0%} of the size",
            f"         test accuracy {small:.2%}, float {plain:.2%}",
            *folded(str(self.test), " " * 9),
            *(folded(FEW, " " * 9) if self.test.images < FEW_IMAGES else ()),
            f"         calibrated on {self.calibrated_on} training images",
            f"         {faster:,.0f} images/s, float {fast:,.0f}: in turn on this CPU, "
            f"{self.at_once} at a time",
        ]


def measured(
    model: onnx.ModelProto,
    plain: Session,
    data: ImageData,
    float_logits: Logits,
    at_once: int,
    reporter: Reporter,
    *,
    keep: bool,
) -> tuple[bytes, Int8]:
    """The 8-bit file, calibrated on training images, and how it compares. plain: the float model,
    loaded; float_logits: (N, K), what it says of the test split; keep: whatever it loses."""
    images = calibration_images(data.train.images)
    reporter.say(f"calibrating 8 bits on {len(images)} training images")
    content = quantised(model, images, at_once)
    session, test = Session(content), data.test
    show = reporter.counting("measuring 8 bits")
    logits = logits_by(session, test.images, at_once, show)
    rates = speeds([plain, session], test.images[:at_once])
    pair = paired(test.labels, float_logits, logits)
    right = [float((said.argmax(1) == test.labels).mean()) for said in (float_logits, logits)]
    return content, Int8(
        test=pair,
        accuracies=(right[0], right[1]),
        rates=(rates[0], rates[1]),
        at_once=min(at_once, len(test)),
        sizes_bytes=(model.ByteSize(), len(content)),
        calibrated_on=len(images),
        kept=keep or good_enough(pair),
    )


def good_enough(test: PairTest) -> bool:
    """Whether 8 bits lose at most 0.2 points, and not significantly."""
    lost = test.difference
    return lost <= MAX_LOSS and (lost <= 0 or test.p >= SURE)


def quantised(model: onnx.ModelProto, images: Images, at_once: int) -> bytes:
    """The model's file with 8 bits: static QDQ, weights per channel.

    images: uint8 (n, H, W, C), from which the ranges of the activations are taken. Activations are
    unsigned, weights have 7 bits: processors without VNNI add two products in 16 bits, which 8 bits
    would overflow, and the file is for any processor (onnxruntime issue 12072). Raises
    `ResightError` if onnxruntime can't.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The images, `at_once` at a time."""

        def __init__(self) -> None:
            self._batches: Iterator[Images] = (
                images[start : start + at_once] for start in range(0, len(images), at_once)
            )

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    source = type(model)()
    source.CopyFrom(model)
    # every image takes both ways through the net, so that the ranges of both are seen
    _set_threshold(source, EVERYONE)
    with tempfile.TemporaryDirectory() as folder, quiet():
        plain, fused, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "fused", "int8"))
        plain.write_bytes(source.SerializeToString())
        try:
            # shapes are known already; what it adds is batch norms folded into convolutions
            quant_pre_process(plain, fused, skip_symbolic_shape=True)
            quantization.quantize_static(
                fused,
                done,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:
            raise ResightError(
                f"onnxruntime can't quantise this net ({described(error)}): install the versions "
                "in constraints.txt"
            ) from None
        result = onnx.load(done)
    _set_threshold(result, UNSURE)
    content: bytes = labelled(result, {**metadata(model), "weights": "int8"}).SerializeToString()
    return content


def calibration_images(images: Images) -> Images:
    """`CALIBRATION_IMAGES` of them, or all if there are fewer, at equal distances."""
    rows = np.linspace(0, len(images) - 1, min(CALIBRATION_IMAGES, len(images)))
    return np.ascontiguousarray(images[rows.round().astype(np.int64)])


def paired(labels: npt.NDArray[np.int64], plain: Logits, small: Logits) -> PairTest:
    """McNemar's exact test of two nets' logits (N, K) on the same images: float and int8."""
    said_a, said_b = plain.argmax(1), small.argmax(1)
    right_a, right_b = said_a == labels, said_b == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    wrong = int((~right_a & ~right_b & (said_a != said_b)).sum())
    p = exact_p(only_a, only_b)
    return PairTest("float", "int8", len(labels), only_a, only_b, wrong, p, p_holm=p)


def _set_threshold(model: onnx.ModelProto, value: float) -> None:
    """Let an image be unsure below this probability, in a model that looks at such images again.

    As a constant of its own: optimisers make one of all constants that are equal, and the value of
    that one can't be changed.
    """
    from onnx import numpy_helper

    graph = model.graph
    comparisons = [node for node in graph.node if node.op_type == "Less"]
    if not comparisons:
        return
    (comparison,) = comparisons
    before, name = comparison.input[1], f"{UNSURE_NAME}_below_{value:g}"
    graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    comparison.input[1] = name
    if not any(before in node.input for node in graph.node):
        for tensor in [tensor for tensor in graph.initializer if tensor.name == before]:
            graph.initializer.remove(tensor)
