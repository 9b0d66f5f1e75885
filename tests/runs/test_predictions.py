"""What is read off the logits equals torch's and scikit-learn's, and a file is whole or refused."""

from __future__ import annotations

import csv
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
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
)
from torch.nn.functional import cross_entropy

from resight.errors import ResightError
from resight.intervals import wilson_interval
from resight.runs.predictions import Predictions


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


def test_printed_it_is_short() -> None:
    predictions = of([[2, 0], [0, 2], [2, 0]], [0, 1, 1])
    assert repr(predictions) == "Predictions(test: 3 images, 2 classes)"
    assert str(predictions) == f"{predictions.headline}\n{predictions.beside_accuracy}"
    assert repr(of([[0.0]], [0])).startswith("Predictions(")


def toy() -> Predictions:
    """Six images of three classes, by their probabilities; the last class has one image."""
    probabilities = [
        [0.80, 0.10, 0.10],
        [0.20, 0.70, 0.10],
        [0.10, 0.60, 0.30],
        [0.10, 0.15, 0.75],
        [0.30, 0.50, 0.20],
        [0.35, 0.40, 0.25],
    ]
    return of(np.log(probabilities).tolist(), [0, 0, 1, 1, 1, 2])


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

    keys = ["class", "support", "correct", "accuracy", "precision", "recall", "f1"]
    assert [tuple(row.values()) for row in rows[:3]] == [
        ("a", 1, 1, 1.0, 0.5, 1.0, 2 / 3),
        ("b", 2, 1, 0.5, 0.5, 0.5, 0.5),
        ("c", 2, 1, 0.5, 1.0, 0.5, 2 / 3),
    ]
    assert all(list(row) == keys for row in rows)


def test_a_class_without_images_has_no_accuracy() -> None:
    row = of([[2.0, 1, 0], [0, 3, 1]], [0, 1]).per_class()[2]

    assert (row["class"], row["support"], row["correct"]) == ("c", 0, 0)
    assert row["accuracy"] is row["recall"] is row["precision"] is row["f1"] is None


def test_a_class_that_is_never_predicted_has_no_precision_and_an_f1_of_0() -> None:
    rows = of([[2.0, 1, 0], [3, 0, 1]], [0, 1]).per_class()

    assert (rows[1]["precision"], rows[1]["recall"], rows[1]["f1"]) == (None, 0.0, 0.0)


def test_a_class_that_is_predicted_without_having_images_has_an_f1_of_0() -> None:
    rows = of([[2.0, 1, 0], [3, 0, 1]], [1, 1]).per_class()

    assert (rows[0]["precision"], rows[0]["recall"], rows[0]["f1"]) == (0.0, None, 0.0)


@settings(max_examples=100)
@given(n=st.integers(1, 60), k=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_recalls_weighted_by_support_are_the_accuracy(n: int, k: int, seed: int) -> None:
    predictions = make(n, k, seed)
    rows = predictions.per_class()
    weighted = sum(row["recall"] * row["support"] for row in rows if row["support"])

    assert len(rows) == k
    assert sum(row["support"] for row in rows) == len(predictions) == n
    assert weighted / n == pytest.approx(predictions.accuracy, rel=1e-12)
    assert sum(row["correct"] for row in rows) == predictions.correct
    assert [row["accuracy"] for row in rows] == [row["recall"] for row in rows]


@settings(max_examples=40)
@given(n=st.integers(1, 60), k=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_classes_and_confusion_are_scikit_learns(n: int, k: int, seed: int) -> None:
    predictions = make(n, k, seed)
    truth, guess = predictions.labels, predictions.predicted
    reference = precision_recall_fscore_support(truth, guess, labels=range(k), zero_division=np.nan)

    confusion = predictions.confusion
    assert confusion.dtype == np.int64
    assert confusion.tolist() == confusion_matrix(truth, guess, labels=range(k)).tolist()
    assert confusion.sum() == n
    assert np.trace(confusion) == predictions.correct
    for key, expected in zip(("precision", "recall", "f1", "support"), reference, strict=True):
        ours = [row[key] for row in predictions.per_class()]
        assert [value is None for value in ours] == np.isnan(expected).tolist()
        np.testing.assert_allclose(np.array(ours, dtype=float), expected, rtol=1e-12)


def test_the_toy_by_hand() -> None:
    predictions = toy()

    assert predictions.confusion.tolist() == [[1, 1, 0], [0, 2, 1], [0, 1, 0]]
    assert predictions.accuracy == 0.5
    assert predictions.confidence.tolist() == pytest.approx([0.8, 0.7, 0.6, 0.75, 0.5, 0.4])
    assert [tuple(row.values())[1:] for row in predictions.per_class()] == [
        (2, 1, 0.5, 1.0, 0.5, 2 / 3),
        (3, 2, 2 / 3, 0.5, 2 / 3, 4 / 7),
        (1, 0, 0.0, 0.0, 0.0, 0.0),
    ]
    assert predictions.top_losses().tolist() == [3, 1, 5, 4, 2, 0]
    assert predictions.top_losses(2).tolist() == [3, 1]
    assert predictions.mistakes().tolist() == [3, 1, 5]
    assert predictions.mistakes(1).tolist() == [3]


def test_the_most_confused_pairs_come_by_count_then_in_order() -> None:
    rows = toy().most_confused()

    assert rows[1] == {
        "true": 1,
        "predicted": 2,
        "true_class": "b",
        "predicted_class": "c",
        "count": 1,
        "share": 1 / 3,
    }
    assert [(row["true"], row["predicted"], row["share"]) for row in rows] == [
        (0, 1, 1 / 2),
        (1, 2, 1 / 3),
        (2, 1, 1.0),
    ]
    assert toy().most_confused(2) == rows[:2]
    more = of([[0.0, 1], [0, 1], [1, 0], [1, 0], [1, 0], [0, 1]], [0, 0, 0, 1, 1, 1])
    assert [(row["true"], row["count"]) for row in more.most_confused()] == [(0, 2), (1, 2)]
    assert of([[1.0, 0]], [0]).most_confused() == []


@settings(max_examples=50)
@given(n=st.integers(1, 80), k=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_the_confused_pairs_hold_every_mistake(n: int, k: int, seed: int) -> None:
    predictions = make(n, k, seed)
    rows = predictions.most_confused(None)
    counts = [row["count"] for row in rows]

    assert sum(counts) == n - predictions.correct == len(predictions.mistakes())
    assert counts == sorted(counts, reverse=True)
    assert all(row["count"] == predictions.confusion[row["true"], row["predicted"]] for row in rows)
    assert len(predictions.most_confused(3)) == min(3, len(rows))


@settings(max_examples=50)
@given(n=st.integers(1, 80), k=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_top_losses_are_all_images_and_mistakes_the_wrong_ones(n: int, k: int, seed: int) -> None:
    predictions = make(n, k, seed)
    order, wrong = predictions.top_losses(), predictions.mistakes()

    assert order.dtype == wrong.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    assert (np.diff(predictions.losses[order]) <= 0).all()
    misses = (predictions.predicted != predictions.labels).tolist()
    assert wrong.tolist() == [i for i in order.tolist() if misses[i]]


def test_equal_losses_stay_in_their_order() -> None:
    assert of([[0.0, 0]] * 5, [0, 1, 0, 1, 0]).top_losses().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_probabilities_are_torchs_softmax(scale: float) -> None:
    predictions = make(200, 7, scale=scale)
    expected = torch.from_numpy(predictions.logits).double().softmax(1).numpy()

    assert predictions.probabilities.dtype == np.float32
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(predictions.confidence, expected.max(1), rtol=1e-6)
    assert predictions.probabilities is predictions.probabilities


def test_probabilities_leave_the_logits_alone() -> None:
    predictions = make()
    before = predictions.logits.copy()
    _ = predictions.probabilities

    np.testing.assert_array_equal(predictions.logits, before)


def test_the_loss_is_scikit_learns() -> None:
    predictions = make(300, 5)
    expected = log_loss(predictions.labels, predictions.probabilities, labels=range(5))

    assert predictions.loss == pytest.approx(expected, rel=1e-5)


def test_label_suspects_by_hand() -> None:
    # thresholds 0.5, 0.41667 and 0.25: image 5 is taken for b with 0.4 only
    predictions = toy()

    assert predictions.label_suspects().tolist() == [3, 1]
    assert predictions.label_suspects(1).tolist() == [3]


def test_just_the_threshold_is_enough_to_be_suspect() -> None:
    assert of([[0.0, 1], [0, 1]], [0, 1]).label_suspects().tolist() == [0]


def test_a_net_that_agrees_with_the_label_makes_nothing_suspect() -> None:
    # c's threshold is low and image 0 reaches it, but the net says a, as the label does
    probabilities = [[0.55, 0.10, 0.35], [0.95, 0.03, 0.02], [0.20, 0.60, 0.20], [0.5, 0.2, 0.3]]

    assert of(np.log(probabilities).tolist(), [0, 0, 1, 2]).label_suspects().tolist() == []


def test_a_class_without_images_makes_nothing_suspect() -> None:
    probabilities = [[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]

    assert of(np.log(probabilities).tolist(), [0, 1]).label_suspects().tolist() == []


@settings(max_examples=100)
@given(n=st.integers(1, 60), k=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_suspects_are_off_the_diagonal_of_the_confident_joint(n: int, k: int, seed: int) -> None:
    predictions = make(n, k, seed, scale=1.5)
    p, labels = predictions.probabilities.astype(float), predictions.labels
    thresholds = [p[labels == j, j].mean() if (labels == j).any() else 2.0 for j in range(k)]
    expected = set()
    for i in range(n):
        confident = [j for j in range(k) if p[i, j] >= thresholds[j]]
        if confident:
            counted = max(confident, key=lambda j: p[i, j])
            if counted != labels[i] and counted == predictions.predicted[i]:
                expected.add(i)
    suspects = predictions.label_suspects()

    assert suspects.dtype == np.int64
    assert set(suspects.tolist()) == expected
    assert (np.diff(p[suspects, labels[suspects]]) >= 0).all()
    assert set(suspects.tolist()) <= set(predictions.mistakes().tolist())


def test_rows_are_plain_values_an_image_each() -> None:
    rows = toy().rows()

    assert len(rows) == 6
    assert rows[1] == {
        "id": "1",
        "true": "a",
        "predicted": "b",
        "correct": False,
        "confidence": pytest.approx(0.7),
        "probability_true": pytest.approx(0.2),
        "loss": pytest.approx(-math.log(0.2)),
    }
    kinds = [str, str, str, bool, float, float, float]
    assert all([type(value) for value in row.values()] == kinds for row in rows)
    assert [row["correct"] for row in rows] == [True, False, True, False, True, False]


def in_csv(name: str) -> str:
    formula = "'" * (name[:1] in ("=", "+", "-", "@"))
    return formula + name.replace("\n", "\\n").replace("\r", "\\r")


def test_csv_keeps_every_name_and_number(tmp_path: Path) -> None:
    classes = ('a,"b"', "line\nbreak", "carriage\rreturn", "Katze ß 犬", "")
    ids = np.array(["dog/é 1.png", "x,y", "", "=1+1"])
    logits = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    predictions = Predictions(logits, np.array([0, 1, 2, 3]), ids, classes)
    path = tmp_path / "images.csv"
    path.write_text("old")
    predictions.to_csv(path)
    with path.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))

    assert list(read[0]) == list(predictions.rows()[0])
    assert len(read) == 4
    for row, expected in zip(read, predictions.rows(), strict=True):
        for key in ("id", "true", "predicted"):
            assert row[key] == in_csv(expected[key])
        assert row["correct"] == str(expected["correct"])
        for key in ("confidence", "probability_true", "loss"):
            assert float(row[key]) == expected[key]
    assert [entry.name for entry in tmp_path.iterdir()] == ["images.csv"]


def test_csv_is_utf_8_even_where_a_file_name_is_no_text(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    predictions = Predictions(
        np.zeros((1, 2), np.float32), np.array([0]), np.array([name]), ("a", "b")
    )
    predictions.to_csv(tmp_path / "images.csv")

    assert "caf\\udce9.png" in (tmp_path / "images.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\u202e=1"]
)
def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path, name: str) -> None:
    predictions = Predictions(
        np.zeros((1, 2), np.float32), np.array([0]), np.array([name]), (name, "b")
    )
    predictions.to_csv(tmp_path / "images.csv")

    with (tmp_path / "images.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    for key in ("id", "true", "predicted"):
        assert row[key][0] in "'\\"
        assert row[key].isprintable()


def test_csv_to_nowhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResightError, match=r"can't write .*nowhere") as caught:
        toy().to_csv(tmp_path / "nowhere" / "images.csv")
    assert "\n" not in str(caught.value)


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

    texts = dict.fromkeys(("ids", "classes", "split"), "U")
    assert kinds == {"logits": "f", "labels": "i", "format": "i", **texts}


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
        assert "not a Resight predictions file" in refused(path)


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

    assert "not a Resight predictions file" in refused(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(f"{tmp_path}: a folder is in the place of the run's file")


def test_what_accuracy_is_compared_with() -> None:
    predictions = make(500, 6)
    balanced = balanced_accuracy_score(predictions.labels, predictions.predicted)
    assert predictions.balanced_accuracy == pytest.approx(balanced, rel=1e-15)
    assert predictions.guess_accuracy == np.bincount(predictions.labels).max() / 500

    uneven = of(np.eye(3)[[0, 0, 0, 0, 1, 0]], [0, 0, 0, 0, 1, 1])  # none of the third class
    assert (uneven.guess_accuracy, uneven.balanced_accuracy) == (4 / 6, 0.75)
    assert uneven.beside_accuracy == "guessing the largest class gives 66.67%"  # of two classes
    rare = of(np.eye(2)[[0] * 8], [0] * 7 + [1])
    assert rare.beside_accuracy == (
        "guessing the largest class gives 87.50%; balanced accuracy 50.00%"
    )
