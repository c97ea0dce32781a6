"""Runs every golden script of this folder and prints what differs from the files that were there before.

`python make.py [SCRIPT...] [--tolerance T]`. Exit 0: every file is the same, or differs by at most T (largest
difference over largest magnitude; 1e-6 by default, since processors round differently); 1: a file differs by more, is new
or is missing; 2: a script failed. The new files stay, to be examined with `git diff --stat`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load

HERE = Path(__file__).resolve().parent
# The models come first: the other scripts load them.
FIRST = ["models.py"]
NOT_SCRIPTS = {"common.py", "make.py"}
# Real media beside the checkout; if it is missing, a script leaves the files that need it as they are.
MEDIA = HERE.parents[2] / "shared" / "media"
ARGUMENTS = {"mel.py": [MEDIA / "audio" / "mmaction2_test_2ch_16k.wav"]}


def snapshot():
    return {
        p.relative_to(HERE): p.read_bytes()
        for p in sorted(HERE.rglob("*"))
        if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts
    }


def tensors(path, data):
    """The tensors of a file; None if it is a file of another kind."""
    if path.suffix == ".safetensors":
        return load(data)
    if path.suffix == ".f32":
        return {"values": np.frombuffer(data, "<f4")}
    return None


def difference(old, new):
    """(relative difference, tensor) of two files' tensors; infinite if their names, types or shapes differ."""
    for k in sorted(old.keys() ^ new.keys()):
        return float("inf"), f"{k} is in one of them only"
    worst = (0.0, "")
    for k in sorted(old):
        if old[k].shape != new[k].shape or old[k].dtype != new[k].dtype:
            return float("inf"), f"{k}: {old[k].dtype}{old[k].shape} became {new[k].dtype}{new[k].shape}"
        a, b = old[k].astype(np.float64), new[k].astype(np.float64)
        if a.size and not np.array_equal(a, b):
            worst = max(worst, (float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)), k))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT")
    parser.add_argument("--tolerance", type=float, default=1e-6)
    args = parser.parse_args()
    scripts = args.scripts or FIRST + sorted(
        p.name for p in HERE.glob("*.py") if p.name not in NOT_SCRIPTS and p.name not in FIRST
    )
    before = snapshot()
    for script in scripts:
        print(f"== {script}", flush=True)
        arguments = [path for path in ARGUMENTS.get(script, []) if path.exists()]
        if subprocess.run([sys.executable, HERE / script, *arguments], cwd=HERE).returncode:
            print(f"error: {script} failed", file=sys.stderr)
            return 2
    after, far = snapshot(), 0
    print("== compared with the previous files")
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old is None or new is None:
            far += 1
            print(f"{path}: {'new' if old is None else 'missing'}")
        elif tensors(path, new) is not None:
            by, what = difference(tensors(path, old), tensors(path, new))
            far += by > args.tolerance
            print(f"{path}: by {by:.1e} ({what or 'values equal, bytes differ'})")
        else:
            # The JSON beside a safetensors file has rounding errors; the tensors decide.
            companion = path.with_suffix(".safetensors") in after
            far += not companion
            print(f"{path}: text differs")
    print("no difference" if before == after else f"{far} differ by more than {args.tolerance}")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
