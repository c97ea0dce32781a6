"""Every kind of JPEG that libjpeg's `cjpeg` writes, decoded by Pillow.

`jpeg/` holds the files, `jpeg.json` their sizes and the SHA-256 of their RGB values, row by row, as `convert("RGB")` gives
them. Without `cjpeg` the files stay as they are, and only the values are computed anew.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from common import HERE, rng
from PIL import Image

FOLDER = HERE / "jpeg"
SAMPLINGS = {"444": "1x1", "422": "2x1", "420": "2x2", "440": "1x2", "411": "4x1", "441": "1x4", "mixed": "2x2,2x1,1x2"}
# One scan for each component; two scans; one component in two scans, as only progressive files have it.
SCANS = {"split": "0;\n1;\n2;\n", "two": "0;\n1 2;\n", "chroma_first": "2;\n1;\n0;\n"}
PROGRESSIVE = "0 1 2: 0-0, 0, 0;\n0: 1-63, 0, 0;\n1: 1-63, 0, 0;\n2: 1-63, 0, 0;\n"
SIZES = [(1, 1), (2, 3), (7, 9), (8, 8), (9, 16), (16, 17), (17, 33), (33, 17)]


def scene(width, height, *name):
    """Waves, one box with hard edges and noise."""
    draw = rng("jpeg", width, height, *name)
    y, x = np.mgrid[0:height, 0:width] / 40
    out = np.empty((height, width, 3))
    for c in range(3):
        out[..., c] = 128 + 90 * np.sin(draw.uniform(2, 9) * x + draw.uniform(2, 9) * y + draw.uniform(0, 6))
    out[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = draw.uniform(0, 255, 3)
    return np.clip(out + draw.normal(0, 6, out.shape), 0, 255).astype(np.uint8)


def kinds():
    """The name, the size and the options of each file."""
    size = (43, 37)
    for sampling, factors in SAMPLINGS.items():
        sample = ["-sample", factors]
        yield f"{sampling}", size, sample
        yield f"{sampling}_progressive", size, [*sample, "-progressive"]
        yield f"{sampling}_split", size, [*sample, "-scans", "split"]
    yield "optimized", size, ["-optimize"]
    yield "baseline_tables", size, ["-quality", "5", "-baseline"]
    yield "wide_tables", size, ["-quality", "1"]
    yield "best", size, ["-quality", "100", "-sample", "1x1"]
    yield "arithmetic", size, ["-arithmetic"]
    yield "arithmetic_progressive", size, ["-arithmetic", "-progressive"]
    yield "gray", size, ["-grayscale"]
    yield "gray_progressive", size, ["-grayscale", "-progressive"]
    yield "rgb", size, ["-rgb"]
    yield "rgb_split", size, ["-rgb", "-scans", "split"]
    yield "rgb_progressive", size, ["-rgb", "-progressive"]
    yield "restart_rows", size, ["-restart", "1"]
    yield "restart_blocks", size, ["-restart", "2B"]
    yield "restart_split", size, ["-restart", "3B", "-scans", "split"]
    yield "restart_progressive", size, ["-restart", "1", "-progressive"]
    yield "smooth", size, ["-smooth", "30"]
    yield "fast_dct", size, ["-dct", "fast"]
    yield "float_dct", size, ["-dct", "float"]
    for name in SCANS:
        yield f"scans_{name}", size, ["-scans", name]
        yield f"scans_{name}_large", (150, 120), ["-scans", name]
    yield "scans_progressive", size, ["-scans", "progressive"]
    for width, height in SIZES:
        for name, options in (("", []), ("_split", ["-scans", "split"]), ("_progressive", ["-progressive"])):
            yield f"{width}x{height}{name}", (width, height), options


def make():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, text in {**SCANS, "progressive": PROGRESSIVE}.items():
            (folder / name).write_text(text)
        for name, (width, height), options in kinds():
            Image.fromarray(scene(width, height, name)).save(folder / "image.ppm")
            quality = [] if "-quality" in options else ["-quality", "85"]
            out = FOLDER / f"{name}.jpg"
            subprocess.run(["cjpeg", *quality, *options, "-outfile", out, "image.ppm"], cwd=folder, check=True)


def main():
    if shutil.which("cjpeg"):
        make()
    else:
        print("no cjpeg: the files stay")
    values = {}
    for path in sorted(FOLDER.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        values[path.stem] = [*image.size, hashlib.sha256(image.tobytes()).hexdigest()]
    (HERE / "jpeg.json").write_text(json.dumps(values, indent=1) + "\n")
    print(f"jpeg.json: {len(values)} files, {sum(p.stat().st_size for p in FOLDER.iterdir())} bytes")


if __name__ == "__main__":
    main()
