"""A child process that is spoken to in lines: it can neither hang its parent nor outlive it."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

LONGEST_LINE: Final = 1_000_000
"""Bytes; a longer line is cut here."""
STDERR_TAIL: Final = 2_000
"""Bytes of stderr that are kept."""
_READ: Final = 65_536
_LAST_WORDS: Final = 0.5
"""Seconds for the stderr of a process that has closed its stdout."""

# Kills the group when the pipe on its stdin closes, which also happens when the parent is killed.
_GUARD = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


class LineProcess:
    """A running program with pipes on stdin, stdout and stderr, in a process group of its own.

    All pipes are served while ``receive`` waits, so that neither side blocks on a full one. The whole group
    is killed by ``close``, when the object is dropped, and by a guard process if this process dies.
    POSIX only.

    Args:
        command: Program and arguments.
        environment: Variables of the process; None inherits those of this one.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        if os.name != "posix":
            raise OSError("programs as rewards need a POSIX system (process groups)")
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            bufsize=0,
            start_new_session=True,
        )
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process, guard)
        self._stdin, self._stdout, self._stderr = _pipes(self._process)
        self._lines: deque[str] = deque()
        self._outbox, self._inbox, self._tail = bytearray(), bytearray(), bytearray()
        self._cut = False
        self._selector = selectors.DefaultSelector()
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        for pipe in (self._stdout, self._stderr):
            self._selector.register(pipe, selectors.EVENT_READ)

    @property
    def stderr(self) -> str:
        """The end of what it has written to stderr so far."""
        if self._end.alive:
            self._serve(time.monotonic(), until_line=False)
        return self._tail.decode(errors="replace").strip()

    def has_ended(self) -> bool:
        """Whether its stdout has been closed."""
        self._serve(time.monotonic(), until_line=False)
        return self._stdout not in self._registered()

    def send(self, line: str) -> None:
        """Queue a line; it is written while ``receive`` waits."""
        self._outbox += line.encode() + b"\n"

    def receive(self, deadline: float) -> str:
        """The next line of stdout, cut at ``LONGEST_LINE``.

        Args:
            deadline: When to give up, on the clock of ``time.monotonic``.

        Raises:
            TimeoutError: No line came in time.
            EOFError: It ended or closed its stdout; says how. What is left of it is killed.
        """
        while not self._lines:
            if self._stdout not in self._registered():
                self._serve(time.monotonic() + _LAST_WORDS, until_line=False)
                how = self._how_it_ended()
                self.close()
                raise EOFError(how)
            if not self._serve(deadline):
                raise TimeoutError
        return self._lines.popleft()

    def close(self) -> None:
        """Kill the process with all its children; harmless when called again."""
        self._selector.close()
        self._end()

    def _registered(self) -> set[object]:
        return {key.fileobj for key in self._selector.get_map().values()}

    def _serve(self, deadline: float, *, until_line: bool = True) -> bool:
        """Read and write until there is a line, stdout has ended, or time is up (False).

        Without ``until_line``: until nothing is left to read, or time is up.
        """
        while True:
            if self._outbox and self._stdin not in self._registered() and not self._stdin.closed:
                self._selector.register(self._stdin, selectors.EVENT_WRITE)
            if not self._registered():
                return True
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                self._handle(key.fileobj)
            if until_line and (self._lines or self._stdout not in self._registered()):
                return True
            if time.monotonic() >= deadline:
                return False

    def _handle(self, pipe: object) -> None:
        if pipe is self._stdin:
            self._write()
            return
        source = self._stdout if pipe is self._stdout else self._stderr
        data = os.read(source.fileno(), _READ)
        if not data:
            self._selector.unregister(source)
        elif source is self._stdout:
            self._split(data)
        else:
            self._tail = (self._tail + data)[-STDERR_TAIL:]

    def _write(self) -> None:
        try:
            written = os.write(self._stdin.fileno(), self._outbox)
        except BrokenPipeError:  # it reads no more; its end shows on stdout
            self._selector.unregister(self._stdin)
            self._stdin.close()
            self._outbox.clear()
            return
        del self._outbox[:written]
        if not self._outbox:
            self._selector.unregister(self._stdin)

    def _split(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._inbox += end
            if not self._cut:
                self._lines.append(self._inbox[:LONGEST_LINE].decode(errors="replace"))
            self._inbox.clear()
            self._cut = False
        self._inbox += rest
        if len(self._inbox) > LONGEST_LINE:
            if not self._cut:
                self._lines.append(self._inbox[:LONGEST_LINE].decode(errors="replace"))
            self._inbox.clear()
            self._cut = True

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            return "closed its output"
        if code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdin, process.stdout, process.stderr


def _end(process: subprocess.Popen[bytes], guard: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    guard.kill()
    for child in (process, guard):
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
