"""A served run: what it answers, what it shows, what it keeps to itself, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resight
from helpers import TESTS
from resight.data.decode import decode_file
from resight.errors import ResightError
from resight.look.cam import grad_cam
from resight.serving import limits, uploads
from resight.serving.guard import HEADERS
from resight.serving.neighbours import features
from resight.serving.serve import address_of, is_local, listen
from resight.serving.served import report_of
from servers import CLASSES, SIDE, Running, ask, form, png, running


@pytest.fixture(scope="module")
def here(run: resight.Run) -> Iterator[Running]:
    with running(run) as server:
        yield server


def photos(run: resight.Run) -> list[Path]:
    return sorted((run.path.parent / "photos" / "test").rglob("*.png"))


# predictions


def test_each_answer_is_what_run_predict_says(here: Running, run: resight.Run) -> None:
    assert run.temperature is not None
    for path in photos(run)[:4]:
        (mine,) = run.predict([path]).rows(2)
        body, headers = form((path.name, path.read_bytes()))
        (row,) = here.ask("/predict?top=2", body, headers).json["predictions"]
        assert row == {**mine, "id": path.name}
        assert here.ask("/predict?top=2", path.read_bytes()).json["predictions"] == [
            {**row, "id": "image"}
        ]


def test_images_that_come_together_are_answered_in_their_order(
    here: Running, run: resight.Run
) -> None:
    paths = photos(run)
    body, headers = form(*[(path.name, path.read_bytes()) for path in paths])
    rows = here.ask("/predict?top=3", body, headers).json["predictions"]
    assert [row["id"] for row in rows] == [path.name for path in paths]
    with ThreadPoolExecutor(len(paths)) as pool:
        alone = list(pool.map(lambda path: here.ask("/predict?top=3", path.read_bytes()), paths))
    for row, answer, mine in zip(rows, alone, run.predict(paths).rows(3), strict=True):
        (other,) = answer.json["predictions"]
        assert row["predicted"] == other["predicted"] == mine["predicted"]
        for one in (row, other):  # a batch of another size rounds differently at most
            np.testing.assert_allclose(
                [part["probability"] for part in one["top"]],
                [part["probability"] for part in mine["top"]],
                rtol=1e-5,
            )


def test_a_file_that_can_t_be_read_is_named_in_its_place(here: Running) -> None:
    body, headers = form(("a.png", png()), ("../b\\c.txt", b"no image"), ("", png(seed=1)))
    first, bad, third = here.ask("/predict", body, headers).json["predictions"]
    assert bad == {"id": "c.txt", "error": "not an image"}
    assert (first["id"], third["id"]) == ("a.png", "image")
    assert len(first["top"]) == len(CLASSES)  # all there are


@pytest.mark.parametrize(
    ("body", "headers", "status", "why"),
    [
        (b"no image", {"Content-Type": "image/png"}, 415, "image: not an image"),
        (b"", {}, 400, "no image: send one as the body"),
        (form()[0], form()[1], 400, "no image: send one as the body"),
        (b"--edge\r\n", form()[1], 400, ""),  # cut off
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "Missing boundary"),
        (*form(*[("a.png", b"x")] * 33), 400, "Too many files"),
        (png(format="JPEG")[:300], {}, 415, "Truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 415, "not an image"),
    ],
    ids=["text", "empty", "no files", "cut off", "no boundary", "many", "truncated", "eps"],
)
def test_what_is_no_image_is_refused(
    here: Running, body: bytes, headers: dict[str, str], status: int, why: str
) -> None:
    answer = here.ask("/predict", body, headers)
    assert answer.status == status, answer.body
    assert why in answer.error


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_refused(here: Running) -> None:
    header = b"P6 12000 9000 255\n"
    answer = here.ask("/predict", header + b"\0" * 100)
    assert answer.status == 415
    assert "12000x9000 pixels, more than the limit" in answer.error


def test_the_declared_type_does_not_matter(here: Running) -> None:
    for kind in ("text/html", "image/svg+xml", "application/x-www-form-urlencoded"):
        assert here.ask("/predict", png(), {"Content-Type": kind}).status == 200


@pytest.mark.parametrize("query", ["top=0", "top=x", "top="])
def test_top_is_checked(here: Running, query: str) -> None:
    answer = here.ask(f"/predict?{query}", png())
    assert answer.status == 422
    assert answer.error.startswith("top: ")


# maps and neighbours


def test_a_map_is_grad_cam_s_over_the_square_that_the_net_sees(
    here: Running, run: resight.Run
) -> None:
    net = run.predictor()
    content = png(50, 30)
    pixels = decode_file(io.BytesIO(content), SIDE, 3)[None]
    best = here.ask("/explain", content).json
    logits = net.logits(pixels)[0]
    assert best["class"] == net.classes[logits.argmax()]
    assert (best["size"], best["square"]) == ([50, 30], [10, 0, 40, 30])
    for label, name in enumerate(CLASSES):
        quoted = {"<b>dog": "%3Cb%3Edog"}.get(name, name)
        found = here.ask(f"/explain?class={quoted}", content).json
        k = net.classes.index(name)
        maps = grad_cam(net.model, net.normalized(pixels), torch.tensor([k]))
        np.testing.assert_allclose(found["map"], maps.maps[0].numpy(), atol=6e-5)
        assert found["empty"] == bool(maps.empty[0])
        assert found["class"] == name, label
        assert found["layer"] == maps.layer
        expected = run.predict([io.BytesIO(content)]).probabilities[0, k]
        assert found["probability"] == pytest.approx(float(expected), rel=1e-5)
    shown = found["seen"].partition(",")[2]
    assert shown


def test_a_photo_that_lies_on_its_side_is_measured_upright(here: Running) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = here.ask("/explain", png(50, 30, format="JPEG", exif=exif)).json
    assert (found["size"], found["square"]) == ([30, 50], [0, 10, 30, 40])


def test_a_class_that_is_not_there_is_refused(here: Running) -> None:
    answer = here.ask("/explain?class=cats", png())
    assert (answer.status, answer.error) == (422, "unknown class 'cats'; did you mean 'cat'?")
    body, headers = form(("a.png", png()), ("b.png", png()))
    assert here.ask("/explain", body, headers).error == "one image at a time"


def test_the_nearest_training_image_of_one_is_itself(here: Running, run: resight.Run) -> None:
    here.wait_for_neighbours()
    assert here.ask("/health").json == {"status": "ok", "nearest": True}
    train = run.images().train
    path = run.path.parent / "photos" / str(train.ids[3])
    found = here.ask("/nearest", path.read_bytes()).json
    assert found["nearest"][0]["id"] == str(train.ids[3])
    assert found["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert found["compared"] == found["of"] == len(train)
    assert found["sheet"]["count"] == 6

    known = features(run.predictor(), train.images)
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1, rtol=1e-5)
    cosines = known @ known[3]
    wanted = np.sort(cosines)[::-1][:6]
    said = [one["similarity"] for one in found["nearest"]]
    np.testing.assert_allclose(said, wanted, atol=2e-4)


# what is known of the net, and the pages


def test_the_model_says_what_it_is_and_not_where(here: Running, run: resight.Run) -> None:
    model = here.ask("/model").json
    assert model["classes"] == list(run.predictor().classes)
    assert model["test_accuracy"] == run.result["test_accuracy"]
    assert model["test_accuracy_95"] == run.result["test_accuracy_95"]
    assert (model["image_size"], model["fit"]) == (SIDE, "crop")
    assert model["temperature"] == run.temperature
    assert (model["recipe"], model["resight"]) == (run.recipe.name, resight.__version__)


def test_each_operation_is_described(here: Running) -> None:
    described = here.ask("/openapi.json")
    paths = json.loads(described.body)["paths"]
    assert {path: [*methods] for path, methods in paths.items()} == {
        "/health": ["get"],
        "/model": ["get"],
        "/predict": ["post"],
        "/explain": ["post"],
        "/nearest": ["post"],
    }
    assert "multipart/form-data" in paths["/predict"]["post"]["requestBody"]["content"]
    assert here.ask("/docs").status == 200


def test_examples_are_the_files_that_were_measured(here: Running, run: resight.Run) -> None:
    examples = here.served.examples
    assert len(examples) == 8
    assert {one.class_name for one in examples} == set(CLASSES)
    data = run.images()
    for i, one in enumerate(examples):
        answer = here.ask(f"/examples/{i}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.body == (run.path.parent / "photos" / one.id).read_bytes()
        row = data.test.ids.tolist().index(one.id)
        np.testing.assert_array_equal(one.pixels, data.test.images[row])
    assert here.ask("/examples/8").status == 404


def test_an_example_whose_file_has_changed_is_shown_as_it_was(
    run: resight.Run, tmp_path: Path
) -> None:
    from resight.serving.examples import examples_of

    data = run.images()
    first = examples_of(data, "crop")[0]
    path = run.path.parent / "photos" / first.id
    before = path.read_bytes()
    try:
        path.write_bytes(png())
        changed = examples_of(data, "crop")[0]
    finally:
        path.write_bytes(before)
    assert changed.content != png()
    pixels = decode_file(io.BytesIO(changed.content), SIDE, 3)
    np.testing.assert_array_equal(pixels, first.pixels)


def test_without_its_images_a_run_is_served_all_the_same(run: resight.Run, tmp_path: Path) -> None:
    photos = run.path.parent / "photos"
    moved = photos.rename(tmp_path / "moved")
    try:
        with running(run) as server:
            assert "(if the images have moved: --data)" in server.served.missing
            assert server.ask("/predict", png()).status == 200
            assert server.ask("/nearest", png()).status == 404
            assert server.ask("/examples/0").status == 404
            assert str(tmp_path) not in server.ask("/").body.decode()
        with running(run, data=moved) as server:
            assert len(server.served.examples) == 8
    finally:
        moved.rename(photos)


# security


def test_every_answer_forbids_what_no_answer_needs(here: Running) -> None:
    answers = [
        *(here.ask(path) for path in ("/", "/docs", "/health", "/report/", "/openapi.json")),
        *(here.ask(path) for path in ("/none", "/examples/0", "/predict")),
        here.ask("/predict", b"no image"),
        here.ask("/health", None, {"Host": "evil.example"}),
    ]
    assert [answer.status for answer in answers[-4:]] == [200, 405, 415, 403]
    for answer in answers:
        for name, value in HEADERS.items():
            if name != "Content-Security-Policy":
                assert answer.headers[name.lower()] == value
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/../run/result.json",
        "/report/../result.json",
        "/report/..%2fresult.json",
        "/report/%2e%2e/result.json",
        "/report/README.md",
        "/report/images/curves.png",
        "/report//etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/examples/..",
        "/examples/../result.json",
        "/examples/-1",
        "/static/style.css",
        "/redoc",
        "/%00",
    ],
)
def test_no_file_of_the_machine_is_reached(here: Running, path: str) -> None:
    answer = here.ask(path)
    assert answer.status == 404
    assert "not" in answer.error.lower()


def test_the_report_has_an_origin_of_its_own(here: Running, run: resight.Run) -> None:
    answer = here.ask("/report/")
    assert answer.body == (run.path / "report" / "index.html").read_bytes()
    assert answer.headers["content-security-policy"].endswith("sandbox allow-scripts")
    assert "sha256-" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("kind", ["file", "folder", "none", "pipe"])
def test_a_report_that_leads_elsewhere_is_not_served(
    kind: str, here: Running, run: resight.Run, tmp_path: Path
) -> None:
    def served(run: resight.Run, *, shows: bool = True) -> Any:
        return dataclasses.replace(here.served, run=run, shows_report=shows)

    assert report_of(served(run)) == run.path / "report" / "index.html"
    assert report_of(served(run, shows=False)) is None
    (tmp_path / "run").mkdir()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "index.html").write_text("secret")
    report = tmp_path / "run" / "report"
    if kind == "folder":
        report.symlink_to(secret)
    elif kind != "none":
        report.mkdir()
        if kind == "file":
            (report / "index.html").symlink_to(secret / "index.html")
        else:
            os.mkfifo(report / "index.html")
    assert report_of(served(resight.Run(tmp_path / "run"))) is None


def test_no_answer_says_where_things_are(here: Running, run: resight.Run) -> None:
    here.wait_for_neighbours()
    image = png()
    asked = [here.ask(path) for path in ("/", "/docs", "/health", "/model", "/openapi.json", "/x")]
    asked += [here.ask(path, image) for path in ("/predict", "/explain", "/nearest")]
    asked += [here.ask("/predict", b"x"), here.ask("/explain?class=x", image)]
    for answer in asked:
        assert str(run.path.parent) not in answer.body.decode()
        assert str(Path.home()) not in answer.body.decode()


def test_what_is_no_http_is_refused_in_a_line(here: Running) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=60) as client:
        client.sendall(b"GARBAGE\r\n\r\n")
        said = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"nosniff" in head
    assert json.loads(body) == {"error": "not a request that HTTP/1.1 knows"}


def test_who_says_nothing_is_cut_off(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.05)
    for said in (b"", b"GET / HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", here.port), timeout=60) as client:
            client.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""


def test_an_answer_that_takes_too_long_is_given_up(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.05)
    gate = threading.Event()
    here.served.batcher.work(gate.wait)
    try:
        with pytest.raises(ConnectionError):
            here.ask("/predict", png())
    finally:
        gate.set()
    monkeypatch.undo()
    assert here.ask("/predict", png()).status == 200


def test_a_request_may_take_longer_than_a_client_may_be_silent(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, gate = threading.Event(), threading.Event()
    real = here.served.batcher._logits

    def slow(images: Any) -> Any:
        entered.set()
        assert gate.wait(60)
        return real(images)

    monkeypatch.setattr(here.served.batcher, "_logits", slow)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(here.ask, "/predict", png())
        assert entered.wait(60)
        there = list(here.server.server_state.connections)
        left = [one._patience.when() - one.loop.time() for one in there]
        gate.set()
        assert answer.result(60).status == 200
    assert limits.HEAD_SECONDS < max(left) <= limits.ANSWER_SECONDS


def test_a_large_image_waits_for_another_large_one_alone(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LARGE_PIXELS", 500 * 500 - 1)
    with ThreadPoolExecutor(1) as pool:
        with here.served.one_large:
            large = pool.submit(here.ask, "/predict", png(500, 500))
            assert here.ask("/predict", png(500, 499)).status == 200
            assert not large.done()
        assert large.result(60).status == 200


def test_connections_beyond_the_limit_are_told_so(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=60) as idle:
        here.ask("/health")  # so that the idle one has been taken
        here.wait_until(lambda: len(here.server.server_state.connections) == 1)
        monkeypatch.setattr(limits, "MAX_CONNECTIONS", 1)
        answer = here.ask("/health")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "connections are open" in answer.error
        monkeypatch.undo()
        here.wait_until(lambda: len(here.server.server_state.connections) == 1)
        assert here.ask("/health").status == 200
        assert idle


def test_answers_do_not_wait_for_the_client_s_receipt(here: Running) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=60):
        here.ask("/health")  # so that the other one has been taken
        for one in here.server.server_state.connections:
            taken = one.transport.get_extra_info("socket")
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_chunked_body_is_counted(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.ask("/predict", [png()]).status == 200
    monkeypatch.setattr(limits, "MAX_BYTES", 1000)
    assert here.ask("/predict", [b"x" * 600, b"x" * 600]).status == 413
    assert here.ask("/predict", b"x" * 1001).status == 413


# where it listens, and how it ends


def test_a_running_request_is_answered_before_the_end(run: resight.Run) -> None:
    entered, gate = threading.Event(), threading.Event()
    with running(run) as server, ThreadPoolExecutor(1) as pool:
        real = server.served.batcher._logits

        def slow(images: Any) -> Any:
            entered.set()
            assert gate.wait(60)
            return real(images)

        server.served.batcher._logits = slow
        answer = pool.submit(server.ask, "/predict", png())
        assert entered.wait(60)
        server.server.handle_exit(signal.SIGTERM, None)
        gate.set()
        assert answer.result(60).status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_without_an_error(run: resight.Run, number: int) -> None:
    command = [sys.executable, "-u", "-m", "resight", "serve", str(run.path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("call"):
                    break
            found = re.search(r"curl -F file=@photo.jpg http://127.0.0.1:(\d+)/predict", said[-1])
            assert found, said
            assert ask(int(found[1]), "/predict", png()).status == 200
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert errors == ""
    assert said[0].startswith(f"serving {run.recipe.name} on photos, 3 classes, test accuracy ")


def test_a_port_in_use_is_said_in_a_line() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        assert address_of("127.0.0.1", first) == f"http://127.0.0.1:{port}/"
        assert address_of("0.0.0.0", first) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ResightError, match=f"port {port} is in use: give another with --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("127.0.0.1", 65536, "from 1 to 65535"),
        ("127.0.0.1", -1, "from 1 to 65535"),
        ("203.0.113.7", 0, "no address of this machine"),
        ("no such host", 0, "no address of this machine"),
    ],
)
def test_where_it_can_t_listen_is_said(host: str, port: int, why: str) -> None:
    with pytest.raises(ResightError, match=why):
        listen(host, port)


def test_which_hosts_are_this_machine_s_alone() -> None:
    hosts = ("127.0.0.1", "127.8.9.1", "::1", "localhost", "0.0.0.0", "192.168.1.7", "box")
    assert [host for host in hosts if is_local(host)] == list(hosts[:4])


def test_other_machines_see_no_report(run: resight.Run) -> None:
    with running(run, report=False) as server:
        assert server.ask("/report/").error == "no report is served"


def test_a_missing_extra_is_named(run: resight.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resight.extras.find_spec", lambda name: None)
    with pytest.raises(
        ResightError, match=r"resight serve: fastapi, .* missing; pip install 'resight\[serve\]'"
    ):
        resight.serve(run)


def test_a_run_that_has_not_finished_is_not_served(tmp_path: Path, run: resight.Run) -> None:
    for name in ("recipe.json", "resolved.json", "manifest.json"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    with pytest.raises(ResightError, match="has not finished"):
        resight.serve(tmp_path, port=0)
