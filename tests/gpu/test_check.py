"""Tests of the GPU check with programs that are simulated, without a GPU:

    python3 -W ignore -m unittest discover tests/gpu
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import check_process
from check_process import Failure, Log, Process


def runs(pid):
    """Whether a process runs; one that waits for its parent to read its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


class Folder(unittest.TestCase):
    """A test with a folder for programs and results."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def program(self, name, text):
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path


class ProcessTest(Folder):
    # Like compute-sanitizer, it runs a program and waits for it.
    TOOL = 'sleep 200 & echo $! >"$0.child"; wait\n'

    def child(self, tool):
        path = tool.with_name(tool.name + ".child")
        self.assertTrue(wait_until(lambda: path.is_file() and path.read_text().strip()))
        return int(path.read_text())

    def test_a_tool_is_killed_with_the_program_that_it_runs(self):
        tool = self.program("tool", self.TOOL)
        process = Process("tool", [tool], dict(os.environ), Log(self.folder / "log"))
        child = self.child(tool)
        with self.assertRaisesRegex(Failure, "no answer in 0 s"):
            process.end(0.2)
        self.assertTrue(wait_until(lambda: not runs(child)))

    def test_what_a_program_leaves_behind_ends_with_it(self):
        tool = self.program("tool", 'sleep 200 >/dev/null 2>&1 & echo $! >"$0.child"\necho done\n')
        process = Process("tool", [tool], dict(os.environ), Log(self.folder / "log"))
        self.assertEqual(process.end(20), (0, ["done\n"]))
        child = self.child(tool)
        self.assertTrue(wait_until(lambda: not runs(child)))
        process.close()

    def test_an_end_from_outside_ends_all_programs(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            train = self.program(f"train{number}", 'case "$*" in selftest*) ' + self.TOOL.strip() + ' ;; *) echo "{}" ;; esac\n')
            script = Path(check_process.__file__).with_name("gpu_check.py")
            flags = ["--device", "cpu", "--tiny", "--train", train, "--shards", self.folder, "--out", self.folder / "out"]
            environment = dict(os.environ, U2A_PYTHON="/nonexistent/python")
            check = subprocess.Popen(
                [sys.executable, script, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
            )
            child = self.child(train)
            check.send_signal(number)
            self.assertNotEqual(check.wait(20), 0)
            self.assertTrue(wait_until(lambda: not runs(child)))


if __name__ == "__main__":
    unittest.main()
