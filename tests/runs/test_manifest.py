"""The manifest of a run folder: what was written there is what is read, whatever a crash leaves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.runs import manifest
from resight.runs.manifest import FORMAT, MANIFEST, forget_file, read_file, write_files


class Killed(BaseException):
    """The process ended here."""


def test_what_was_written_is_read_and_anything_else_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_files(tmp_path, {"a.json": b"{}"})
    assert read_file(path) == b"{}"
    path.write_bytes(b"{ }")
    with pytest.raises(ResightError, match=r"a\.json is not what the run wrote \(3 bytes, 2 were"):
        read_file(path)
    (tmp_path / MANIFEST).unlink()  # the way out that the line names
    assert read_file(path) == b"{ }"


def test_predictions_that_are_damaged_are_said_to_be_written_again_by_a_command(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, {"predictions-val.npz": b"logits"})
    (tmp_path / "predictions-val.npz").write_bytes(b"log")
    again = f"`resight evaluate {tmp_path} --split val` writes it again"
    with pytest.raises(ResightError, match=re.escape(again)):
        read_file(tmp_path / "predictions-val.npz")


@given(st.binary(min_size=1, max_size=300), st.data())
def test_each_flipped_bit_is_noticed(tmp_path_factory, content: bytes, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("run")
    write_files(folder, {"x": content})
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    (folder / "x").write_bytes(bytes(flipped))
    with pytest.raises(ResightError, match="is not what the run wrote"):
        read_file(folder / "x")


def test_after_a_kill_at_any_rename_the_old_or_the_new_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, allowed = Path.replace, 0

    def counting(self: Path, target: Path) -> Path:
        nonlocal allowed
        if not allowed:
            raise Killed
        allowed -= 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counting)
    states = [{"a": b"1", "b": b"1"}, {"a": b"2", "b": b"2"}, {"a": b"3", "b": b"3"}]
    allowed = 3
    write_files(tmp_path, states[0])
    for kills_after in (0, 1, 2, 0, 2, 1):  # of the manifest's rename and those of the two files
        for state in states[1:]:
            allowed = kills_after
            with pytest.raises(Killed):
                write_files(tmp_path, state)
            for name in ("a", "b"):
                assert read_file(tmp_path / name) == (tmp_path / name).read_bytes()
    allowed = 3
    write_files(tmp_path, states[2])
    assert [read_file(tmp_path / name) for name in ("a", "b")] == [b"3", b"3"]


def test_a_file_that_another_process_replaces_meanwhile_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"x": b"0"})
    listed, turn = manifest.read_manifest, iter("12")

    def replaced_afterwards(folder: Path) -> manifest.Manifest:
        found = listed(folder)
        if (content := next(turn, None)) is not None:
            monkeypatch.setattr(manifest, "read_manifest", listed)
            write_files(tmp_path, {"x": content.encode()})
            write_files(tmp_path, {"x": content.encode() * 2})
            monkeypatch.setattr(manifest, "read_manifest", replaced_afterwards)
        return found

    monkeypatch.setattr(manifest, "read_manifest", replaced_afterwards)
    assert read_file(tmp_path / "x") == b"22"


def test_files_of_a_run_without_a_manifest_and_unlisted_ones_are_taken_as_they_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "old.json").write_bytes(b"{}")
    assert read_file(tmp_path / "old.json") == b"{}"
    write_files(tmp_path, {"new.json": b"[]"})
    assert read_file(tmp_path / "old.json") == b"{}"
    forget_file(tmp_path / "new.json")
    (tmp_path / "new.json").write_bytes(b"[1]")
    assert read_file(tmp_path / "new.json") == b"[1]"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"files": {"x": 3}}', b"[" * 9999]
)
def test_a_damaged_manifest_is_named_with_the_way_out(content: bytes, tmp_path: Path) -> None:
    write_files(tmp_path, {"x": b"1"})
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(
        ResightError, match=r"manifest\.json: damaged or edited \(.*remove it to use"
    ):
        read_file(tmp_path / "x")
    write_files(tmp_path, {"x": b"2"})  # a training does not stop for it
    assert read_file(tmp_path / "x") == b"2"


def test_a_newer_format_is_refused_also_to_write_into(tmp_path: Path) -> None:
    write_files(tmp_path, {"x": b"1"})
    values = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(
        json.dumps(values | {"format": FORMAT + 1, "files": "elsewhere"})
    )
    for use in (lambda: read_file(tmp_path / "x"), lambda: write_files(tmp_path, {"x": b"2"})):
        with pytest.raises(ResightError, match=r"by a newer Resight \(format 3, .*update Resight"):
            use()


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ResightError, match="a pipe or a device is in the place"):
        read_file(tmp_path / "x")


def test_what_another_process_wrote_is_kept_when_this_one_writes_again_and_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"x": b"mine"})
    remembered = dict(manifest._written)
    write_files(tmp_path, {"x": b"theirs"})
    monkeypatch.setattr(manifest, "_written", remembered)
    write = manifest.write_atomically

    def killed(path: Path, content: bytes) -> None:
        if path.name == "x":
            raise Killed
        write(path, content)

    monkeypatch.setattr(manifest, "write_atomically", killed)
    with pytest.raises(Killed):
        write_files(tmp_path, {"x": b"mine again"})
    assert read_file(tmp_path / "x") == b"theirs"
