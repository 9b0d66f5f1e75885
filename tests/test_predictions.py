"""What is read off the logits equals torch's and scikit-learn's, and a file is whole or refused."""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, recall_score
from torch.nn.functional import cross_entropy

from resight.errors import ResightError
from resight.predictions import Predictions, wilson_interval


def make(n: int = 50, k: int = 4, seed: int = 0, *, scale: float = 3.0) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((n, k))).astype(np.float32)
    labels = rng.integers(0, k, n)
    ids = np.array([f"image {i}" for i in range(n)])
    return Predictions(logits, labels, ids, tuple(f"class {i}" for i in range(k)))


def of(logits: list[list[float]], labels: list[int]) -> Predictions:
    k = len(logits[0])
    return Predictions(
        np.array(logits, dtype=np.float32),
        np.array(labels, dtype=np.int64),
        np.array([str(i) for i in range(len(labels))]),
        tuple("abcdefgh"[:k]),
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_losses_are_torchs_cross_entropy(scale: float) -> None:
    predictions = make(200, 7, scale=scale)
    logits, labels = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    expected = cross_entropy(logits.double(), labels, reduction="none").numpy()

    assert predictions.losses.dtype == np.float64
    np.testing.assert_allclose(predictions.losses, expected, rtol=1e-12, atol=1e-12)
    assert predictions.loss == pytest.approx(expected.mean(), rel=1e-12)


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    predictions = of([[0.5] * 8] * 3, [0, 3, 7])

    assert predictions.losses.tolist() == pytest.approx([math.log(8)] * 3, rel=1e-15)
    assert predictions.predicted.tolist() == [0, 0, 0]
    assert predictions.accuracy == pytest.approx(1 / 3)


def test_the_loss_is_a_mean_over_images() -> None:
    predictions = of([[0.0, 0.0], [0.0, 0.0], [100.0, 0.0]], [0, 1, 0])

    assert predictions.loss == pytest.approx(2 / 3 * math.log(2), rel=1e-12)


def test_accuracy_and_recalls_are_scikit_learns() -> None:
    predictions = make(500, 6)
    rows = predictions.per_class()

    assert predictions.predicted.tolist() == predictions.logits.argmax(1).tolist()
    expected = accuracy_score(predictions.labels, predictions.predicted)
    assert predictions.accuracy == pytest.approx(expected, rel=1e-15)
    assert predictions.correct == round(expected * 500)
    recalls = recall_score(predictions.labels, predictions.predicted, average=None)
    assert [row["accuracy"] for row in rows] == pytest.approx(recalls.tolist(), rel=1e-15)
    assert [row["support"] for row in rows] == np.bincount(predictions.labels).tolist()


def test_classes_by_hand() -> None:
    logits = [[2.0, 1, 0, 0], [0, 3, 1, 0], [0, 3, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    rows = of(logits, [0, 1, 2, 2, 1]).per_class()

    assert [tuple(row.values()) for row in rows[:3]] == [
        ("a", 1, 1, 1.0),
        ("b", 2, 1, 0.5),
        ("c", 2, 1, 0.5),
    ]
    assert list(rows[0]) == ["class", "support", "correct", "accuracy"]


def test_a_class_without_images_has_no_accuracy() -> None:
    row = of([[2.0, 1, 0], [0, 3, 1]], [0, 1]).per_class()[2]

    assert (row["class"], row["support"], row["correct"]) == ("c", 0, 0)
    assert row["accuracy"] is None


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_recalls_weighted_by_support_are_the_accuracy(n: int, k: int, seed: int) -> None:
    predictions = make(n, k, seed)
    rows = predictions.per_class()
    weighted: Any = sum(r["accuracy"] * r["support"] for r in rows if r["support"])  # type: ignore[operator]

    assert len(rows) == k
    assert sum(row["support"] for row in rows) == len(predictions) == n  # type: ignore[misc]
    assert weighted / n == pytest.approx(predictions.accuracy, rel=1e-12)
    assert sum(row["correct"] for row in rows) == predictions.correct  # type: ignore[misc]


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857), method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # at half: 1/2 ± z / (2 sqrt(n + z²))
        (50, 100, 0.40383153, 0.59616847),
        (9225, 10000, 0.91710256, 0.92757987),
    ],
)
def test_wilsons_interval_is_the_published_one(
    correct: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 100_000), share=st.floats(0, 1))
def test_wilsons_interval_is_scipys_lies_in_0_to_1_and_holds_the_share(
    n: int, share: float
) -> None:
    correct = round(n * share)
    low, high = wilson_interval(correct, n)
    expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")

    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert 0 <= low <= correct / n + 1e-15
    assert correct / n - 1e-15 <= high <= 1
    mirrored = wilson_interval(n - correct, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_of_no_images_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_interval_of_predictions_is_that_of_their_accuracy() -> None:
    predictions = make(80)

    assert predictions.accuracy_interval == wilson_interval(predictions.correct, 80)


def test_a_saved_file_loads_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    predictions = Predictions(
        rng.standard_normal((3, 2)).astype(np.float32),
        np.array([0, 1, 1]),
        np.array(["dog/é 1.png", "cat/犬.png", ""]),
        ("dog", "Katze ß"),
        split="val",
    )
    predictions.save(tmp_path / "p.npz")
    loaded = Predictions.load(tmp_path / "p.npz")

    for name in ("logits", "labels", "ids"):
        one, other = getattr(predictions, name), getattr(loaded, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert (loaded.classes, loaded.split) == (("dog", "Katze ß"), "val")
    assert type(loaded.split) is str
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_a_saved_file_needs_no_pickle(tmp_path: Path) -> None:
    make().save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        kinds = {key: file[key].dtype.kind for key in file.files}

    assert kinds == {"logits": "f", "labels": "i", "ids": "U", "classes": "U", "split": "U"}


def refused(path: Path) -> str:
    with pytest.raises(ResightError) as caught:
        Predictions.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    assert "resight evaluate" in refused(tmp_path / "p.npz")


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "torn.npz"
    for end in [0, 1, 3, 4, 10, *range(60, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:end])
        assert "not a predictions file" in refused(path)


def test_a_file_with_a_wrong_byte_is_refused_or_the_same(tmp_path: Path) -> None:
    predictions = make(5)
    predictions.save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    path, told, same = tmp_path / "flipped.npz", 0, 0
    places = range(0, len(whole), 7)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            loaded = Predictions.load(path)
        except ResightError as error:
            told += "\n" not in str(error)
        else:
            np.testing.assert_array_equal(loaded.logits, predictions.logits)
            np.testing.assert_array_equal(loaded.labels, predictions.labels)
            np.testing.assert_array_equal(loaded.ids, predictions.ids)
            assert loaded.classes == predictions.classes
            same += 1
    assert told + same == len(places)
    assert told > same


class Trap:
    """Unpickled, it would raise; so it is not."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GOOD: dict[str, Any] = {
    "logits": np.zeros((2, 3), np.float32),
    "labels": np.zeros(2, np.int64),
    "ids": np.array(["a", "b"]),
    "classes": np.array(["x", "y", "z"]),
    "split": np.array("test"),
}


@pytest.mark.parametrize(
    "content",
    [
        b"nothing of the kind",
        pickle.dumps(Trap()),
        npy(np.zeros(3)),
        npz(logits=np.zeros((2, 3))),
        npz(**{**GOOD, "ids": np.array([Trap(), Trap()], dtype=object)}),
        npz(**{**GOOD, "labels": np.zeros(3, np.int64)}),
        npz(**{**GOOD, "classes": np.array(["x"])}),
        npz(**{**GOOD, "logits": np.zeros(2, np.float32)}),
        npz(**{**GOOD, "logits": np.zeros(1, [(f"field {i}", "f4") for i in range(1000)])}),
    ],
    ids=[
        "text",
        "pickle",
        "npy",
        "fields missing",
        "objects",
        "labels",
        "classes",
        "logits",
        "numpy's error of several lines",
    ],
)
def test_another_file_is_refused_and_never_unpickled(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(content)

    assert "not a predictions file" in refused(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "not a predictions file" in refused(tmp_path)
