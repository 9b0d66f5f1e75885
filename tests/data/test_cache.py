"""Decode once: what is reused, what is not, and what happens where the cache fails."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resight.data import cache, table, workers
from resight.data.sources import load_data
from resight.errors import ResightError, ResightWarning

FILES = ("images.npy", "labels.npy", "ids.npy", "digests.npy", "sums.npy", "meta.json")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """The folder of entries, not yet made."""
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(
        f"{s}/{c}/{n}.png" for s in ("train", "test") for c in "ab" for n in "123"
    ):
        paint(tmp_path / "made" / name, seed)
    return tmp_path / "made"


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def load(root, **options):
    """With the cache as it is once its threads are done."""
    try:
        return load_data(root, image_size=4, **options)
    finally:
        cache.settle()


def same(first, second) -> bool:
    """Whether two ImageData agree in everything, pixels included."""
    splits = [(first.train, second.train), (first.test, second.test)]
    return (
        first.fingerprint == second.fingerprint
        and first.classes == second.classes
        and first.notes == second.notes
        and np.array_equal(first.mean, second.mean)
        and np.array_equal(first.std, second.std)
        and all(
            np.array_equal(getattr(a, name), getattr(b, name))
            for a, b in splits
            for name in ("images", "labels", "ids")
        )
    )


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded, in a list that grows."""
    paths: list[str] = []
    real = workers.decode_file

    def counted(path, *settings):
        paths.append(path)
        return real(path, *settings)

    monkeypatch.setattr(workers, "decode_file", counted)
    return paths


def entries(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir()) if store.exists() else []


def test_the_second_load_decodes_nothing(root, store, decoded):
    first = load(root)
    assert len(decoded) == 12
    [entry] = entries(store)
    assert entries(store / entry) == sorted(FILES)
    second = load(root)
    assert len(decoded) == 12
    assert same(first, second)
    for data in (first, second):
        assert isinstance(data.train.images, np.memmap)
        assert isinstance(data.test.images, np.memmap)
        assert not data.train.images.flags.writeable
        assert data.train.labels.dtype == np.int64


def test_progress_counts_up_to_all_and_is_silent_on_a_hit(root, monkeypatch):
    monkeypatch.setattr(table, "ROWS_PER_TASK", 5)
    calls: list[tuple[int, int]] = []
    load(root, progress=lambda done, total: calls.append((done, total)))
    assert [total for _, total in calls] == [12, 12, 12]
    assert calls[-1] == (12, 12)
    assert calls == sorted(calls)
    load(root, progress=lambda *_: pytest.fail("nothing is decoded"))


def test_any_change_of_a_file_is_seen(root, store, decoded):
    load(root)
    one = root / "train/a/1.png"
    os.utime(one, ns=(0, one.stat().st_mtime_ns + 1))
    load(root)
    assert len(decoded) == 24
    paint(root / "train/a/4.png", 50)
    assert len(load(root).train) == 7
    assert len(decoded) == 37
    (root / "train/a/4.png").unlink()
    assert len(load(root).train) == 6
    assert len(decoded) == 37  # the entry from before is still good
    (root / "train/a/1.png").rename(root / "train/b/9.png")
    assert load(root).train.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert len(entries(store)) == 4


def test_size_and_channels_have_entries_of_their_own(root, store):
    whole = load(root)
    assert load_data(root, image_size=8).image_size == 8
    assert load(root, channels=1).channels == 1
    assert load(root, channels=3).channels == 3
    assert len(entries(store)) == 4
    assert same(load(root), whole)


def test_another_place_has_an_entry_of_its_own(root, store, tmp_path):
    first = load(root)
    shutil.copytree(root, tmp_path / "copy")
    assert load(tmp_path / "copy").fingerprint == first.fingerprint
    assert len(entries(store)) == 2


def test_the_seed_of_the_split_needs_no_second_decoding(root, decoded):
    data = load(root / "train")
    other = load(root / "train", split_seed=5)
    assert len(decoded) == 6
    assert {*data.train.ids, *data.test.ids} == {*other.train.ids, *other.test.ids}


@pytest.mark.parametrize("folder", [".", "train"])
def test_measuring_shares_the_entry_with_training(root, store, decoded, folder):
    data = load(root / folder)
    measured = load(root / folder, held_out=False)
    assert len(decoded) == len({*data.train.ids, *data.test.ids})
    assert len(entries(store)) == 1
    assert isinstance(measured.test.images, np.memmap)


def test_an_empty_class_that_was_measured_is_not_in_the_entry(root, decoded):
    (root / "train/empty").mkdir()
    measured = load(root, held_out=False)
    (root / "train/empty").rmdir()
    assert load(root).classes == measured.classes == ("a", "b")
    assert len(decoded) == 12


def after_damage(root):
    """Loaded, with the one line that says what was wrong."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(root)
    [text] = [str(item.message) for item in caught if item.category is ResightWarning]
    assert re.fullmatch(r"the cached images in .*are damaged \(.+\): .*decoded again.*", text)
    return data


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "short", "nonsense"])
def test_a_damaged_entry_is_decoded_again(root, store, decoded, file, damage):
    first = load(root)
    fresh = [image.copy() for image in first.train.images]
    path = store / entries(store)[0] / file
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"empty": b"", "short": whole[:-1], "nonsense": b"x" * len(whole)}[damage])
    again = after_damage(root)
    assert len(decoded) == 24
    assert np.array_equal(again.train.images, fresh)
    assert entries(store) == [path.parent.name]
    load(root)
    assert len(decoded) == 24


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_never_used(root, store, decoded, file):
    """Every 23rd byte of each file, one bit of it at a time."""
    first = load(root)
    fresh = [image.copy() for image in first.train.images]
    path = store / entries(store)[0] / file
    size, known = path.stat().st_size, len(decoded)
    for place in range(0, size, 23 if file == "images.npy" else size // 9):
        whole = bytearray(path.read_bytes())
        whole[place] ^= 1 << place % 8
        path.write_bytes(whole)
        again = after_damage(root)
        assert np.array_equal(again.train.images, fresh)
        assert again.fingerprint == first.fingerprint
        known += 12
        assert len(decoded) == known


def test_an_entry_of_other_images_is_not_used(root, store, decoded, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    paint(tmp_path / "other/train/a/1.png", 77)
    other = load(tmp_path / "other")
    [wrong] = entries(store)
    mine = load(root)
    [right] = {*entries(store)} - {wrong}
    shutil.rmtree(store / right)
    shutil.copytree(store / wrong, store / right)
    assert after_damage(root).fingerprint == mine.fingerprint != other.fingerprint


@given(
    size=st.integers(0, 3 * 64),
    flips=st.sets(st.integers(0, 8 * 3 * 64 - 1), min_size=1, max_size=3),
    seed=st.integers(0, 3),
)
def test_a_checksum_notices_up_to_three_bits(tmp_path_factory, size, flips, seed):
    """With pages and blocks of a few words, so that bits share a page, a word, a block."""
    path = tmp_path_factory.mktemp("file") / "file"
    whole = bytearray(np.random.default_rng(seed).integers(0, 2, size).astype(np.uint8) * 255)
    path.write_bytes(whole)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(cache, "PAGE_BYTES", 16)
        small.setattr(cache, "BLOCK_BYTES", 64)
        before = cache.checksum(path)
        assert cache.checksum(path) == before
        for flip in flips:
            if flip // 8 < size:
                whole[flip // 8] ^= 1 << flip % 8
        changed = path.read_bytes() != whole
        path.write_bytes(whole)
        assert (cache.checksum(path) != before) == changed
        path.write_bytes(whole + b"\0")
        assert cache.checksum(path) != before


def test_pages_that_were_exchanged_are_noticed(tmp_path):
    pages = [bytes([number]) * cache.PAGE_BYTES for number in range(5)]
    (tmp_path / "file").write_bytes(b"".join(pages))
    before = cache.checksum(tmp_path / "file")
    for order in ([1, 0, 2, 3, 4], [0, 1, 2, 4, 3], [0, 1, 2, 3]):
        (tmp_path / "file").write_bytes(b"".join(pages[number] for number in order))
        assert cache.checksum(tmp_path / "file") != before


def test_new_pixels_under_an_old_size_and_time_are_seen(root, decoded):
    before = load(root)
    path, other = root / "train/a/1.png", root / "train/b/1.png"
    known = path.stat()
    whole = other.read_bytes()
    assert len(whole) == known.st_size  # noise does not compress
    path.write_bytes(whole)
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    after = load(root)
    assert len(decoded) == 24
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("name", ["labels", "ids", "digests", "sums"])
def test_arrays_that_were_exchanged_are_noticed(root, store, decoded, name):
    load(root)
    path = store / entries(store)[0] / f"{name}.npy"
    np.save(path, np.load(path)[::-1])
    after_damage(root)
    assert len(decoded) == 24


def test_images_of_another_size_are_noticed(root, store, decoded):
    load(root)
    np.save(store / entries(store)[0] / "images.npy", np.zeros((12, 8, 8, 3), np.uint8))
    assert after_damage(root).image_size == 4
    assert len(decoded) == 24


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


def test_a_pickle_in_an_entry_is_not_run(root, store, decoded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(root)
    for name in ("labels.npy", "images.npy"):
        path = store / entries(store)[0] / name
        with path.open("wb") as file:
            np.lib.format.write_array(file, np.array([Evil()], dtype=object), allow_pickle=True)
        after_damage(root)
        path.write_bytes(pickle.dumps(Evil()))
        after_damage(root)
    assert len(decoded) == 5 * 12
    assert not (tmp_path / "made-by-a-pickle").exists()


def one_warning(root):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load(root)
    assert [item.category for item in caught] == [ResightWarning]
    text = str(caught[0].message)
    assert text.startswith("the cache ")
    assert "point RESIGHT_CACHE to another folder" in text
    assert "\n" not in text
    return data, text


def test_a_cache_that_cannot_be_made(root, tmp_path, monkeypatch):
    expected = load(root)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "file"))
    data, text = one_warning(root)
    assert "Not a directory" in text
    assert same(data, expected)
    assert isinstance(data.train.images, np.ndarray)


@pytest.mark.parametrize("call", ["stat", "open", "mkdir"])
def test_a_cache_that_cannot_be_searched(root, store, monkeypatch, call):
    """As for a user whose RESIGHT_CACHE belongs to another one; simulated, since root may all."""
    expected = load(root)
    if call == "mkdir":
        shutil.rmtree(store)

    def guarded(real, place):
        def refused(path, *arguments, **options):
            if str(path).startswith(str(place)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments, **options)

        return refused

    with monkeypatch.context() as locked:
        locked.setattr(Path, call, guarded(getattr(Path, call), store))
        if call == "open":
            locked.setattr(io, "open", guarded(io.open, store))
        data, text = one_warning(root)
    assert os.strerror(errno.EACCES) in text
    assert same(data, expected)
    if call != "mkdir":
        assert len(entries(store)) == 1, "what can't be read is not damaged"


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["posix_fallocate", "fsync", "no-fallocate"])
def test_a_full_disk(root, store, monkeypatch, step):
    with monkeypatch.context() as disk:
        if step == "no-fallocate":
            disk.delattr(os, "posix_fallocate", raising=False)
            disk.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
        else:
            disk.setattr(os, step, no_space)
        data, text = one_warning(root)
    assert os.strerror(errno.ENOSPC) in text
    assert entries(store) == []
    assert same(data, load(root))


def test_a_platform_without_fallocate(root, store, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    load(root)
    assert len(entries(store)) == 1


def test_an_interrupt_leaves_nothing_behind(root, store, decoded, monkeypatch):
    monkeypatch.setattr(table, "ROWS_PER_TASK", 1)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(root, progress=interrupt)
    assert entries(store) == []
    load(root)
    assert len(entries(store)) == 1


def test_the_second_of_two_processes_takes_the_first_ones_entry(root, store, decoded, monkeypatch):
    """The slower one is made to decode while the faster one finishes."""
    inner = []
    real = cache.decode_table

    def slow(*arguments):
        result = real(*arguments)
        if not inner:
            inner.append(None)
            inner[0] = load(root)
        return result

    monkeypatch.setattr(cache, "decode_table", slow)
    outer = load(root)
    assert len(decoded) == 24
    assert same(outer, inner[0])
    assert len(entries(store)) == 1
    assert isinstance(outer.train.images, np.memmap)


def test_many_at_once(root, store):
    results = []
    workers = [threading.Thread(target=lambda: results.append(load(root))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(same(results[0], result) for result in results)
    assert len(entries(store)) == 1


def test_only_unfinished_leftovers_of_a_day_ago_are_removed(root, store):
    load(root)
    [old_entry] = entries(store)
    fresh, stale = store / f"{cache.BEGUN}fresh", store / f"{cache.BEGUN}stale"
    for leftover in (fresh, stale):
        leftover.mkdir()
    for path in (stale, store / old_entry):
        os.utime(path, (0, 0))
    paint(root / "train/a/9.png", 9)
    load(root)
    assert not stale.exists()
    assert fresh.exists()
    assert old_entry in entries(store)


def test_bad_files_are_remembered(root, store, decoded):
    (root / "train/a/2.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(ResightError, match="1 of 12 images"):
            load(root)
    data = load(root, skip_bad=True)
    assert data.bad == ("train/a/2.png",)
    assert len(data.train) == 5
    with pytest.raises(ResightError, match=r"train/a/2.png \(not an image\)"):
        load(root)
    assert len(decoded) == 12
    paint(root / "train/a/2.png", 1)
    assert load(root).bad == ()


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("RESIGHT_CACHE")
    assert cache.cache_dir().name == "resight"


def test_stopping_does_not_wait_for_every_image(root, monkeypatch):
    monkeypatch.setattr(table, "ROWS_PER_TASK", 1)
    monkeypatch.setattr(table, "cores", lambda most: 1)
    started = []
    real = workers.decode_file

    def watched(*arguments):
        started.append(arguments)
        return real(*arguments)

    def stop(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "decode_file", watched)
    for n in range(300):
        paint(root / f"train/a/more{n}.png", n)
    with pytest.raises(KeyboardInterrupt):
        load(root, progress=stop)
    assert len(started) < 200


@pytest.mark.parametrize(
    "error", [BrokenPipeError("gone"), ValueError("wrong"), ResightError("no")]
)
def test_an_error_in_progress_propagates_and_leaves_nothing_behind(
    root, store, decoded, monkeypatch, error
):
    monkeypatch.setattr(table, "ROWS_PER_TASK", 1)
    calls = []

    def fail(done, total):
        calls.append(done)
        raise error

    with pytest.raises(type(error)) as caught:
        load(root, progress=fail)
    assert caught.value is error
    assert calls == [1]
    assert entries(store) == []
    load(root)
    assert len(entries(store)) == 1


def test_an_error_in_progress_stops_tasks_that_run(root, monkeypatch):
    monkeypatch.setattr(table, "cores", lambda most: 1)
    for n in range(240):
        paint(root / f"train/a/more{n}.png", n)
    stopped, started = threading.Event(), []
    real, shutdown = workers.decode_file, table.ThreadPoolExecutor.shutdown

    def watched(*arguments):
        started.append(arguments)
        if len(started) > table.ROWS_PER_TASK:  # the second task, in hand when progress raises
            assert stopped.wait(10)
        return real(*arguments)

    def shut(pool, **options):
        stopped.set()  # by now the tasks have been told
        shutdown(pool, **options)

    def fail(done, total):
        raise BrokenPipeError

    monkeypatch.setattr(workers, "decode_file", watched)
    monkeypatch.setattr(table.ThreadPoolExecutor, "shutdown", shut)
    with pytest.raises(BrokenPipeError):
        load(root, progress=fail)
    assert len(started) < table.ROWS_PER_TASK + 30


def test_each_fit_is_an_entry_of_its_own(tmp_path: Path, store: Path) -> None:
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.effect_noise((24, 12), 50 + number).save(root / name / f"{number}.png")
    loaded = {fit: load_data(root, image_size=8, fit=fit) for fit in ("crop", "pad", "squash")}
    assert len(entries(store)) == 3
    assert len({data.fingerprint for data in loaded.values()}) == 3
    again = load_data(root, image_size=8, fit="pad")
    assert np.array_equal(again.train.images, loaded["pad"].train.images)
