"""The report of a run: its facts, its files, the command that repeats it, and the live page."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import resight
from helpers import folder, make_data
from resight.data.types import ImageData
from resight.diagnosis.diagnose import evidence_of
from resight.engine.job import prepare
from resight.engine.runtime import Runtime
from resight.errors import ResightError, ResightWarning
from resight.findings import Finding
from resight.look.cam import grad_cam
from resight.look.open_run import OpenRun, open_run
from resight.progress import Quiet, StepInfo
from resight.recipe.overrides import changed
from resight.recipe.recipe import Recipe
from resight.render import tiles
from resight.render.sprites import cells
from resight.reporting import live as live_server
from resight.reporting import readme
from resight.reporting.facts import base_facts, run_facts
from resight.reporting.gallery import collect
from resight.reporting.live import MAX_CLIENTS, serve
from resight.reporting.report import report
from resight.training import train as training
from resight.training.interrupt import Interrupted
from run_folders import resolved
from trainings import unequal

DATA = make_data(120, n_test=60, val=30)
RECIPE = Recipe().with_changes(
    {
        "model.width": 8,
        "data.image_size": 8,
        "augment.crop_pad_px": 1,
        "augment.cutout_px": 2,
        "train.batch_size": 32,
        "schedule.epochs": 2,
        "schedule.peak_epoch": 1.0,
        "schedule.lr_max": 0.01,
        "schedule.lr_min": 0.001,
    }
)


def train(out: Path, **options: Any) -> resight.Run:
    options = {"reporter": Quiet(), "precision": "fp32", "report": False, **options}
    return resight.train(RECIPE, DATA, out=out, **options)


def opened(run: resight.Run, data: ImageData = DATA) -> OpenRun:
    return OpenRun(run, data, Runtime.choose("cpu", "fp32"))


def embedded(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)
    assert match
    facts = json.loads(match[1], parse_constant=lambda name: pytest.fail(f"{name} in the facts"))
    assert isinstance(facts, dict)
    return facts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> resight.Run:
    return train(tmp_path_factory.mktemp("runs") / "one", report=True)


# files


def test_a_training_ends_with_a_page_and_a_readme(run: resight.Run) -> None:
    page = (run.path / "report" / "index.html").read_text("utf-8")
    facts = embedded(page)
    assert facts["headline"]["accuracy"] == run.result["test_accuracy"]
    assert facts["diagnosed"]
    assert facts["live"] is None
    assert len(facts["metrics"]) == 2
    assert facts["summary"]["total_params"] == run.result["parameters"]
    assert np.array(facts["confusion"]).sum() == 60
    readme = (run.path / "report" / "README.md").read_text("utf-8")
    assert f"```\n{facts['summary']['text']}\n```" in readme
    pictures = re.findall(r"\]\(([^)]+\.png)\)", readme)
    assert pictures
    assert all((run.path / "report" / name).is_file() for name in pictures)


def test_no_report_leaves_none_but_looks_for_problems(out: Path) -> None:
    run = train(out)
    assert not (out / "report").exists()
    assert run.diagnosis is not None


def test_an_unfinished_run_gets_a_report_of_what_there_is(out: Path) -> None:
    class Stop(Quiet):
        def epoch(self, row: dict[str, Any], epochs: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(out, reporter=Stop())
    page = report(out, DATA, reporter=Quiet())
    facts = embedded(page.read_text("utf-8"))
    assert facts["headline"]["accuracy"] is None
    assert facts["gallery"] is None
    assert len(facts["metrics"]) == 1
    assert facts["augmented"]["sheet"]["count"] == 40


def test_a_report_without_its_images_says_so(run: resight.Run) -> None:
    shutil.rmtree(run.path / "report", ignore_errors=True)  # one with pictures would stay
    facts = embedded(report(run, reporter=Quiet()).read_text("utf-8"))
    assert facts["gallery"] is None
    assert any("images" in note for note in facts["notes"])
    assert facts["confusion"] is not None


def test_a_report_that_fails_does_not_fail_the_training(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(training, "write_report", broken)
    with pytest.warns(ResightWarning, match=r"could not be written \(OSError: no space left\)"):
        run = train(out, report=True)
    assert run.finished


def test_why_a_report_fails_is_said_as_it_is_where_the_user_can_mend_it(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ResightError("a file is damaged: restore it")

    monkeypatch.setattr(training, "write_report", broken)
    with pytest.warns(ResightWarning, match="could not be written: a file is damaged: restore it$"):
        train(out, report=True)


def test_a_report_from_before_the_end_is_not_the_runs(out: Path) -> None:
    run = train(out)
    assert run.report_page is None
    page = report(run, reporter=Quiet())
    assert run.report_page == page
    assert run.done(report=True)
    last = (run.path / "metrics.jsonl").stat().st_mtime_ns
    os.utime(page, ns=(last, last - 1))
    assert run.report_page is None
    assert run.done(report=False)
    assert not run.done(report=True)


def test_ctrl_c_while_the_report_is_made_leaves_a_complete_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(opened: Any, progress: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        progress(1, 2)

    monkeypatch.setattr(training, "collect", interrupted)
    with pytest.raises(Interrupted, match="the run is complete, its report is not"):
        train(out, report=True)
    assert resight.load_run(out).finished


# facts


def test_facts_are_plain_json_values_without_nan(run: resight.Run) -> None:
    made = opened(run)
    diagnosis = run.diagnosis
    assert diagnosis is not None
    facts = run_facts(made, diagnosis, collect(made, lambda done, total: None))
    json.dumps(facts, allow_nan=False)
    assert facts.keys() == base_facts(run).keys()


def test_the_validation_split_calibrates(run: resight.Run) -> None:
    made = opened(run)
    diagnosis = run.diagnosis
    assert diagnosis is not None
    fitted = run_facts(made, diagnosis, None)["calibration"]["temperature"]
    assert fitted["split"] == "val"
    assert fitted["value"] > 0


def test_maps_of_the_page_are_those_of_grad_cam(run: resight.Run) -> None:
    made = opened(run)
    gallery = collect(made, lambda done, total: None)
    assert gallery is not None
    diagnosis = run.diagnosis
    assert diagnosis is not None
    maps = run_facts(made, diagnosis, gallery)["gallery"]["maps"]
    shape = (len(gallery.rows), maps["height"], maps["width"])
    for which, classes in (("predicted", gallery.predicted), ("true", gallery.true)):
        cells = np.frombuffer(base64.b64decode(maps[which]), np.uint8).reshape(shape)
        expected = grad_cam(
            run.model(), made.normalized(gallery.images), torch.from_numpy(classes)
        ).maps.numpy()
        assert np.abs(cells / 255 - expected).max() <= 0.5 / 255 + 1e-4


def test_the_maps_may_be_of_another_layer_and_method(run: resight.Run) -> None:
    made = opened(run)
    gallery = collect(made, lambda done, total: None, layer="res2", method="hirescam")
    assert gallery is not None
    assert gallery.maps is not None
    assert (gallery.maps.layer, gallery.maps.method) == ("res2", "hirescam")
    with pytest.raises(ResightError, match=r"choose from res1 \(4×4\)"):
        collect(made, lambda done, total: None, layer="layer9")


def test_augmented_samples_are_what_the_first_step_trained_on(run: resight.Run) -> None:
    job = prepare(RECIPE, DATA, Runtime.choose("cpu", "fp32"), changes={})
    plan = job.plan(0)
    expected, labels = job.train.augmented(plan.order[:10], plan, RECIPE.augment)
    images, shown = opened(run).augmented(10)
    assert torch.equal(images, expected)
    assert torch.equal(shown, labels)


def test_mixed_samples_name_both_labels(out: Path) -> None:
    recipe = RECIPE.with_changes({"augment.mixup": 1.0, "augment.cutmix": 1.0})
    made = opened(resight.train(recipe, DATA, out=out, reporter=Quiet(), precision="fp32"))
    job = prepare(recipe, DATA, Runtime.choose("cpu", "fp32"), changes={})
    plan = job.plan(0)
    expected, labels = job.train.augmented(plan.order[:40], plan, recipe.augment)
    images, shown = made.augmented(40)
    assert torch.equal(images, expected)
    plain, _ = made.augmented(40, mixed=False)
    assert torch.equal(
        plain, job.train.augmented(plan.order[:40], plan.unmixed(), recipe.augment)[0]
    )

    facts = embedded((made.run.path / "report" / "index.html").read_text("utf-8"))
    told = facts["augmented"]
    assert plan.partners is not None
    assert plan.shares is not None
    assert told["label"] == shown.tolist() == labels.tolist()
    others = job.train.labels[plan.partners[plan.order[:40]]]
    assert [part["other"] for part in told["mixed"]] == others.tolist()
    shares = [part["share"] for part in told["mixed"]]
    assert shares == pytest.approx(plan.shares[plan.order[:40]].tolist(), abs=1e-4)
    assert any("mixed with others" in note for note in facts["notes"])
    evidence = evidence_of(made)
    assert evidence.train_accuracy == evidence.plain_accuracy > 0.5


def test_samples_of_balanced_classes_are_those_that_are_trained_on(out: Path) -> None:
    recipe = RECIPE.with_changes({"augment.mixup": 1.0, "train.sampling": "balanced"})
    data = unequal(DATA)
    made = opened(resight.train(recipe, data, out=out, reporter=Quiet(), precision="fp32"), data)
    job = prepare(recipe, data, Runtime.choose("cpu", "fp32"), changes={})
    plan = job.plan(0)
    samples = plan.order[:40]
    expected, labels = job.train.augmented(samples, plan, recipe.augment)
    images, shown = made.augmented(40)
    assert torch.equal(images, expected)
    assert torch.equal(shown, labels)
    assert plan.images is not None
    assert plan.partners is not None
    mixture = made.mixture(40)
    assert mixture is not None
    assert torch.equal(mixture[0], job.train.labels[plan.images[plan.partners[samples]]])

    counts = np.bincount(data.train.labels)
    once = made.augmented(len(data.train), mixed=False, repeated=False)[1]
    assert np.bincount(once).tolist() == counts.tolist()
    repeated = np.bincount(made.augmented(len(data.train), mixed=False)[1])
    assert repeated.max() - repeated.min() <= 1
    evidence = evidence_of(made)
    assert evidence.plain_accuracy is not None
    facts = embedded((out / "report" / "index.html").read_text("utf-8"))
    assert any("equally many images of each class" in note for note in facts["notes"])
    assert evidence.train_accuracy == evidence.plain_accuracy


def test_the_gallery_of_a_folder_shows_its_files(tmp_path: Path) -> None:
    """In the order of its rows; in the pictures of the README too."""
    images = folder(tmp_path / "my photos")
    for path in images.rglob("*.png"):
        with Image.open(path) as small:
            small.resize((40, 40), Image.Resampling.NEAREST).save(path)
    gone = sorted((images / "test").rglob("*.png"))[3]
    made = resight.train(
        RECIPE, images, out=tmp_path / "run", reporter=Quiet(), precision="fp32", report=False
    )
    loaded = open_run(made, reporter=Quiet())
    gone.unlink()
    gallery = collect(loaded, lambda done, total: None)
    assert gallery is not None
    assert loaded.data is not None
    assert made.diagnosis is not None
    shown = run_facts(loaded, made.diagnosis, gallery)["gallery"]
    assert shown is not None
    assert shown["folder"] == images.as_uri()
    assert len(shown["photos"]) == len(shown["id"]) == 12
    for photo, uri, name in zip(gallery.photos, shown["photos"], shown["id"], strict=True):
        if images / name == gone:
            assert photo is uri is None
            continue
        assert photo is not None
        assert uri == photo.uri
        with Image.open(images / name) as file:
            assert np.array_equal(photo.pixels, np.asarray(file))
    small = cells(shown["sheet"])  # has what is no photo, and nothing else
    for cell, photo, image in zip(small, gallery.photos, gallery.images, strict=True):
        assert np.array_equal(cell, image if photo is None else np.zeros_like(image))
    mistakes = dataclasses.replace(gallery, mistakes=12)
    facts = {"shown_mistakes": 12, **{key: shown[key] for key in ("true", "predicted", "id")}}
    facts["confidence"] = shown["confidence"]
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resight.render.tiles.mistakes", lambda images, *rest: seen.append(images))
        readme._mistakes(mistakes, facts, list(loaded.data.classes), 12)
    for image, photo, small in zip(seen[0], gallery.photos, gallery.images, strict=True):
        if photo is None:
            expected = tiles.enlarged(small[None])[0]
        else:
            whole = Image.fromarray(photo.pixels)
            expected = np.asarray(whole.resize(image.shape[:2], Image.Resampling.LANCZOS))
        assert np.array_equal(image, expected)


def test_a_report_with_pictures_is_not_replaced_by_one_without(tmp_path: Path) -> None:
    images = folder(tmp_path / "photos")
    made = resight.train(RECIPE, images, out=tmp_path / "run", reporter=Quiet(), precision="fp32")
    page, gone = made.path / "report" / "index.html", images / "test" / "cat" / "0.png"
    before = page.read_bytes()
    gone.unlink()
    with pytest.raises(ResightError, match="the report that is there stays"):
        resight.report(made, reporter=Quiet())
    assert page.read_bytes() == before
    (made.path / "report" / "images" / "augmented.png").unlink()
    resight.report(made, reporter=Quiet())
    assert page.read_bytes() != before


def test_images_in_memory_have_neither_photos_nor_links(run: resight.Run) -> None:
    gallery = collect(opened(run), lambda done, total: None)
    assert gallery is not None
    assert (gallery.folder, list(gallery.photos)) == (None, [])


def test_a_page_of_2000_mistakes_stays_below_5_mb(out: Path) -> None:
    rng = np.random.default_rng(0)
    data = make_data(60, classes=10, size=32, n_test=2600)
    noise = rng.integers(0, 256, data.test.images.shape).astype(np.uint8)
    noise[:, ::2] = noise[:, 1::2]  # half as bad as pure noise, worse than any photograph
    data = dataclasses.replace(data, test=dataclasses.replace(data.test, images=noise))
    small = RECIPE.with_changes(
        {"data.image_size": 32, "model.width": 4, "schedule.epochs": 1, "schedule.peak_epoch": 0.5}
    )
    run = resight.train(small, data, out=out, reporter=Quiet(), precision="fp32")
    page = run.path / "report" / "index.html"
    facts = embedded(page.read_text("utf-8"))
    assert facts["gallery"]["shown_mistakes"] == 2000
    assert page.stat().st_size <= 5_000_000


# the command that repeats a run


def from_command(command: str, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe that the command line would train."""
    import resight.training.seeds  # takes `train` from there for good
    from resight.cli.app import app

    asked: dict[str, Any] = {}

    def note(recipe: str, data: str | None, **options: Any) -> None:
        known = ("out", "resume", "minutes", "device", "precision", "executor", "deterministic")
        for key in (*known, "skip_bad", "report", "live", "reporter", "started"):
            options.pop(key)
        asked["recipe"] = changed(resight.find_recipe(recipe), options)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", note)
    CliRunner().invoke(app, shlex.split(command)[1:])
    recipe = asked["recipe"]
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits", {}),
        ("digits", {"epochs": 3, "seed": 7, "val": 0.1, "batch_size": 32}),
        ("digits", {"epochs": 3, "schedule.peak_epoch": 1.0}),
        ("digits", {"schedule.shape": "cosine", "lr": 0.02}),
        ("digits", {"optimizer.name": "sgd", "optimizer.nesterov": True, "augment.flip": "none"}),
        # another image size scales the smaller ones, another batch size its pieces
        ("fast", {"data.image_size": 64}),
        ("fast", {"data.image_size": 64, "schedule.small_px": 24}),
        ("fast", {"data.image_size": 64, "schedule.small_px": 30}),
        ("fast", {"batch_size": 512}),
        ("fast", {"batch_size": 512, "train.norm_batch": 128}),
    ],
)
def test_the_command_makes_the_same_recipe(
    out: Path, name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(resight.find_recipe(name), changes)
    out.mkdir()
    run = resight.Run(out)
    run.write("recipe.json", recipe.to_dict())
    run.write("resolved.json", resolved(source="digits"))
    command = run.repeat_command()
    assert command is not None
    assert from_command(command, monkeypatch) == recipe


def test_a_recipe_without_a_name_is_read_from_the_run(out: Path) -> None:
    out.mkdir()
    run = resight.Run(out)
    run.write("recipe.json", RECIPE.with_changes({"name": "mine"}).to_dict())
    run.write("resolved.json", resolved(source="digits"))
    assert run.repeat_command() == f"resight train --recipe {out}/recipe.json --data digits"


def test_images_that_were_never_a_file_have_no_command(run: resight.Run) -> None:
    assert run.repeat_command() is None
    assert run.find_lr_command() is None


def test_the_lr_is_tested_on_the_runs_own_images(tmp_path: Path) -> None:
    images, out = tmp_path / "my images", tmp_path / "a run"
    images.mkdir()
    out.mkdir()
    run = resight.Run(out)
    run.write("recipe.json", RECIPE.to_dict())
    run.write("resolved.json", resolved(source=str(images), bad=["x.png"]))
    assert run.find_lr_command() == (
        f"resight find-lr --recipe '{out}/recipe.json' --data '{images}' --skip-bad"
    )
    command = run.repeat_command()
    assert command is not None
    assert command.endswith(f"--data '{images}' --skip-bad")


def test_a_report_that_can_not_be_written_is_one_clear_line(out: Path) -> None:
    run = train(out)
    (out / "report").write_text("a file is in the way")
    with pytest.raises(ResightError, match="can't write"):
        report(run, DATA, reporter=Quiet())


BROKEN = RECIPE.with_changes(
    {"optimizer.name": "sgd", "schedule.lr_max": 1e18, "schedule.lr_min": 1e17}
)


def test_ctrl_c_while_a_failure_is_looked_into_still_says_the_failure(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "examine", lambda made: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(ResightError, match="loss became"):
        resight.train(BROKEN, DATA, out=out, reporter=Quiet(), precision="fp32")


def test_a_training_that_blows_up_leaves_a_report_too(out: Path) -> None:
    with pytest.raises(ResightError, match="loss became"):
        resight.train(BROKEN, DATA, out=out, reporter=Quiet(), precision="fp32")
    facts = embedded((out / "report" / "index.html").read_text("utf-8"))
    assert [finding["name"] for finding in facts["findings"]] == ["diverged"]


# live


def connect(address: str) -> http.client.HTTPConnection:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def get(address: str, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = connect(address)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


INFO = StepInfo(2, 5, 3, 4, 1.25, 0.5, 0.01, 900.0, 12.0)
FINDING = Finding("not-learning", "problem", "the model is not learning", "e", "t", "a", None)


def test_the_live_page_shows_the_training_as_it_is(run: resight.Run) -> None:
    with serve(run, Quiet(), port=0) as (live, address):
        status, page = get(address, "/")
        assert status == 200
        assert embedded(page.decode())["live"]["state"] == "training"
        live.step(INFO)
        live.finding(FINDING)
        facts = json.loads(get(address, "/facts.json")[1])
        assert facts["live"]["loss"] == 1.25
        assert facts["live"]["epoch"] == 2
        assert facts["findings"][0]["name"] == "not-learning"
        assert len(facts["metrics"]) == 2
        assert facts["diagnosed"] is False
        live.finish({**base_facts(run), "diagnosed": True}, state="finished")
        last = json.loads(get(address, "/facts.json")[1])
        assert last["live"]["state"] == "finished"
        assert last["diagnosed"]


def test_the_live_server_answers_this_machine_only(run: resight.Run) -> None:
    with serve(run, Quiet(), port=0) as (live, address):
        assert address.startswith("http://127.0.0.1:")
        assert get(address, "/facts.json", host="evil.example")[0] == 403
        assert get(address, "/../recipe.json")[0] == 404
        live.finish(base_facts(run), state="stopped")
        get(address, "/facts.json")


def test_a_page_that_is_closed_while_it_loads_is_not_news(
    run: resight.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(run, Quiet(), port=0) as (_, address):
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert get(address, "/")[0] == 200
    assert capsys.readouterr().err == ""


def test_many_slow_or_odd_clients_cost_no_thread_and_end_nothing(
    run: resight.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resight.reporting.live._Handler.timeout", 0.2)
    before = threading.active_count()
    with serve(run, Quiet(), port=0) as (_, address), contextlib.ExitStack() as held:
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode()
        clients = []
        for number in range(300):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=9))
            clients.append(client)
            with contextlib.suppress(ConnectionError):  # turned away
                client.sendall((b"", head, head + b"\r\n", b"\x16\x03\x01" * 99)[number % 4])
            assert threading.active_count() <= before + 1 + MAX_CLIENTS
        for client in clients:  # until those that say nothing have had their time
            with contextlib.suppress(ConnectionError):
                while client.recv(1 << 16):
                    pass
        for _ in range(50):  # the last of them may just be leaving
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(address, "/facts.json")[0] == 200:
                    break
        else:
            pytest.fail("no client was served any more")
    assert capsys.readouterr().err == ""


def test_a_client_that_is_slow_byte_by_byte_is_cut_off(
    run: resight.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_server, "REQUEST_SECONDS", 0.0)
    monkeypatch.setattr("resight.reporting.live._Handler.timeout", 99.0)
    with serve(run, Quiet(), port=0) as (_, address), contextlib.ExitStack() as held:
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        clients = [
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(MAX_CLIENTS)
        ]
        for client in clients:
            client.sendall(b"GET / HT")
        for client in clients:
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""  # and not a timeout
    assert capsys.readouterr().err == ""


def test_a_run_that_can_not_be_read_is_said_on_the_page_not_on_the_terminal(
    run: resight.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = resight.Run(shutil.copytree(run.path, tmp_path / "damaged"))
    with serve(damaged, Quiet(), port=0) as (_, address):
        (damaged.path / "metrics.jsonl").write_text("[]\n[]\n")
        status, page = get(address, "/facts.json")
    assert status == 503
    assert b"metrics.jsonl" in page
    assert capsys.readouterr().err == ""


def test_the_runs_files_are_read_once_a_second_however_many_ask(
    run: resight.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[resight.Run] = []

    def read(of: resight.Run) -> Any:
        reads.append(of)
        return base_facts(of)

    monkeypatch.setattr(live_server, "base_facts", read)
    monkeypatch.setattr(live_server, "FACTS_SECONDS", 1e9)
    with serve(run, Quiet(), port=0) as (_, address):
        for _ in range(5):
            assert get(address, "/facts.json")[0] == 200
    assert len(reads) == 1


def test_what_is_served_says_what_a_browser_may_do_with_it(run: resight.Run) -> None:
    with serve(run, Quiet(), port=0) as (_, address):
        connection = connect(address)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        answer.read()
        connection.request("POST", "/")
        refused = connection.getresponse()
        assert refused.status == 501
        assert refused.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/facts.json", "/else"])
def test_a_head_is_a_get_without_its_content(run: resight.Run, path: str) -> None:
    with serve(run, Quiet(), port=0) as (_, address):
        heads = []
        for verb in ("GET", "HEAD"):
            connection = connect(address)
            connection.request(verb, path)
            answer = connection.getresponse()
            content = answer.read()
            headers = {k: v for k, v in answer.headers.items() if k != "Date"}
            heads.append((answer.status, headers))
        assert content == b""
        assert heads[0] == heads[1]
        assert heads[0][0] == (404 if path == "/else" else 200)


def test_a_taken_port_gives_way_to_a_free_one(run: resight.Run) -> None:
    with serve(run, Quiet(), port=0) as (_, first):
        port = int(first.rstrip("/").rsplit(":", 1)[1])
        with serve(run, Quiet(), port=port) as (_, second):
            assert second != first
            assert get(second, "/")[0] == 200


def test_a_live_training_says_where_and_passes_its_words_on(out: Path) -> None:
    class Words(Quiet):
        lines: list[str] = []  # noqa: RUF012
        rows = 0

        def say(self, line: str) -> None:
            self.lines.append(line)

        def epoch(self, row: dict[str, Any], epochs: int) -> None:
            self.rows += 1

    words = Words()
    train(out, live=True, reporter=words)
    assert any(line.startswith("live at http://127.0.0.1:") for line in words.lines)
    assert words.rows == 2


# the command line


def test_report_and_diagnose_as_commands(run: resight.Run) -> None:
    from resight.cli.app import app

    result = CliRunner().invoke(app, ["diagnose", str(run.path), "--json"])
    assert result.exit_code == 0
    assert "findings" in json.loads(result.stdout)
    shutil.rmtree(run.path / "report", ignore_errors=True)  # one with pictures would stay
    result = CliRunner().invoke(app, ["report", str(run.path)])
    assert result.exit_code == 0
    assert f"page   {run.path}/report/index.html" in result.stdout
