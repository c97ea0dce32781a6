"""Tests of the GPU check with programs that are simulated, without a GPU:

    python3 -W ignore -m unittest discover tests/gpu
"""

import fcntl
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
from pathlib import Path

import check_process
from check_process import Failure, Log, Process
from forecast import forecast


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


class CheckTest(Folder):
    def check(self, train, *flags, minutes=1.0, python="/nonexistent/python", **variables):
        """Runs the check with a simulated program, as on a GPU. Programs beside it hide others of their names."""
        script = Path(check_process.__file__).with_name("gpu_check.py")
        command = [sys.executable, script, "--tiny", "--train", self.program("train", train), "--shards", self.folder / "shards"]
        # The checkout may hold a bundle, which would be taken otherwise.
        command += ["--bundle", self.folder / "bundle", "--out", self.folder / "out", "--minutes", str(minutes), *flags]
        environment = {**os.environ, "U2A_PYTHON": str(python), "PATH": f"{self.folder}:{os.environ['PATH']}", **variables}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
        self.printed = done.stdout
        summary = self.folder / "out" / "gpu-check.json"
        return json.loads(summary.read_text()) if summary.is_file() else None

    def lines(self, kind):
        lines = map(json.loads, (self.folder / "out" / "results.jsonl").read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]


class SelftestTest(CheckTest):
    # Of its cases a, c and e are right, b breaks the context, d says nothing more, and f ends the process.
    TRAIN = """
    case "$*" in
    selftest*)
        behind=
        case "$*" in *--only*) exit 0 ;; *--after*) behind=${*##*--after } ;; esac
        lost=
        for name in a b c d e f g; do
            if [ -n "$behind" ]; then
                [ "$behind" != $name ] || behind=
                continue
            fi
            echo "{\\"begin\\": \\"$name\\"}"
            [ $name != d ] || exec sleep 100
            [ $name != f ] || { echo 'a bad index' >&2; exit 101; }
            [ $name != b ] || lost='"failure": "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \\"an illegal memory access\\")",'
            for precision in f32 bf16; do
                found='"ok": true'
                [ -z "$lost" ] || found="$lost \\"ok\\": false"
                echo "{\\"case\\": \\"$name\\", \\"precision\\": \\"$precision\\", $found}"
            done
        done
        echo '{"summary": {}}'
        ;;
    *) echo '{}' ;;
    esac
    """.replace("\\\\", "\\")

    def test_another_process_goes_on_behind_a_case_that_ends_one(self):
        summary = self.check(self.TRAIN, "--patience", "0.05")
        found = [(line["case"], line["ok"]) for line in self.lines("selftest")]
        right = [(case, True) for case in "aaccee"]
        self.assertEqual(found, [*right[:2], ("b", False), *right[2:], ("g", True), ("g", True)])
        findings = [text for text in summary["findings"] if text.startswith("selftest: ")]
        for text, part in zip(findings, ("ILLEGAL_ADDRESS", "selftest: d: no answer in ", "selftest: f: ended with exit code 101"), strict=True):
            self.assertIn(part, text)
        self.assertIn("its last words: a bad index", findings[2])

    def test_each_case_that_ended_a_process_is_looked_at_by_memcheck(self):
        self.program("compute-sanitizer", 'echo "========= ERROR SUMMARY: 0 errors"\n')
        self.check(self.TRAIN, "--patience", "0.05", minutes=8)
        names = [line["name"] for line in self.lines("memcheck") if "memcheck of " in line["name"]]
        self.assertEqual(names[:3], [f"memcheck of {case}" for case in "bdf"])

    def test_an_answer_that_is_no_result_is_a_finding(self):
        summary = self.check("echo '{}'\n")
        self.assertIn("selftest: answered {}, which is no result", summary["findings"])
        self.assertIn("ours", summary["seconds"])

    def test_a_program_that_ends_before_its_first_case_is_not_started_again(self):
        summary = self.check("echo 'no GPU' >&2\nexit 2\n")
        findings = [text for text in summary["findings"] if text.startswith("selftest: ")]
        self.assertEqual(len(findings), 2, findings)
        self.assertIn("exit code 2; its last words: no GPU", findings[0])
        self.assertIn("no comparison was made", findings[1])


class SanitizerTest(CheckTest):
    TRAIN = """
    case "$*" in
    selftest*) echo '{"begin": "a"}'; echo '{"case": "a", "precision": "f32", "ok": true}'; echo '{"summary": {}}'; exit $SELFTEST ;;
    run*) exit $RUN ;;
    *) echo '{}' ;;
    esac
    """
    # Runs the program as compute-sanitizer does.
    TOOL = """
    echo "$*" >>"$0.calls"
    while [ "$1" != --error-exitcode ]; do
        [ "$1" != "$UNKNOWN" ] || { echo "unrecognised option '$1'" >&2; exit 1; }
        tool="$tool $1"
        shift
    done
    shift 2
    "$@"
    code=$?
    echo '========= COMPUTE-SANITIZER'
    case "$tool" in
    *racecheck*) echo '========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)' ;;
    *) echo "========= ERROR SUMMARY: $ERRORS errors" ;;
    esac
    exit $code
    """
    RUN, SELFTEST, RACES = "memcheck of run crema-d", "memcheck of selftest", "racecheck of attention"

    def sanitize(self, run=0, selftest=0, errors=0, unknown="none"):
        """What the tool found clean, and the findings about the others."""
        shards = self.folder / "shards" / "crema-d"
        shards.mkdir(parents=True, exist_ok=True)
        (shards / "manifest.json").write_text("{}")
        self.program("compute-sanitizer", self.TOOL)
        values = {"RUN": run, "SELFTEST": selftest, "ERRORS": errors, "UNKNOWN": unknown}
        with unittest.mock.patch.dict(os.environ, {name: str(value) for name, value in values.items()}):
            summary = self.check(self.TRAIN, minutes=8)
        table = (self.folder / "out" / "gpu-check.md").read_text()
        for name, text in summary["memcheck"].items():
            self.assertIn(f"- {name}: {text}", table)
        return summary["memcheck"], [text for text in summary["findings"] if text.split(":")[0] in (self.RUN, self.SELFTEST, self.RACES)]

    def test_a_clean_program_is_named_and_the_training_comes_first(self):
        clean, findings = self.sanitize()
        self.assertEqual(findings, [])
        self.assertEqual(list(clean), [self.RUN, self.SELFTEST, self.RACES])
        self.assertEqual(clean[self.RUN], "ERROR SUMMARY: 0 errors")
        calls = (self.folder / "compute-sanitizer.calls").read_text().splitlines()
        self.assertIn("--tool memcheck --track-stream-ordered-races all", calls[0])
        self.assertIn("--tool racecheck --error-exitcode", calls[-1])

    def test_a_program_that_failed_was_not_checked(self):
        clean, findings = self.sanitize(run=3)
        self.assertNotIn(self.RUN, clean)
        self.assertEqual(len(findings), 1)
        self.assertIn("exit code 3", findings[0])

    def test_wrong_numbers_are_no_finding_of_memcheck(self):
        clean, findings = self.sanitize(selftest=1)
        self.assertEqual((list(clean), findings), ([self.RUN, self.SELFTEST, self.RACES], []))

    def test_wrong_accesses_are_findings(self):
        clean, findings = self.sanitize(errors=2)
        self.assertEqual((list(clean), len(findings)), ([self.RACES], 2))
        self.assertIn("ERROR SUMMARY: 2 errors", findings[0])

    def test_a_version_without_the_check_of_freed_memory_does_the_rest(self):
        clean, _ = self.sanitize(unknown="--track-stream-ordered-races")
        self.assertEqual(clean[self.RUN], "ERROR SUMMARY: 0 errors, without --track-stream-ordered-races all")

    def test_a_tool_that_does_not_work_is_skipped(self):
        self.program("compute-sanitizer", "echo 'no permission' >&2; exit 1\n")
        summary = self.check(self.TRAIN, minutes=8)
        self.assertIn("no permission", next(text for text in summary["skipped"] if text.startswith(self.SELFTEST)))


class ProfileTest(CheckTest):
    def test_the_profile_covers_one_step_after_the_first(self):
        self.program(
            "ncu",
            """
            echo "$*" >"$0.call"
            while [ "$1" != --log-file ]; do shift; done
            wc -l >"$0.steps"
            printf '"ID","Kernel Name"\\n"","name"\\n"0","norm"\\n"1","attention"\\n' >"$2"
            """,
        )
        summary = self.check("echo '{}'\n", minutes=8)
        self.assertIsNotNone(summary["profile"], self.printed)
        self.assertEqual(summary["profile"]["launches"], 2)
        call = (self.folder / "ncu.call").read_text().split()
        skipped, profiled = (int(call[call.index(flag) + 1]) for flag in ("--launch-skip", "--launch-count"))
        step = forecast("audio-video", 8)
        step = step["launches"] + step["products"]
        steps = int((self.folder / "ncu.steps").read_text())
        self.assertTrue(step < skipped and step < profiled and skipped + profiled < steps * step)


class KernelsTest(CheckTest):
    # A Python with PyTorch, and kernels.py in it.
    PYTHON = """
    case "$*" in
    -c*) echo '{"missing": ["peft"], "libraries": []}' ;;
    *kernels.py*)
        echo "$*" >"$0.call"
        while [ "$1" != --out ]; do shift; done
        printf '{"kind": "finding", "text": "a wrong sum"}\\n{"kind": "ca' >"$2"
        echo 'out of disk' >&2
        exit 7
        ;;
    esac
    """

    def kernels(self, python, *flags, **tools):
        summary = self.check("echo '{}'\n", *flags, minutes=8, python=python, PATH=str(self.folder), CUDA_HOME="", CUDA_PATH="", **tools)
        return [[text for text in summary[kind] if text.startswith("kernels: ")] for kind in ("findings", "skipped")]

    def setUp(self):
        super().setUp()
        for tool in ("sleep", "env"):
            (self.folder / tool).symlink_to(shutil.which(tool))

    def test_kernels_are_skipped_without_pytorch_or_compilers(self):
        findings, skipped = self.kernels("/nonexistent/python")
        self.assertEqual((findings, len(skipped)), ([], 1))
        self.assertIn("/nonexistent/python does not run", skipped[0])
        if glob.glob("/usr/local/cuda*/bin/nvcc"):
            self.skipTest("this machine has an nvcc where it is always found")
        python = self.program("python", self.PYTHON)
        self.assertEqual(self.kernels(python, CXX=""), ([[], ["kernels: no C++ compiler: set CXX"]]))
        findings, skipped = self.kernels(python, CXX="c++")
        self.assertEqual(findings, [])
        self.assertIn("kernels: no nvcc in PATH", skipped[0])

    def test_compiled_kernels_stand_in_for_nvcc(self):
        if glob.glob("/usr/local/cuda*/bin/nvcc"):
            self.skipTest("this machine has an nvcc where it is always found")
        python = self.program("python", self.PYTHON)
        cubin = self.folder / "kernels.cubin"
        cubin.write_text("")
        self.kernels(python, "--bundle", str(self.folder), CXX="c++")
        self.assertIn(f"--cubin {cubin}", (self.folder / "python.call").read_text())
        self.program("nvcc", "")
        self.kernels(python, "--bundle", str(self.folder), CXX="c++")
        self.assertNotIn("--cubin", (self.folder / "python.call").read_text())

    def test_results_before_an_unfinished_line_and_the_cause_are_reported(self):
        python = self.program("python", self.PYTHON)
        self.program("nvcc", "")
        findings, _ = self.kernels(python, CXX="c++")
        self.assertEqual(findings[0], "kernels: a wrong sum")
        self.assertIn("exit code 7; its last words: out of disk", findings[1])


class ResultsTest(CheckTest):
    def test_two_checks_at_once_do_not_write_into_one_folder(self):
        self.check("echo '{}'\n")
        results = self.folder / "out" / "results.jsonl"
        before = results.read_text()
        with results.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.check("echo '{}'\n")
        self.assertIn(f"error: {self.folder}/out: another check is writing its results there", self.printed)
        self.assertEqual(results.read_text(), before)
        (self.folder / "out" / "kernels.jsonl").write_text("of an earlier check")
        self.check("echo '{}'\n")
        self.assertIn(f"{self.folder}/out: the results of an earlier check in it are replaced", self.printed)
        self.assertEqual(len(self.lines("skipped")), len([line for line in before.splitlines() if '"kind": "skipped"' in line]))
        self.assertFalse((self.folder / "out" / "kernels.jsonl").exists())


class BundleTest(CheckTest):
    """The bundle, made in a copy of the scripts with programs and a toolkit that are simulated, and the check in it."""

    @unittest.skipUnless(shutil.which("git") and shutil.which("xz"), "git and xz make a bundle")
    def test_results_name_the_commit_of_the_program(self):
        root, bundle = Path(check_process.__file__).parents[2], self.folder / "target/gpu-check/bundle"
        scripts = self.folder / "scripts"
        scripts.mkdir()
        shutil.copy(root / "scripts/gpu-check", scripts)
        for folder in ("tests/gpu", "tests/bench", "tests/golden", "train/engine/cuda"):
            shutil.copytree(root / folder, self.folder / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        (self.folder / "target/release").mkdir(parents=True)
        (self.folder / "target/release/.train-build").write_text("build: train for NVIDIA GPUs (sm_90a, toolkit in /x) and the CPU\n")
        self.program("target/release/train", "echo '{}'\n")
        # It makes shards.
        self.program("target/release/ingest", 'while [ "$1" != --out ]; do shift; done\nmkdir -p "$2"; echo "{}" >"$2/manifest.json"\n')
        self.program("scripts/build-cuda", "")
        self.program("scripts/cuda-toolkit", f"echo {self.folder}/toolkit\n")
        (self.folder / "toolkit/bin").mkdir(parents=True)
        self.program("toolkit/bin/nvcc", 'echo "$*" >"$(echo "$*" | sed "s/.* -o \\([^ ]*\\) .*/\\1/")"\n')

        def call(*command):
            return subprocess.run(command, cwd=self.folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()

        names = {f"GIT_{who}_{what}": "nobody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {**os.environ, **names, "U2A_PYTHON": "/nonexistent/python"}
        environment.pop("CARGO_TARGET_DIR", None)
        call("git", "init", "--quiet")
        call("git", "add", "scripts/gpu-check")
        call("git", "commit", "--quiet", "--message", "first")
        commit = call("git", "rev-parse", "HEAD")
        for changes, revision in (("", commit), ("# changed\n", f"{commit}, with changes")):
            with (scripts / "gpu-check").open("a") as file:
                file.write(changes)
            call("scripts/gpu-check", "--bundle")
            self.assertIn("-arch=sm_90a -cubin", (bundle / "kernels.cubin").read_text())
            script = bundle / "tests/gpu/gpu_check.py"
            with self.assertRaises(subprocess.CalledProcessError):
                call(sys.executable, script, "--device", "cpu", "--tiny", "--out", self.folder / "out")
            summary = json.loads((self.folder / "out" / "gpu-check.json").read_text())
            self.assertEqual(summary["machine"]["program"]["revision"], revision)
            self.assertIn(f" Program of commit: {revision}.", (self.folder / "out" / "gpu-check.md").read_text())


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
        for ignored, number in ((None, signal.SIGTERM), (None, signal.SIGHUP), (None, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)):
            train = self.program(f"train{ignored}{number}", 'case "$*" in selftest*) ' + self.TOOL.strip() + ' ;; *) echo "{}" ;; esac\n')
            script = Path(check_process.__file__).with_name("gpu_check.py")
            flags = ["--device", "cpu", "--tiny", "--train", train, "--shards", self.folder, "--out", self.folder / "out"]
            environment = dict(os.environ, U2A_PYTHON="/nonexistent/python")
            start = ["nohup"] if ignored else []
            command = [*start, sys.executable, script, *flags]
            # Whoever runs the tests may ignore SIGHUP, which a process inherits.
            usual = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
            check = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, preexec_fn=usual)
            child = self.child(train)
            if ignored:
                check.send_signal(ignored)
                with self.assertRaises(subprocess.TimeoutExpired):
                    check.wait(1)
            check.send_signal(number)
            self.assertNotEqual(check.wait(20), 0)
            self.assertTrue(wait_until(lambda: not runs(child)))


if __name__ == "__main__":
    unittest.main()
