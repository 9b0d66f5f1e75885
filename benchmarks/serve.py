"""What `resight serve` answers in a second, and how long an answer takes, at 1, 8 and 64 clients.

    python benchmarks/serve.py RUN [--clients 1 8 64] [--seconds 10] [--onnx FILE] [--json FILE]

A server in a process of its own; clients in this one, each sends an image (the run's first example,
else noise in the net's size) as soon as its last one is answered. Beside it, in turns, the net
alone: as many decoded images at a time as there are clients, without server or decoding. --onnx:
the same of onnxruntime, for a file of `resight export`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.errors import ResightError
from resight.runs.predictor import Predictor
from resight.runs.run import load_run
from workload import describe

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/predict")
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Load:
    """seconds: of each request or pass; wall: of all together; images: of each."""

    seconds: list[float]
    wall: float
    images: int = 1

    @property
    def per_second(self) -> float:
        return self.images * len(self.seconds) / self.wall

    def ms(self, percent: float) -> float:
        return 1000 * float(np.percentile(self.seconds, percent))

    def to_dict(self) -> dict[str, float]:
        return {
            "per_second": self.per_second,
            "p50_ms": self.ms(50),
            "p99_ms": self.ms(99),
            "n": len(self.seconds),
        }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=whole_number, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--onnx", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    predictor = load_run(options.run).predictor()
    alone = {"the net alone": predictor.logits}
    if options.onnx is not None:
        alone["onnxruntime alone"] = onnx_logits(options.onnx)
    rows: list[dict[str, Any]] = []
    with serving(options.run) as port:
        content = example(port, predictor)
        image = predictor.pixels(io.BytesIO(content))[None]
        decoding = repeated(lambda: predictor.pixels(io.BytesIO(content)), options.seconds / 10)
        for clients in options.clients:
            loads = {"the server": asyncio.run(asked(port, content, clients, options.seconds))}
            for name, logits in alone.items():
                images = np.repeat(image, clients, axis=0)
                loads[name] = repeated(
                    lambda logits=logits, images=images: logits(images), options.seconds, clients
                )
            rows += [
                {"clients": clients, "what": name, **load.to_dict()} for name, load in loads.items()
            ]
    about = describe(predictor.runtime)
    print(
        f"{about['device_name']}, {about['precision']}, torch {about['torch']}, "
        f"{options.seconds:g} s each, an image of {len(content):,} bytes (decoded in "
        f"{decoding.ms(50):.1f} ms)"
    )
    print_table(
        ("clients, or images at a time", "images/s", "p50 ms", "p99 ms", "n"),
        [
            (
                f"{row['clients']:>2}  {row['what']}",
                f"{row['per_second']:.1f}",
                f"{row['p50_ms']:.1f}",
                f"{row['p99_ms']:.1f}",
                f"{row['n']}",
            )
            for row in rows
        ],
    )
    figures = {"bytes": len(content), "decode_ms": decoding.ms(50), "loads": rows}
    write_figures(options.json, {"benchmark": "serve", **about, **figures})


@contextlib.contextmanager
def serving(run: Path) -> Iterator[int]:
    """A server's port, once it has looked at the training images too."""
    command = [sys.executable, "-u", "-m", "resight", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, map(ADDRESS.search, process.stdout)), None)
            if found is None:
                raise ResightError(f"{run} could not be served")
            port = int(found[1])
            while b'"nearest":false' in get(port, "/health") and get(port, "/examples/0"):
                time.sleep(0.5)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)


def get(port: int, path: str) -> bytes:
    """What is there; nothing for an error."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
        return content if response.status == 200 else b""


def example(port: int, predictor: Predictor) -> bytes:
    if content := get(port, "/examples/0"):
        return content
    shape = (predictor.image_size, predictor.image_size, 3)
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def repeated(work: Callable[[], object], seconds: float, images: int = 1) -> Load:
    """`work` again and again for `seconds`, after once untimed."""
    work()
    took: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds or not took:
        work()
        took.append(time.perf_counter() - now)
    return Load(took, time.perf_counter() - began, images)


async def asked(port: int, content: bytes, clients: int, seconds: float) -> Load:
    """Clients that ask for `seconds`, each on a connection of its own, after once untimed."""
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
    request = head.encode() + content
    took: list[float] = []
    warm = asyncio.Barrier(clients)
    until = 0.0

    async def client() -> None:
        nonlocal until
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await answer(reader, writer, request)
        await warm.wait()
        until = until or time.perf_counter() + seconds
        while (now := time.perf_counter()) < until:
            await answer(reader, writer, request)
            took.append(time.perf_counter() - now)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(took, time.perf_counter() - until + seconds)


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> dict[str, Any]:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(re.findall(r"content-length: (\d+)", head)[0])
    body: dict[str, Any] = json.loads(await reader.readexactly(length))
    if not head.startswith("HTTP/1.1 200"):
        raise ResightError(f"the server answers {body['error']}")
    return body


def onnx_logits(path: Path) -> Callable[[Images], object]:
    """A session as a function of uint8 (N, H, W, C)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (entry,) = session.get_inputs()
    first = entry.shape[1] in (1, 3)  # (N, C, H, W)
    return lambda images: session.run(
        None, {entry.name: images.transpose(0, 3, 1, 2) if first else images}
    )


if __name__ == "__main__":
    main()
