"""What `u2a_features` promises: the trainer's batches, resuming, ranks, threads, forks, signals.

`tests/tests/python_package.rs` runs it, with a folder of shards and the digests of the Rust loader's batches.
"""

import contextlib
import glob
import hashlib
import inspect
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy as np

from u2a_features import Loader, Shards

SHARDS = os.environ["U2A_SHARDS"]
#: For each epoch, a SHA-256 per batch, of the Rust loader.
RUST = json.loads(os.environ["U2A_DIGESTS"])


def digest(batch):
    """The SHA-256 of a batch: ids, labels, availability, rows and bytes of the inputs."""
    sha = hashlib.sha256()
    for one in batch["id"]:
        sha.update(one.encode() + b"\0")
    sha.update(batch["label"].astype("<i8").tobytes())
    for name in (key[4:] for key in batch if key.startswith("has_")):
        sha.update(batch["has_" + name].tobytes())
        if name in batch:
            sha.update(batch[name + "_rows"].astype("<i8").tobytes())
            sha.update(np.ascontiguousarray(batch[name]).tobytes())
    return sha.hexdigest()


@contextlib.contextmanager
def copied_shards(split):
    """A copy of the shards: its folder, and the paths of the shards of a split."""
    with tempfile.TemporaryDirectory() as folder:
        shards = shutil.copytree(SHARDS, os.path.join(folder, "shards"))
        yield shards, glob.glob(os.path.join(shards, f"{split}-*"))


def loader(**options):
    return Loader(SHARDS, **{"batch_size": 5, "seed": 3, **options})


class Batches(unittest.TestCase):
    def test_batches_are_those_of_rust_bit_for_bit(self):
        for threads in (1, 3):
            own = loader(threads=threads)
            for epoch, want in enumerate(RUST):
                self.assertEqual(own.epoch, epoch)
                self.assertEqual([digest(batch) for batch in own], want)

    def test_arrays_have_the_documented_shapes(self):
        shards = Shards(SHARDS)
        self.assertEqual(shards.modalities, ["audio", "video"])
        own = loader(frames=2)
        batches = list(own)
        self.assertEqual(len(batches), len(own))
        self.assertEqual(sorted(i for b in batches for i in b["id"]), sorted(shards.ids("train")))
        batch = batches[0]
        present = int(batch["has_video"].sum())
        self.assertEqual(batch["video"].shape, (present, 2, 3, 224, 224))
        self.assertEqual(batch["audio"].shape[1:], (1024, 128))
        self.assertEqual((batch["audio"].dtype, batch["label"].dtype), (np.float32, np.int64))
        self.assertTrue((batch["label"] < len(shards.classes)).all())
        self.assertTrue(batch["audio"].flags.owndata or batch["audio"].base is not None)

    def test_the_memory_of_freed_arrays_is_used_again(self):
        batches = loader(batch_size=1, threads=1)
        addresses = [batch["video"].ctypes.data for batch in batches if "video" in batch]
        self.assertLess(len(set(addresses)), len(addresses) / 2)

    def test_a_loader_keeps_no_memory_between_epochs(self):
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        own = [loader(train=False, image_size=512) for _ in range(4)]
        before = resident()
        for one in own:
            # All batches are there at once, 48 MB each.
            held = list(one)
            del held
        self.assertLess(resident() - before, 200e6)

    def test_an_array_keeps_its_memory_after_its_loader(self):
        kept = [batch["video"][1:, 0] for batch in loader()]
        copies = [array.copy() for array in kept]
        others = [batch for _ in range(2) for batch in loader(seed=4)]
        self.assertTrue(others)
        for array, copy in zip(kept, copies):
            np.testing.assert_array_equal(array, copy)

    def test_the_evaluation_view_is_in_the_order_of_the_files(self):
        ids = [one for batch in loader(split="test") for one in batch["id"]]
        self.assertEqual(ids, Shards(SHARDS).ids("test"))

    def test_ranks_decode_their_part_of_the_same_batches(self):
        whole = list(loader())
        parts = [list(loader(rank=rank, world_size=2)) for rank in range(2)]
        for batch, first, second in zip(whole, *parts):
            self.assertEqual(batch["id"], first["id"])
            rows = [*first.get("audio_rows", []), *second.get("audio_rows", [])]
            self.assertEqual(rows, list(batch["audio_rows"]))
            values = [part["audio"] for part in (first, second) if "audio" in part]
            np.testing.assert_array_equal(np.concatenate(values), batch["audio"])

    def test_a_mask_is_found_by_its_name(self):
        name = "missing-both-0.7-seed0"
        whole = [digest(batch) for batch in loader()]
        sources = [name, f"masks/{name}.parquet", f"{SHARDS}/masks/{name}.parquet"]
        masked = [[digest(batch) for batch in loader(mask=mask)] for mask in sources]
        self.assertNotEqual(masked[0], whole)
        self.assertEqual(masked[1:], masked[:2])


class Resuming(unittest.TestCase):
    def test_a_state_goes_on_in_the_middle_of_an_epoch(self):
        own = loader()
        iterator = iter(own)
        for _ in range(2):
            next(iterator)
        state = pickle.loads(pickle.dumps(own.state_dict()))
        rest = [digest(batch) for batch in iterator]
        other = loader()
        other.load_state_dict(state)
        self.assertEqual([digest(batch) for batch in other], rest)
        self.assertEqual([digest(batch) for batch in other], RUST[1], "then the next epoch follows")

    def test_a_state_of_another_loader_is_refused(self):
        state = loader().state_dict()
        others = [{"seed": 4}, {"split": "test"}, {"train": False}, {"batch_size": 4}]
        for other in map(lambda options: loader(**options), others):
            with self.assertRaisesRegex(ValueError, "of another loader"):
                other.load_state_dict(state)
        with self.assertRaisesRegex(ValueError, "consumed"):
            loader().load_state_dict({**state, "consumed": 10**9})
        with self.assertRaisesRegex(ValueError, "has no"):
            loader().load_state_dict({})

    def test_a_pickled_loader_has_the_same_arguments_and_state(self):
        own = loader(train=False, mask="missing-both-0.7-seed0", frames=2, image_size=64)
        iterator = iter(own)
        next(iterator)
        other = pickle.loads(pickle.dumps(own))
        self.assertEqual(other.state_dict(), own.state_dict())
        self.assertEqual([digest(batch) for batch in other], [digest(batch) for batch in iterator])
        shards = pickle.loads(pickle.dumps(own.shards))
        self.assertEqual(shards.fingerprint, own.shards.fingerprint)

    def test_an_epoch_that_is_set_in_a_loop_is_the_next_one(self):
        own = loader()
        for number, _ in enumerate(own):
            if number == 1:
                own.set_epoch(5)
        state = own.state_dict()
        self.assertEqual((state["epoch"], state["consumed"]), (5, 0))

    def test_a_loop_after_a_break_restarts_the_epoch(self):
        own = loader()
        for _ in own:
            break
        self.assertEqual([digest(batch) for batch in own], RUST[0])


class Threads(unittest.TestCase):
    def test_threads_end_with_a_break(self):
        before = len(os.listdir("/proc/self/task"))
        for _ in range(20):
            for _ in loader(threads=4):
                break
        self.assertLessEqual(len(os.listdir("/proc/self/task")), before + 1)

    def assert_other_threads_run(self, call):
        counts = []
        stop = threading.Event()

        def count():
            n = 0
            while not stop.is_set():
                n += 1
                time.sleep(0.001)
            counts.append(n)

        thread = threading.Thread(target=count)
        thread.start()
        start = time.monotonic()
        call()
        seconds = time.monotonic() - start
        stop.set()
        thread.join()
        # With the lock held it would not have counted at all. A short call may end before it does.
        self.assertGreater(counts[0] + 1, 20 * seconds)

    def test_other_threads_run_while_a_batch_is_waited_for(self):
        self.assert_other_threads_run(lambda: list(loader(threads=1)))

    def test_other_threads_run_while_a_dropped_iterator_ends(self):
        iterators = [iter(loader(batch_size=12, threads=1, image_size=1000, frames=9))]
        time.sleep(0.2)
        self.assert_other_threads_run(iterators.clear)

    def test_ctrl_c_interrupts_a_loop(self):
        code = (
            "import signal, sys\nfrom u2a_features import Loader\n"
            # A process in the background of a shell inherits that SIGINT is ignored.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "print('started', flush=True)\n"
            "while True:\n    for batch in Loader(sys.argv[1], batch_size=2): pass\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, SHARDS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.assertEqual(child.stdout.readline().strip(), b"started")
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
        self.assertIn(b"KeyboardInterrupt", errors)


class Forks(unittest.TestCase):
    def in_a_fork(self, call):
        """What `call` returns in a forked process."""
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                text = str(call())
            except BaseException as error:  # noqa: BLE001  the parent looks at it
                text = f"{type(error).__name__}: {error}"
            os.write(write, text.encode())
            os._exit(0)
        os.close(write)
        text = os.read(read, 1 << 20).decode()
        os.close(read)
        os.waitpid(process, 0)
        return text

    def test_a_loader_works_in_a_forked_process(self):
        own = loader()
        want = RUST[0]
        self.assertEqual(self.in_a_fork(lambda: [digest(b) for b in own] == want), "True")
        self.assertEqual([digest(b) for b in own], want)

    def test_other_shards_in_a_forked_process_are_refused(self):
        with copied_shards("test") as (shards, files):
            own = Loader(shards)
            for file in files:
                os.remove(file)
            self.assertIn("holds other samples", self.in_a_fork(lambda: len(list(own))))

    def test_an_iterator_of_the_parent_is_refused(self):
        iterator = iter(loader())
        next(iterator)
        self.assertIn("iterate over the Loader anew", self.in_a_fork(lambda: next(iterator)))
        next(iterator)

    def test_an_iterator_of_the_parent_can_be_closed_while_a_thread_waits_for_it(self):
        # The first batch takes longer than the forks.
        iterator = iter(loader(batch_size=48, threads=1, image_size=1000, frames=9))
        thread = threading.Thread(target=lambda: next(iterator, None))
        thread.start()
        time.sleep(0.1)
        for _ in range(5):
            process = os.fork()
            if process == 0:
                signal.alarm(10)
                iterator.close()
                os._exit(0)
            self.assertEqual(os.waitpid(process, 0)[1], 0)
        iterator.close()
        thread.join()


class Documentation(unittest.TestCase):
    def test_help_describes_every_argument(self):
        for name in inspect.signature(Loader).parameters:
            self.assertRegex(inspect.getdoc(Loader), rf"\b{name}\b.*:")


class Errors(unittest.TestCase):
    def test_errors_name_what_is_wrong(self):
        numbers = [
            "batch_size", "threads", "frames", "image_size", "mel_frames", "text_length", "world_size"
        ]
        for options, words in [
            ({"split": "tran"}, "split"),
            ({"split": "val"}, "no samples of the split val"),
            *(({name: value}, f"{name}={value}") for name in numbers for value in (0, 2**62)),
            ({"rank": 2, "world_size": 2}, "rank=2"),
            ({"mask": "/no/such/mask"}, "mask"),
        ]:
            with self.assertRaises((ValueError, OSError)) as caught:
                loader(**options)
            self.assertIn(words, str(caught.exception))
        with self.assertRaisesRegex((ValueError, OSError), "/no/such/folder"):
            Loader("/no/such/folder")
        with self.assertRaisesRegex(ValueError, "empty path"):
            Loader("")

    def test_a_batch_that_does_not_fit_into_memory_is_an_error(self):
        with self.assertRaisesRegex(ValueError, "smaller batches"):
            next(iter(loader(batch_size=48, frames=4096, image_size=8192)))

    def test_an_epoch_that_fails_is_not_counted(self):
        with copied_shards("train") as (shards, files):
            own = Loader(shards)
            for file in files:
                os.truncate(file, 1000)
            iterator = iter(own)
            with self.assertRaises((ValueError, OSError)):
                next(iterator)
            self.assertEqual(list(iterator), [])
            self.assertEqual(own.epoch, 0)


class Torch(unittest.TestCase):
    def setUp(self):
        try:
            import torch  # noqa: F401
        except ImportError:
            self.skipTest("PyTorch is not installed")

    def test_tensors_share_the_arrays_memory(self):
        import torch

        batch = next(iter(loader()))
        tensor = torch.from_numpy(batch["audio"])
        tensor[0, 0, 0] = 42.0
        self.assertEqual(batch["audio"][0, 0, 0], 42.0)

    def test_a_data_loader_takes_the_batches(self):
        from torch.utils.data import DataLoader

        from u2a_features.torch import TorchBatches

        own = loader()
        batches = DataLoader(TorchBatches(own), batch_size=None)
        self.assertEqual(len(batches), len(own))
        for epoch, want in enumerate(RUST):
            self.assertEqual(own.state_dict()["epoch"], epoch)
            arrays = (
                {k: v.numpy() if hasattr(v, "numpy") else v for k, v in b.items()} for b in batches
            )
            self.assertEqual([digest(batch) for batch in arrays], want)

    def test_worker_processes_are_refused(self):
        from torch.utils.data import DataLoader

        from u2a_features.torch import TorchBatches

        for workers in (1, 2):
            batches = DataLoader(TorchBatches(loader()), batch_size=None, num_workers=workers)
            with self.assertRaisesRegex(ValueError, "num_workers=0"):
                list(batches)


if __name__ == "__main__":
    unittest.main()
