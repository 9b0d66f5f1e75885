"""CIFAR batches: folders and archives, both generations of pickles, and every kind of damage."""

from __future__ import annotations

import codecs
import io
import operator
import os
import pickle
import resource
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from resight.data.cifar import CIFAR10, CIFAR100, Variant
from resight.data.sources import load_data
from resight.data.unpickling import text, unpickle
from resight.errors import ResightError

ROWS = 6


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "the-cache"))
    monkeypatch.setenv("RESIGHT_DATA", str(tmp_path / "the-data"))


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes str and bytes alike as the byte strings of Python 2, as the official files do."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, text):
        data = text.encode() if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<I", len(data)) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    # Where Python 2's numpy kept it
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def contents(variant: Variant, *, kind: type = bytes, classes: int = 3) -> dict[str, dict]:
    """The dictionaries of every file, with keys and names of type `kind`."""

    def t(value: str):
        return value.encode() if kind is bytes else value

    rng = np.random.default_rng(0)
    files = {}
    for number, file in enumerate((*variant.train, variant.test)):
        files[file] = {
            t("batch_label"): t(file),
            t(variant.labels): [(row + number) % classes for row in range(ROWS)],
            t("data"): rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8),
            t("filenames"): [t(f"{file}_{row}.png") for row in range(ROWS)],
        }
    files[variant.meta] = {t(variant.classes): [t(f"class {n}") for n in range(classes)]}
    return files


def write(place: Path, variant: Variant, files: dict[str, dict], dump=pickle.dumps) -> Path:
    folder = place / variant.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(dump(content))
    return folder


def pack(place: Path, variant: Variant, files: dict[str, dict]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / variant.archive, "w:gz") as tar:
        for name, content in {"readme.html": {}, **files}.items():
            data = pickle.dumps(content)
            member = tarfile.TarInfo(f"{variant.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return place / variant.archive


def load(path, **options):
    return load_data(path, image_size=32, **options)


def error_of(path) -> str:
    with pytest.raises(ResightError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(data, files: dict[str, dict], variant: Variant) -> None:
    """Every pixel, label and id is the one that was stored."""
    files = {file: {text(k): v for k, v in files[file].items()} for file in files}
    for split, batches in ((data.train, variant.train), (data.test, (variant.test,))):
        stored = np.concatenate([files[batch]["data"] for batch in batches])
        assert np.array_equal(split.images.transpose(0, 3, 1, 2).reshape(-1, 3072), stored)
        labels = [label for batch in batches for label in files[batch][variant.labels]]
        assert split.labels.tolist() == labels
        names = [text(name) for batch in batches for name in files[batch]["filenames"]]
        assert split.ids.tolist() == names
    assert data.classes == ("class 0", "class 1", "class 2")
    assert data.name == variant.name


@pytest.mark.parametrize("variant", [CIFAR10, CIFAR100], ids=lambda variant: variant.name)
@pytest.mark.parametrize("kind", [bytes, str])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_every_pickle_of_python_3(tmp_path, variant, kind, protocol):
    files = contents(variant, kind=kind)
    write(tmp_path, variant, files, lambda content: pickle.dumps(content, protocol=protocol))
    check(load(tmp_path), files, variant)


@pytest.mark.parametrize("variant", [CIFAR10, CIFAR100], ids=lambda variant: variant.name)
def test_pickles_of_python_2_as_the_official_ones(tmp_path, variant):
    files = contents(variant)
    folder = write(tmp_path, variant, files, python2_pickle)
    assert b"numpy.core.multiarray" in (folder / variant.test).read_bytes()
    check(load(tmp_path), files, variant)


def test_cifar100_has_fine_classes(tmp_path):
    files = contents(CIFAR100)
    for name in ("train", "test"):
        fine = files[name].pop(b"fine_labels")
        files[name] |= {b"coarse_labels": [0] * ROWS, b"fine_labels": fine}
    files["meta"] = {b"coarse_label_names": [b"any"], b"fine_label_names": [b"a", b"b", b"c"]}
    write(tmp_path, CIFAR100, files)
    data = load(tmp_path)
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_folder_archive_and_what_holds_them_are_the_same_data(tmp_path):
    files = contents(CIFAR10)
    folder = write(tmp_path / "unpacked", CIFAR10, files)
    archive = pack(tmp_path / "packed", CIFAR10, files)
    loaded = [load(path) for path in (folder, folder.parent, archive, archive.parent)]
    for data in loaded:
        check(data, files, CIFAR10)
    assert len({data.fingerprint for data in loaded}) == 1
    renamed = archive.rename(archive.with_name("cifar-10-python (1).tar.gz"))
    check(load(renamed), files, CIFAR10)
    moved = folder.rename(tmp_path / "my-batches")
    check(load(moved), files, CIFAR10)


def test_the_fingerprint_knows_the_names_of_the_classes(tmp_path):
    files = contents(CIFAR10)
    write(tmp_path / "one", CIFAR10, files)
    files["batches.meta"] = {b"label_names": [b"class 0", b"class 2", b"class 1"]}
    write(tmp_path / "two", CIFAR10, files)
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    assert np.array_equal(one.train.images, two.train.images)
    assert one.fingerprint != two.fingerprint


def test_known_names_are_found_in_the_data_folder(tmp_path):
    message = error_of("cifar10")
    assert "`resight data cifar10` downloads it" in message
    assert f"put cifar-10-python.tar.gz into {tmp_path / 'the-data'} yourself" in message
    assert "--data digits needs no download" in message
    files = contents(CIFAR10)
    archive = pack(tmp_path / "the-data", CIFAR10, files)
    data = load("cifar10")
    assert data.source == "cifar10"
    check(data, files, CIFAR10)
    archive.unlink()
    write(tmp_path / "the-data", CIFAR10, files)
    check(load("cifar10"), files, CIFAR10)
    assert "cifar100 is not on this machine" in error_of("cifar100")


def test_both_data_sets_in_one_folder(tmp_path):
    for variant in (CIFAR10, CIFAR100):
        write(tmp_path / "both", variant, contents(variant))
    message = error_of(tmp_path / "both")
    assert message.endswith("both/cifar-10-batches-py or " + f"{tmp_path}/both/cifar-100-python")


def test_names_that_repeat_give_way_to_numbers(tmp_path):
    files = contents(CIFAR10)
    files["data_batch_2"][b"filenames"][3] = files["data_batch_1"][b"filenames"][0]
    write(tmp_path, CIFAR10, files)
    data = load(tmp_path)
    assert data.train.ids[[0, 5, 6, 29]].tolist() == [
        "data_batch_1/00000",
        "data_batch_1/00005",
        "data_batch_2/00000",
        "data_batch_5/00005",
    ]
    assert data.test.ids[0] == "test_batch_0.png"
    del files["test_batch"][b"filenames"]
    write(tmp_path, CIFAR10, files)
    assert load(tmp_path).test.ids[5] == "test_batch/00005"


def test_resized_and_grey_where_asked(tmp_path):
    files = contents(CIFAR10)
    for file in (*CIFAR10.train, CIFAR10.test):
        files[file][b"data"][:] = np.repeat(np.array([200, 30, 10], np.uint8), 1024)
        files[file][b"data"][0] = 77
    write(tmp_path, CIFAR10, files)
    data = load_data(tmp_path, image_size=8, channels=1)
    assert data.train.images.shape == (30, 8, 8, 1)
    assert np.all(data.train.images[0] == 77)
    assert np.all(data.train.images[1] == round(0.299 * 200 + 0.587 * 30 + 0.114 * 10))


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_a_truncated_batch(tmp_path, size):
    folder = write(tmp_path, CIFAR10, contents(CIFAR10))
    whole = (folder / "data_batch_3").read_bytes()
    (folder / "data_batch_3").write_bytes(whole[:size])
    message = error_of(tmp_path)
    assert message.startswith(f"{folder}/data_batch_3 is damaged or not a CIFAR batch")
    assert message.endswith("download the data again")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.97])
def test_a_truncated_archive(tmp_path, kept):
    archive = pack(tmp_path / "packed", CIFAR10, contents(CIFAR10))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * kept)])
    assert error_of(archive).startswith(f"{archive} is damaged or incomplete (")


def test_an_archive_without_a_batch(tmp_path):
    files = contents(CIFAR10)
    del files["data_batch_4"]
    archive = pack(tmp_path / "packed", CIFAR10, files)
    assert f"{archive} lacks cifar-10-batches-py/data_batch_4" in error_of(archive)


def test_a_folder_without_a_batch(tmp_path):
    folder = write(tmp_path, CIFAR10, contents(CIFAR10))
    (folder / "data_batch_4").unlink()
    (folder / "batches.meta").unlink()
    for path in (folder, tmp_path):
        assert f"{folder} lacks data_batch_4, batches.meta: unpack" in error_of(path)


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ((os.mkdir, ("made-by-a-pickle",)), f"{os.name}.mkdir"),
        ((eval, ("1",)), "builtins.eval"),
        ((np.frombuffer, (b"x",)), "numpy.frombuffer"),
        ((operator.attrgetter, ("x",)), "operator.attrgetter"),
    ],
)
def test_a_pickle_runs_no_code(tmp_path, monkeypatch, call, named):
    monkeypatch.chdir(tmp_path)
    files = contents(CIFAR10)
    files["data_batch_1"][b"data"] = Evil(*call)
    write(tmp_path, CIFAR10, files)
    assert f"data_batch_1 asks for {named}, which no CIFAR batch needs" in error_of(tmp_path)
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_no_codec_but_latin1(tmp_path):
    files = contents(CIFAR10)
    files["data_batch_1"][b"batch_label"] = Evil(codecs.encode, ("a", "rot13"))
    write(tmp_path, CIFAR10, files)
    assert "codec rot13" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (
            b"data",
            np.zeros((ROWS, 3071), np.uint8),
            "'data' must be uint8 (N, 3072), not uint8 (6, 3071)",
        ),
        (
            b"data",
            np.zeros((ROWS, 3072), np.int16),
            "'data' must be uint8 (N, 3072), not int16 (6, 3072)",
        ),
        (b"data", np.zeros(3072, np.uint8), "'data' must be uint8 (N, 3072), not uint8 (3072,)"),
        (b"data", [1, 2], "'data' must be uint8 (N, 3072), not list"),
        (b"data", np.zeros((7, 3072), np.uint8), "7 images but 6 labels"),
        (b"labels", [0] * 5, "6 images but 5 labels"),
        (b"labels", [0, 1, 2, 3, 0, 0], "label 3 is not in 0…2"),
        (b"labels", [0, 1, 2, -1, 0, 0], "label -1 is not in 0…2"),
        (b"labels", [0, 1, 2, 0.5, 0, 0], "'labels' must be a list of integers"),
        (b"labels", None, "'labels' must be a list of integers"),
    ],
)
def test_a_batch_that_is_off(tmp_path, key, value, line):
    files = contents(CIFAR10)
    files["test_batch"][key] = value
    folder = write(tmp_path, CIFAR10, files)
    assert error_of(tmp_path).startswith(f"{folder}/test_batch: {line}")


def test_an_empty_batch(tmp_path):
    files = contents(CIFAR10)
    files["test_batch"] |= {b"data": np.zeros((0, 3072), np.uint8), b"labels": []}
    write(tmp_path, CIFAR10, files)
    assert "0 images but 0 labels" in error_of(tmp_path)


def test_a_pickle_that_is_no_dictionary(tmp_path):
    folder = write(tmp_path, CIFAR10, contents(CIFAR10) | {"test_batch": [1]})
    assert error_of(tmp_path) == (
        f"{folder}/test_batch contains a list, not the dictionary of a CIFAR batch: download the "
        "data again"
    )


def test_meta_without_names(tmp_path):
    write(tmp_path, CIFAR10, contents(CIFAR10) | {"batches.meta": {}})
    assert "has no list 'label_names'" in error_of(tmp_path)


def test_a_file_that_is_no_archive_of_cifar(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    message = error_of(tmp_path / "images.zip")
    assert message.startswith(f"{tmp_path}/images.zip is not a supported file: expected a folder, ")
    assert message.endswith("unpack any other archive and give its folder")


def test_an_index_of_four_bytes_reserves_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = b"\x80\x02}q\0(X\1\0\0\0aNr\xff\xff\xff\x0fu."  # pickle's C reader would take 4 GB
    assert unpickle(content, "x") == {"a": None}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize(
    "content",
    [
        b"}" + b")" + b"2\x86" * 60 + b"Ns.",  # a key: pairs of one pair, 60 deep
        b"(N" + b"d.",
        b"(c_codecs\nencode\n(N}X\x0c\0\0\0__defaults__)stbd.",  # a state of a function
        b"cnumpy\nndarray\n)R.",
        b"cnumpy\nndarray\n)\x81.",
        b"\x8f.",
        b"]NNs.",
    ],
)
def test_what_no_batch_needs_is_refused_at_once(content: bytes):
    with pytest.raises(ResightError, match="x is damaged or not a CIFAR batch"):
        unpickle(b"\x80\x04" + content, "x")


@pytest.mark.parametrize("kind", ["label_names", "filenames"])
def test_names_that_are_no_text(tmp_path, kind):
    deep: list = []
    for _ in range(60):  # written out it would fill any memory
        deep = [deep, deep]
    files = contents(CIFAR10)
    file = CIFAR10.meta if kind == "label_names" else CIFAR10.test
    files[file][kind.encode()][0] = deep
    write(tmp_path, CIFAR10, files)
    if kind == "label_names":
        assert "has no list 'label_names'" in error_of(tmp_path)
    else:
        assert load(tmp_path).test.ids[0] == "test_batch/00000"
