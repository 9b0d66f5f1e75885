"""All of Resight that reads what strangers or damage may have changed, ready for `fuzzing`."""

from __future__ import annotations

import contextlib
import io
import itertools
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from fuzzing import Reader
from helpers import folder, make_data, noise
from jobs import job_of, recipe_of
from resight.data import cache, cifar
from resight.data.cifar import CIFAR10
from resight.data.decode import FORMATS, is_grey
from resight.data.headers import read_header
from resight.data.sources import find
from resight.data.table import Found, Table, decode_table, in_memory
from resight.data.workers import decode_rows
from resight.findings import Diagnosis, Finding
from resight.progress import Quiet
from resight.recipe.catalog import RECIPES
from resight.recipe.recipe import Recipe
from resight.reporting.live import LiveReport, _Handler
from resight.runs.checkpoints import read_checkpoint, serialized
from resight.runs.lr_test import LrTest
from resight.runs.manifest import MANIFEST, read_file, read_manifest
from resight.runs.run import Run, load_run
from resight.runs.schemas import check_rows
from resight.runs.seeds import SeedsPlan, SeedsResult, read_summary, write_summary
from resight.runs.weights import load_model, model_bytes
from run_folders import make_run
from states import assert_same

IMAGE_PX = 8  # of decoded images
ROWS = 4  # of a CIFAR batch
KEYS = (b"[train]", b"\n[optimizer]\n", b'name = "adam"', b"epochs = ", b"= inf", b"'''", b"1e-400")


def recipes(suffix: str) -> Callable[[Path], Reader]:
    def made(place: Path) -> Reader:
        path = place / f"recipe{suffix}"
        samples = [RECIPES[name]() for name in RECIPES]
        texts = [r.to_toml() for r in samples]
        if suffix == ".json":
            run = Run(place)
            for recipe in samples:
                run.write("recipe.json", recipe.to_dict())
                texts.append((place / "recipe.json").read_text(encoding="utf-8"))
            (place / MANIFEST).unlink()

        def read(content: bytes) -> str:
            path.write_bytes(content)
            recipe = Recipe.load(path)
            path.with_suffix(".toml").write_text(recipe.to_toml(), encoding="utf-8")
            assert Recipe.load(path.with_suffix(".toml")) == recipe
            assert Recipe.parse(recipe.to_dict()) == recipe
            return f"{recipe.model.net} {recipe.schedule.shape} {recipe.optimizer.name}"

        return Reader(tuple(text.encode() for text in texts), read, KEYS)

    return made


def trained(path: Path) -> Run:
    """A run whose LRs are known."""
    run = make_run(path, "cdco", changes={"train.ema": 0.5})
    schedule = {"lr_max": 0.0125, "lr_min": 0.001}
    run.write("resolved.json", run.resolved | {"found": schedule, "schedule": schedule})
    return run


def run_file(name: str, use: Callable[[Run], object]) -> Callable[[Path], Reader]:
    """A file of a run without a manifest."""

    def made(place: Path) -> Reader:
        run = trained(place / "run")
        lrs = np.geomspace(1e-5, 1, 60)
        test = LrTest(lrs, 2.3 - np.log10(lrs / 1e-5) / 4, "reached 1", 2.3)
        run.write("lr_test.json", test.to_dict())
        finding = Finding("not-learning", "problem", "it", "does", "not", "learn", "resight train")
        run.write("diagnosis.json", Diagnosis.of([finding], ["the images"]).to_dict())
        run.write("failure.json", {"message": "the loss became nan at step 7"})
        if name != MANIFEST:
            (run.path / MANIFEST).unlink()
        path = run.path / name
        sample = path.read_bytes()

        def read(content: bytes) -> object:
            path.write_bytes(content)
            return use(Run(run.path))

        return Reader((sample,), read, (b'"format": 9,', b"true", b"{}", b"[]", b"1.5", b'": '))

    return made


def whole(run: Run) -> str:
    """What is shown of a run, but for pictures."""
    _ = load_run(run.path).state, run.schedule, run.schedule_points(), run.repeat_command()
    assert isinstance(run._numbers_html() + run._findings_html(), str)
    return "a run"


def suggested(run: Run) -> str:
    assert run.lr_test is not None
    return f"{run.lr_test.suggestions()}"


def measured(run: Run) -> str:
    """The predictions of a run: their arrays have checksums, so that none is another."""
    found = run.predictions
    assert found.ids.tolist() == [f"test/{i}.png" for i in range(4)]
    assert found.logits.tolist() == [[1, 0, 0], [0, 2, 0], [3, 0, 0], [0, 0, 4]]
    assert found.predicted.tolist() == [0, 1, 0, 2]
    return found.headline


def listed(run: Run) -> str:
    files = read_manifest(run.path).files
    for name in files:
        with contextlib.suppress(FileNotFoundError):
            read_file(run.path / name)
    return "a manifest"


def seeds(place: Path) -> Reader:
    recipe = Recipe()
    plan = SeedsPlan(recipe, (0, 1), {"device": "auto"}, skip_bad=False, report=True)
    write_summary(place, plan, SeedsResult.of(place, (0, 1), {1: "the loss became nan"}))
    path = place / "seeds.json"
    sample = path.read_bytes()
    (place / MANIFEST).unlink()

    def read(content: bytes) -> str:
        path.write_bytes(content)
        plan, result, told = read_summary(place)
        _ = str(result), result.to_dict()
        return f"{type(plan).__name__} {told}"

    return Reader((sample,), read)


def checkpoint(place: Path) -> Reader:
    job = job_of(recipe_of())
    state = job.state.snapshot()
    path = place / "last.pt"
    known = {key: state[key] for key in ("model", "optimizer", "trace", "step", "history")}

    def read(content: bytes) -> str:
        path.write_bytes(content)
        saved = read_checkpoint(path)
        assert saved is not None
        if why := job.state.fault(saved, epochs=3):
            return why
        check_rows(saved["history"], path)
        assert_same({key: saved[key] for key in known}, known)  # it has checksums
        return "a checkpoint"

    return Reader((serialized(state),), read, (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6"))


def weights(place: Path) -> Reader:
    recipe = recipe_of()
    path = place / "model.safetensors"
    sample = model_bytes(job_of(recipe).state.model, recipe, make_data())

    def read(content: bytes) -> str:
        path.write_bytes(content)
        model = load_model(path)
        assert all(value.dtype == torch.float32 for value in model.parameters())
        return type(model).__name__

    return Reader(
        (sample,), read, (b'"F32"', b'"F64"', b'"shape":[', b"data_offsets", b'\\"', b"0,")
    )


def decoded(place: Path) -> Reader:
    """An entry of the cache: the first byte of an input says which of its files is replaced."""
    found = find(folder(place / "images"))
    listing = found.read(IMAGE_PX, 3, "crop")
    table = decode_table(listing, in_memory(listing))
    name = cache.entry_name(found.root, found.stamps, IMAGE_PX, 3)
    entry, copy = place / "whole" / name, place / "copy" / name
    entry.mkdir(parents=True)
    np.save(entry / "images.npy", table.images)
    cache._write(table, entry, name)
    files = sorted(entry.iterdir())
    samples = tuple(bytes([i]) + file.read_bytes() for i, file in enumerate(files))

    def read(content: bytes) -> str:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(entry, copy)
        (copy / files[(content or b"\0")[0] % len(files)].name).write_bytes(content[1:])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            read = cache.load(copy)
        if read is None:
            return str(said[0].message).replace(str(copy), "")
        for array in ("images", *cache.SMALL):
            np.testing.assert_array_equal(getattr(read, array), getattr(table, array))
        assert (read.classes, read.parts, read.bad) == (table.classes, table.parts, table.bad)
        return "an entry"

    return Reader(samples, read, (b"\x93NUMPY", b"'descr': '|O'", b"(1000000000, 8)", b'"bad": [['))


def batch_files() -> dict[str, dict[bytes, Any]]:
    """A CIFAR-10 of a few images."""
    files: dict[str, dict[bytes, Any]] = {}
    for number, file in enumerate((*CIFAR10.train, CIFAR10.test)):
        files[file] = {
            b"batch_label": file.encode(),
            b"labels": [(row + number) % 3 for row in range(ROWS)],
            b"data": np.arange(ROWS * 3072, dtype=np.uint8).reshape(ROWS, 3072) + number,
            b"filenames": [f"{file}_{row}.png".encode() for row in range(ROWS)],
        }
    files[CIFAR10.meta] = {b"label_names": [b"cat", b"dog", b"owl"], b"num_vis": 3072}
    return files


def decoded_table(found: Found | None) -> Table:
    """All images of a source; every label is that of a class."""
    assert found is not None
    listing = found.read(32, None, "crop")
    table = decode_table(listing, in_memory(listing))
    assert table.images.shape == listing.shape
    assert len(table.labels) == len(table.ids) == sum(rows for _, rows in table.parts)
    assert table.labels.min() >= 0
    assert table.labels.max() < len(table.classes)
    return table


def batches(place: Path) -> Reader:
    """A folder of pickles: the first byte of an input says which of its files is replaced."""
    here = place / CIFAR10.folder
    here.mkdir()
    files = batch_files()
    names = (CIFAR10.train[0], CIFAR10.test, CIFAR10.meta)
    for name, values in files.items():
        (here / name).write_bytes(pickle.dumps(values, protocol=2))
    samples = [
        bytes([i]) + pickle.dumps(files[name], protocol=protocol)
        for i, name in enumerate(names)
        for protocol in (2, 4, 5)
    ]

    def read(content: bytes) -> str:
        name = names[(content or b"\0")[0] % len(names)]
        (here / name).write_bytes(content[1:])
        try:
            table = decoded_table(cifar.find(here))
        finally:
            (here / name).write_bytes(pickle.dumps(files[name], protocol=2))
        return f"{len(table.labels)} images of {len(table.classes)} classes"

    words = (b"cnumpy\nndarray\n", b"cos\nsystem\n", b"(S'true'\ntR.", b"r\xff\xff\xff\x7f")
    words += (b"\x8e\xff\xff\xff\xff\0\0\0\0", b"h\1", b"\x94", b"(l", b"}(", b"u.", b"\x81", b"b.")
    return Reader(tuple(samples), read, words)


def archive(place: Path) -> Reader:
    """Both kinds of archives; a compressed one has a checksum, so that none of its bytes is
    another."""
    files = {name: pickle.dumps(values) for name, values in batch_files().items()}
    samples = []
    for mode in ("w", "w:gz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
            for name, content in files.items():
                member = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        samples.append(buffer.getvalue())
    path = place / CIFAR10.archive

    def read(content: bytes) -> str:
        path.write_bytes(content)
        found = dict(cifar.members(path, CIFAR10))
        assert found.keys() == files.keys()
        if content[:2] == b"\x1f\x8b":
            assert found == files
        return "an archive"

    return Reader(tuple(samples), read, (b"ustar\0", b"L", b"1", b"2", b"5", b"77777777777\0"))


def images(place: Path) -> Reader:
    """Image files of every format that is read."""
    photo = noise(1, 12)[0][:, :9]
    rgb, rgba = Image.fromarray(photo), Image.fromarray(np.dstack([photo, photo[:, :, 0]]))
    grey, deep = rgb.convert("L"), Image.fromarray(photo[:, :, 0].astype(np.uint16) * 257)
    palette = rgb.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "PNG", {}),
        (rgba, "PNG", {}),
        (palette, "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (rgb, "JPEG", {"exif": exif}),
        (grey, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "BMP", {}),
        (palette, "BMP", {}),
        (palette, "GIF", {"save_all": True, "append_images": [palette], "duration": 9}),
        (rgba, "WEBP", {"lossless": True}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb]}),
        *((rgb, "TIFF", {"compression": kind}) for kind in (None, "tiff_lzw", "jpeg", "packbits")),
        (deep, "TIFF", {"compression": "tiff_deflate"}),
        (rgb, "PPM", {}),
        (grey, "PPM", {}),
    ]
    if "AVIF" in FORMATS:
        kinds += [(rgb, "AVIF", {}), (rgba, "AVIF", {"quality": 40})]
    samples = [_saved(image, kind, options) for image, kind, options in kinds]
    samples.append(b"P3\n2 1\n255\n1 2 3 4 5 6\n")
    path, ways = place / "image", itertools.cycle(("crop", "pad", "squash"))

    def read(content: bytes) -> str:
        path.write_bytes(content)
        out = np.full((1, IMAGE_PX, IMAGE_PX, 3), 7, dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header, grey = read_header(str(path)), is_grey(str(path))
            bad = decode_rows([str(path)], 0, out, next(ways))  # type: ignore[arg-type]
        assert isinstance(grey, bool)
        if bad:
            assert bad.keys() == {0}
            assert bad[0].strip()
            assert "\n" not in bad[0]
            assert not out.any()
            return bad[0]
        assert header is not None
        return f"{header.format} {header.mode}"

    words = (b"IHDR", b"IDAT", b"tRNS", b"acTL", b"II*\0", b"Exif\0\0", b"\xff\xd8", b"\xff\xda")
    return Reader(tuple(samples), read, (*words, b"VP8X", b"ftypavif", b"meta", b"99999 99999"))


def _saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **{key: value for key, value in options.items() if value is not None})
    return buffer.getvalue()


class _Connection:
    """A client that has sent all it will."""

    def __init__(self, sent: bytes) -> None:
        self._sent, self.answer = sent, b""

    def settimeout(self, seconds: float) -> None:
        pass

    def makefile(self, mode: str, buffering: int) -> io.BytesIO:
        return io.BytesIO(self._sent)

    def sendall(self, content: bytes) -> None:
        self.answer += content


def requests(place: Path) -> Reader:
    """What a client may send to `--live`."""
    live = LiveReport(trained(place / "run"), Quiet())

    class Handler(_Handler):
        report = live

    host = b"Host: 127.0.0.1:8321\r\n"
    samples = [
        b"GET / HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /facts.json HTTP/1.0\r\nAccept: */*\r\n" + host + b"\r\n",
        b"GET /index.html\r\n",
        b"HEAD / HTTP/1.1\r\n" + host + b"\r\n",
        b"POST /facts.json HTTP/1.1\r\n" + host + b"Content-Length: 3\r\n\r\nabc",
        b"GET /../recipe.json HTTP/1.1\r\nHost: example.org\r\n\r\n",
    ]

    def read(content: bytes) -> str:
        client: Any = _Connection(content)
        Handler(client, ("127.0.0.1", 9), SimpleNamespace(server_port=8321))  # type: ignore[arg-type]
        first = client.answer.partition(b"\r\n")[0].decode("latin-1")
        if client.answer[:1] in (b"<", b"{"):  # of HTTP 0.9, which has no headers
            return "a page"
        assert not client.answer or first.startswith("HTTP/1.")
        if " 200 " in first:
            assert b"127.0.0.1:8321" in content or b"localhost:8321" in content
            assert b"Content-Security-Policy: default-src 'none'" in client.answer
        return first

    words = (
        b"HTTP/1.1",
        b"HTTP/9.9",
        b"\r\n\r\n",
        b"Expect: 100-continue\r\n",
        host,
        b"localhost:8321",
    )
    return Reader(tuple(samples), read, (*words, b"Connection: keep-alive\r\n", b"/", b"?", b"%00"))


READERS: dict[str, Callable[[Path], Reader]] = {
    "recipe-toml": recipes(".toml"),
    "recipe-json": recipes(".json"),
    "run-recipe": run_file("recipe.json", whole),
    "run-resolved": run_file("resolved.json", whole),
    "run-environment": run_file("environment.json", whole),
    "run-result": run_file("result.json", whole),
    "run-metrics": run_file("metrics.jsonl", whole),
    "run-diagnosis": run_file("diagnosis.json", whole),
    "run-failure": run_file("failure.json", lambda run: run.failure),
    "run-lr-test": run_file("lr_test.json", suggested),
    "run-predictions": run_file("predictions.npz", measured),
    "run-manifest": run_file(MANIFEST, listed),
    "seeds": seeds,
    "checkpoint": checkpoint,
    "weights": weights,
    "cache": decoded,
    "cifar": batches,
    "archive": archive,
    "images": images,
    "live": requests,
}
