"""An epoch of audio-video batches by the Python package: `ours_stream.py MODULE SHARDS`, where MODULE is the compiled module.

Two threads, batches of 16, shuffled and augmented, as NumPy arrays. Items: samples.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from peer import THREADS, serve

package = tempfile.TemporaryDirectory(prefix="u2a-bench-")
source = Path(__file__).parents[2] / "python/u2a_features"
shutil.copytree(source, Path(package.name, "u2a_features"))
shutil.copy(sys.argv[1], Path(package.name, "u2a_features/_native.abi3.so"))
sys.path.insert(0, package.name)

from u2a_features import Loader  # noqa: E402  it was made above

loader = Loader(sys.argv[2], batch_size=16, threads=THREADS)


def epoch():
    total = 0.0
    for batch in loader:
        for name in ("audio", "video"):
            if name in batch:
                values = batch[name].reshape(-1)
                total += float(values[values.size // 2])
    return {"sum": total}


serve(epoch, len(loader.shards.ids("train")))
