"""The processes of the GPU check. Every wait for one has a limit, and what they print goes to a file at once."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from contextlib import contextmanager

# The lines of a process that are kept for the message about its end.
LAST_LINES = 12
# The most that the file of what all processes print may have.
LOG_CHARACTERS = 12_000_000
# The time that a killed process has to be gone.
KILL_SECONDS = 10
# The signals that end the check from outside.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failure(Exception):
    """A process that did not do what it was asked for: what it did instead, with its last words."""


class Log:
    """The file of what all processes print, up to a size."""

    def __init__(self, path):
        self.file = path.open("w", errors="replace")
        self.lock, self.left = threading.Lock(), LOG_CHARACTERS

    def write(self, name, line):
        text = f"[{name}] {line.rstrip()}\n"
        with self.lock:
            self.left -= len(text)
            if self.left > 0:
                self.file.write(text)
                self.file.flush()


class Process:
    """A running program, with the processes that it starts. Threads read its output, so that it never waits for a reader."""

    def __init__(self, name, command, environment, log, stdin=subprocess.PIPE):
        self.name, self.log = name, log
        self.lines, self.last = queue.Queue(), deque(maxlen=LAST_LINES)
        self.closed = False
        command = [str(word) for word in command]
        log.write(name, "$ " + " ".join(command))
        try:
            # In a process group of its own: a tool such as compute-sanitizer is killed with the program that it has started.
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
            )
        except OSError as problem:
            raise Failure(f"{command[0]} cannot be started: {problem}") from None
        self.readers = []
        for pipe, lines in ((self.process.stdout, self.lines), (self.process.stderr, None)):
            self.readers.append(threading.Thread(target=self._pump, args=(pipe, lines), daemon=True))
            self.readers[-1].start()

    def _pump(self, pipe, lines):
        for line in pipe:
            self.log.write(self.name, line)
            if lines is None:
                self.last.append(line.strip())
            else:
                lines.put(line)
        if lines is not None:
            lines.put(None)

    def line(self, limit):
        """The next line of standard output, or None at its end."""
        try:
            return self.lines.get(timeout=max(limit, 0.1))
        except queue.Empty:
            self.close()
            raise Failure(f"no answer in {limit:.0f} s{self.last_words()}") from None

    def end(self, limit):
        """Waits for the end; returns the exit code and the lines that were not read yet."""
        deadline, found = time.monotonic() + limit, []
        while (line := self.line(deadline - time.monotonic())) is not None:
            found.append(line)
        return self.exit_code(), found

    def exit_code(self):
        try:
            return self.process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"closed its output and did not end{self.last_words()}") from None
        finally:
            self.close()

    def last_words(self):
        if self.process.poll() is not None:
            self.readers[1].join(1)
        words = " | ".join(line for line in list(self.last) if line)
        return f"; its last words: {words[-700:]}" if words else ""

    def close(self):
        """Kills the process, and those that it has started, if they still run."""
        if self.closed:
            return  # Another process may have got its number.
        self.closed = True
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass  # All have ended.
        try:
            self.process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.log.write(self.name, "cannot be killed")


class Worker(Process):
    """A process that does one unit of work for each line of input and answers with a line of JSON."""

    def send(self, request):
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # It has ended; `answer` says how.

    def end_input(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass  # It has ended.

    def answer(self, limit):
        """The next answer. Lines that are no JSON objects, such as a library's warnings, are passed over."""
        deadline = time.monotonic() + limit
        while True:
            line = self.line(deadline - time.monotonic())
            if line is None:
                raise Failure(f"ended with exit code {self.exit_code()}{self.last_words()}")
            if not line.startswith("{"):
                continue
            try:
                return json.loads(line)
            except ValueError:
                raise Failure(f"answered {line.strip()[:200]!r}, which is no JSON") from None

    def ask(self, request, limit):
        self.send(request)
        return self.answer(limit)


@contextmanager
def without_interruption():
    """Puts off an end from outside while a process begins, so that no process is left that nothing would close."""
    late = []
    handlers = {number: signal.signal(number, lambda number, _: late.append(number)) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in late:
            signal.raise_signal(number)


def environment(libraries):
    """This process's environment, in which programs find the CUDA libraries of PyTorch's packages."""
    found = dict(os.environ, HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
    known = found.get("LD_LIBRARY_PATH")
    folders = [*libraries, *([known] if known else [])]
    if folders:
        found["LD_LIBRARY_PATH"] = ":".join(folders)
    return found
