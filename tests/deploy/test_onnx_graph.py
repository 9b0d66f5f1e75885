"""An ONNX file answers as the net does: every net, grey and colour, any size and augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import resight
from deploying import predictor
from helpers import ROOT, noise, pictures
from resight.deploy import onnx_graph
from resight.deploy.onnx_check import MAX_DIFFERENCE, checked
from resight.deploy.onnx_graph import facts, metadata, onnx_model
from resight.deploy.onnx_session import Session, logits_by, speeds
from resight.engine.forward import UNSURE
from resight.errors import ResightError
from resight.progress import Quiet

NETS: list[tuple[str, dict[str, Any]]] = [
    ("custom-resnet", {"px": 19, "channels": 1, "tta": "flip"}),
    ("custom-resnet", {"px": 8, "norm": "layer", "conv_bias": True, "logit_scale": 0.125}),
    ("resnet18", {"px": 12, "channels": 1}),
    ("resnet18-gn", {"px": 11}),
    ("fastnet", {"px": 16, "tta": "flip-shift", "logit_scale": 0.25}),
    ("fastnet-deep", {"px": 21, "channels": 1, "tta": "flip-shift-unsure"}),
]


@pytest.mark.parametrize(("net", "how"), NETS, ids=[name for name, _ in NETS])
def test_the_file_answers_as_the_net(net: str, how: dict[str, Any]) -> None:
    ours = predictor(net, **how)
    model = onnx_model(ours, {})
    session = Session(model.SerializeToString())
    images = noise(37, ours.image_size, ours.channels, seed=1)
    expected = ours.logits(images)
    assert np.abs(session(images) - expected).max() < MAX_DIFFERENCE
    assert np.abs(session(images[:1]) - expected[:1]).max() < MAX_DIFFERENCE
    assert np.ptp(expected, axis=0).max() > 100 * MAX_DIFFERENCE  # they are not all alike
    given = model.graph.input[0].type.tensor_type
    assert given.elem_type == onnx.TensorProto.UINT8
    first, *rest = given.shape.dim
    assert first.dim_param
    assert [side.dim_value for side in rest] == [ours.image_size] * 2 + [ours.channels]
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert metadata(model) == facts(ours)


@pytest.fixture(scope="module")
def unsure() -> tuple[Any, Session, Any]:
    """A net whose first look is sure of some images and not of others, its file, and these."""
    ours = predictor("fastnet", tta="flip-shift-unsure", logit_scale=1.5)
    images = pictures(60, size=16)
    one = torch.from_numpy(predictor("fastnet", logit_scale=1.5).logits(images))
    sure = (one.softmax(1).amax(1) >= UNSURE).numpy()
    assert 10 < sure.sum() < 50
    return ours, Session(onnx_model(ours, {}).SerializeToString()), (images, sure)


def test_only_unsure_images_are_seen_in_six_views(unsure: tuple[Any, Session, Any]) -> None:
    _, session, (images, sure) = unsure
    one = predictor("fastnet", logit_scale=1.5).logits(images)
    six = predictor("fastnet", logit_scale=1.5, tta="flip-shift").logits(images)
    expected = np.where(sure[:, None], one, six)
    np.testing.assert_allclose(session(images), expected, atol=1e-5)
    assert np.abs(one - six).max() > 0.01


def test_batches_without_unsure_or_without_sure_images_work(
    unsure: tuple[Any, Session, Any],
) -> None:
    ours, session, (images, sure) = unsure
    for some in (images[sure], images[~sure], images[sure][:1], images[~sure][:1]):
        np.testing.assert_allclose(session(some), ours.logits(some), atol=1e-5)
    np.testing.assert_array_equal(
        logits_by(session, images, 7).argmax(1), session(images).argmax(1)
    )


def test_the_file_names_nothing_of_this_machine(unsure: tuple[Any, Session, Any]) -> None:
    content = onnx_model(unsure[0], {}).SerializeToString()
    for place in (ROOT, Path(resight.__file__).parent, Path(torch.__file__).parent):
        assert str(place).encode() not in content
    assert b".py" not in content


def test_the_check_refuses_what_differs(unsure: tuple[Any, Session, Any]) -> None:
    ours, session, _ = unsure
    passed = checked(session, ours, None, "they are gone", Quiet())
    assert passed.images == 64
    assert passed.difference < 1e-5

    def shifted(images: Any) -> Any:
        return session(images) + np.float32(2e-4)

    with pytest.raises(
        ResightError, match=r"another class for 0 of 64 images, logits up to 0\.0002"
    ):
        checked(shifted, ours, None, "", Quiet())

    def mirrored(images: Any) -> Any:
        return session(images)[:, ::-1]

    with pytest.raises(ResightError, match="not what the net is, so it was not kept"):
        checked(mirrored, ours, None, "", Quiet())

    def broken(images: Any) -> Any:
        return np.full((len(images), 3), np.nan, dtype=np.float32)

    with pytest.raises(ResightError, match="not what the net is"):
        checked(broken, ours, None, "", Quiet())


def test_what_torch_cannot_export_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("page one\npage two")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ResightError, match="can't export this net to ONNX") as caught:
        onnx_model(predictor("fastnet"), {})
    assert "page two" not in str(caught.value)


def test_the_exporter_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    onnx_model(predictor("fastnet", tta="flip-shift-unsure"), {})
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_speeds_take_turns_and_leave_the_first_round_out() -> None:
    order: list[str] = []

    class Fake(Session):
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, images: Any) -> Any:
            order.append(self.name)
            return images

    rates = speeds([Fake("a"), Fake("b")], noise(4))
    assert order == ["a", "b"] * 6
    assert all(rate > 0 for rate in rates)
    assert onnx_graph.OPSET == 18
