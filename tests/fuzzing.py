"""Readers tried on changed bytes: a line of error or a valid result, soon and in bounded memory.

An input whose answer is a new one is changed further. One that fails is kept, made shorter, in
`tests/faults/corpus/READER/`, and tried again by every run of the tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from resight.characters import printable
from resight.errors import ResightError

CORPUS = Path(__file__).parent / "faults" / "corpus"
# of the processor, of all readers together
MINUTES = float(os.environ.get("RESIGHT_FAULTS_MINUTES", "0"))
LONGEST_S = 20.0  # of the processor, for one input
WAITING_S = 600.0  # at most, on a busy machine
MORE_BYTES = 3 << 30  # for one input, above what the process has
SHORTEN_S = 20.0  # for making a failing input shorter
MAX_POOL = 400  # inputs that are changed further
MAX_BYTES = 1 << 20  # of an input
LENGTHS = (1, 2, 4, 8, 40, 400)
WORDS = (
    *(b"\0" * 64, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x80", b"\0\0\0\1", b"\1\0\0\0"),
    *(b"null", b"NaN", b"-1", b"1e999", b"9" * 400, b"[", b"{", b"}", b'"', b"\\ud800", b"\r\n"),
)


@dataclass(frozen=True)
class Reader:
    """samples: valid inputs. read: reads one, raises `ResightError` for what is refused, fails for
    a result that is not valid; its answer says what was read. words: what its format consists of.
    """

    samples: tuple[bytes, ...]
    read: Callable[[bytes], object]
    words: tuple[bytes, ...] = ()


class TooLong(BaseException):
    """An input took too long; nothing that catches every Exception catches it."""


def changed(
    content: bytes, draws: random.Random, words: tuple[bytes, ...] = WORDS, other: bytes = b""
) -> bytes:
    """One flip, other byte, cut, insertion, replacement, deletion, repetition or splice."""
    place = draws.randrange(len(content) + 1)
    length = draws.choice(LENGTHS)
    before, after = content[:place], content[place:]
    match draws.randrange(8):
        case 0 if after:
            return before + bytes([after[0] ^ 1 << draws.randrange(8)]) + after[1:]
        case 1 if after:
            return before + bytes([draws.choice((0, 1, 127, 128, 255))]) + after[1:]
        case 2:
            return before
        case 3:
            return before + draws.choice(words) + after
        case 4:
            return before + draws.choice(words) + after[length:]
        case 5:
            return before + content[place : place + length] + after
        case 6 if other:
            return before + other[draws.randrange(len(other)) :]
        case _:
            return before + after[length:]


def answer(reader: Reader, content: bytes) -> str:
    """What a reader says: `read …`, or its line of error. Anything else is raised."""
    with _limited():
        try:
            return f"read {reader.read(content)}"
        except ResightError as error:
            line = str(error)
    assert line.strip(), "an error without words"
    assert "\n" not in line
    assert printable(line) == line
    return line


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise `TooLong` after `LONGEST_S` or `WAITING_S`; allocations beyond `MORE_BYTES` fail."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong

    usual = [(kind, signal.signal(kind, ring)) for kind in (signal.SIGPROF, signal.SIGALRM)]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    signal.setitimer(signal.ITIMER_REAL, WAITING_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for kind, handler in usual:
            signal.signal(kind, handler)


def fuzz(name: str, reader: Reader, *, executions: int, seconds: float) -> int:
    """Try at least so many changed inputs, and for so many seconds of the processor. Returns how
    many. The first that fails is kept, and fails."""
    draws = random.Random(name if not seconds else None)
    pool, known = list(reader.samples), {shape(answer(reader, s)) for s in reader.samples}
    words, tried, began = reader.words + WORDS, 0, time.process_time()
    while tried < executions or time.process_time() - began < seconds:
        content = draws.choice(pool)
        for _ in range(draws.choice((1, 1, 1, 2, 4))):
            content = changed(content, draws, words, draws.choice(pool))
        content = content[:MAX_BYTES]
        tried += 1
        if seconds:  # for a reader that ends the process
            Path(tempfile.gettempdir(), f"fuzz-{name}.now").write_bytes(content)
        try:
            said = shape(answer(reader, content))
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                error.add_note(f"input {tried} of {name}: kept as {_keep(name, reader, content)}")
            raise
        if said not in known and len(pool) < MAX_POOL:
            known.add(said)
            pool.append(content)
    return tried


def shape(line: str) -> str:
    """An answer without its numbers and names, so that a new kind of it is seen."""
    return re.sub(r"\d+|'[^']*'", "#", line)[:200]


def _keep(name: str, reader: Reader, content: bytes) -> Path:
    """Write an input that fails into the corpus, shortened while it fails in the same way."""
    kind, began = _failure(reader, content), time.monotonic()
    size = len(content) // 2
    while size and kind is not None:
        for start in range(0, len(content), size):
            shorter = content[:start] + content[start + size :]
            if time.monotonic() - began > SHORTEN_S:
                size = 0
                break
            if _failure(reader, shorter) is kind:
                content = shorter
                break
        else:
            size //= 2
    path = CORPUS / name / hashlib.sha256(content).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _failure(reader: Reader, content: bytes) -> type[BaseException] | None:
    try:
        answer(reader, content)
    except BaseException as error:
        return type(error)
    return None
