"""Golden images, and the outputs of Pillow and Hugging Face's CLIPImageProcessor (the one on PIL) for them.

`image/` has small seeded images of every format and colour model that is read, `image.safetensors` the outputs:

view.NAME      test-time view before rescaling, uint8 [3, SIZE, SIZE], by CLIPImageProcessor after `convert("RGB")`, which
               drops alpha (the processor of transformers 4 does that, version 5 itself would lay it over white)
photo.NAME     the same of real photos beside the checkout (../shared/media/images); unchanged if they are missing
pixels         the normalised view of `square.png` (nothing to resize), float32: mean, standard deviation, order
crop.N         Pillow's `resize(box=)` of `landscape.png`, N = 1 mirrored, uint8 [3, SIZE, SIZE]; the boxes in the JSON
shrunk         `landscape.png` with its shorter side at SHRUNK, uint8 [rows, columns, 3]

and `image.json`, beside size and boxes, SHA-256 hashes:

sha256         of the RGB values of every JPEG, row by row, as `convert("RGB")` gives them
photos_sha256  the same of the real photos
stored_sha256  of the JPEG file that Pillow writes of `square.png` with the settings of a shard
"""

import hashlib
import io
import json
import struct
import zlib

import numpy as np
from common import HERE, rng, write
from PIL import Image
from safetensors.numpy import load_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PICTURES = HERE / "image"
PHOTOS = HERE.parents[2] / "shared" / "media" / "images"
SIZE, SHRUNK = 32, 48
# left, top, right, bottom as shares of the image
CROPS = [(0.1, 0.2, 0.85, 0.9), (0.0, 0.0, 1.0, 0.75)]


def scene(width, height, channels, *name):
    """Waves, a few flat boxes with hard edges and a little noise: it aliases when resized, and it compresses."""
    draw = rng("image", *name)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    out = np.empty((height, width, channels))
    for c in range(channels):
        a, b, phase = draw.uniform(4, 30), draw.uniform(4, 30), draw.uniform(0, 6)
        out[..., c] = 128 + 90 * np.sin(a * x + b * y * y + phase)
    for _ in range(4):
        top, left = draw.integers(0, height), draw.integers(0, width)
        out[top : top + height // 4, left : left + width // 4] = draw.uniform(0, 255, channels)
    out += draw.normal(0, 3, (height, width, 1))
    return np.clip(out, 0, 255).astype(np.uint8)


def images():
    """The bytes of each file, by its name."""

    def save(image, format, **options):
        file = io.BytesIO()
        image.save(file, format, **options)
        return file.getvalue()

    def of(mode, width, height, *name):
        array = scene(width, height, len(Image.new(mode, (1, 1)).getbands()), *name)
        return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array, mode)

    def stored(image):
        """What a shard holds of an image that is smaller than its frames."""
        return save(image, "JPEG", quality=95, subsampling=0, restart_marker_rows=1)

    landscape = of("RGB", 151, 97, "landscape")
    tiny, strip, dot = of("RGB", 13, 9, "tiny"), of("RGB", 301, 35, "strip"), of("RGB", 1, 1, "dot")
    photo = of("RGB", 157, 101, "photo")
    palette = of("RGB", 70, 83, "palette").quantize(31)
    cmyk = save(of("CMYK", 91, 67, "cmyk"), "JPEG", quality=90)
    # The Adobe marker's last byte says how the four colours are coded: 0 as they are, 2 as YCCK.
    adobe = cmyk.index(b"Adobe") + 11
    assert cmyk[adobe] == 0
    deep = scene(45, 61, 3, "deep").astype(np.uint16) * 257
    return {
        "square.png": save(of("RGB", SIZE, SIZE, "square"), "PNG"),
        "landscape.png": save(landscape, "PNG"),
        "portrait.png": save(of("RGB", 61, 101, "portrait"), "PNG"),
        "tiny.png": save(tiny, "PNG"),
        "tiny_rows.jpg": stored(tiny),
        "strip.png": save(strip, "PNG"),
        "strip_rows.jpg": stored(strip),
        "dot.png": save(dot, "PNG"),
        "dot_rows.jpg": stored(dot),
        "gray.png": save(of("L", 67, 90, "gray"), "PNG"),
        "gray_alpha.png": save(of("LA", 67, 50, "gray alpha"), "PNG"),
        "alpha.png": save(of("RGBA", 80, 61, "alpha"), "PNG"),
        "palette.png": save(palette, "PNG"),
        "palette_alpha.png": save(palette, "PNG", transparency=3),
        "bits.png": save(of("L", 75, 66, "bits").convert("1"), "PNG"),
        "deep.png": png16(deep),
        "420.jpg": save(photo, "JPEG", quality=90, subsampling=2),
        "422_progressive.jpg": save(photo, "JPEG", quality=90, subsampling=1, progressive=True),
        "422.jpg": save(photo, "JPEG", quality=90, subsampling=1),
        "420_progressive.jpg": save(photo, "JPEG", quality=90, subsampling=2, progressive=True),
        "444.jpg": save(photo, "JPEG", quality=90, subsampling=0),
        "gray_progressive.jpg": save(of("L", 99, 71, "gray jpeg"), "JPEG", quality=90, progressive=True),
        # What a shard holds: each row of blocks is a restart interval.
        "rows.jpg": save(photo, "JPEG", quality=90, subsampling=0, restart_marker_rows=1),
        "restart.jpg": save(photo, "JPEG", quality=90, restart_marker_blocks=3),
        "rgb.jpg": save(photo, "JPEG", quality=90, keep_rgb=True),
        "gray.jpg": save(of("L", 99, 71, "gray jpeg"), "JPEG", quality=90),
        "cmyk.jpg": cmyk,
        "ycck.jpg": cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :],
        "palette.gif": save(palette, "GIF", transparency=3),
        "lossless.webp": save(of("RGBA", 70, 49, "webp"), "WEBP", lossless=True, exact=True),
        "lossy.webp": save(photo, "WEBP", quality=85),
        "colours.bmp": save(of("RGB", 41, 38, "bmp"), "BMP"),
        **unusual(of("RGB", 46, 34, "unusual"), save),
    }


def unusual(image, save):
    """Kinds of PNG, GIF, WebP and BMP that are rarely seen."""
    width, height = image.size
    values = np.asarray(image)
    palette = image.quantize(13)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(np.asarray(image)[..., 0]))
    frames = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    r, g, b = (values[..., c].astype(np.uint16) >> 3 for c in range(3))
    rows = np.asarray(palette)
    colours = bytes(palette.getpalette()[: 3 * 13]).ljust(48, b"\0")
    table = b"".join(colours[i : i + 3][::-1] + b"\0" for i in range(0, 48, 3))
    runs = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in rows[::-1]) + b"\0\1"
    padded = np.pad(values[:, :, ::-1], ((0, 0), (0, 0), (0, 1)))
    return {
        "interlaced.png": png16(values.astype(np.uint16) * 257, interlaced=True),
        "gray_clear.png": save(image.convert("L"), "PNG", transparency=100),
        "four.png": save(palette, "PNG", bits=4),
        "animated.png": save(image, "PNG", **frames),
        "animated.gif": save(image, "GIF", **frames),
        "interlaced.gif": save(palette, "GIF", interlace=1),
        "within.gif": placed(palette, (width + 30, height + 25), (7, 12)),
        "within_clear.gif": placed(palette, (width + 30, height), (30, 0), clear=5),
        "beyond.gif": placed(palette, (width - 20, height + 3), (9, 8)),
        "alpha.webp": save(alpha, "WEBP", quality=80),
        "animated.webp": save(image, "WEBP", lossless=True, **frames),
        "down.bmp": bmp(width, -height, 24, np.pad(values[:, :, ::-1].reshape(height, -1), ((0, 0), (0, -3 * width % 4)))),
        "555.bmp": bmp(width, height, 16, (r << 10 | g << 5 | b)[::-1]),
        "565.bmp": bmp(width, height, 16, (r << 11 | g << 6 | b)[::-1], 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
        "32.bmp": bmp(width, height, 32, padded[::-1]),
        "runs.bmp": bmp(width, height, 8, np.frombuffer(runs, np.uint8), 1, table, colours=16),
    }


def placed(palette, screen, position, clear=None):
    """A GIF whose only frame lies somewhere on the screen."""
    file = io.BytesIO()
    palette.save(file, "GIF")
    file = file.getvalue()
    end = 13 + 3 * (2 << (file[10] & 7))
    frame = file[file.index(b"\x2c", end) :]
    control = b"" if clear is None else bytes([0x21, 0xF9, 4, 1, 0, 0, clear, 0])
    place = b"\x2c" + struct.pack("<HH", *position)
    return b"GIF89a" + struct.pack("<HH", *screen) + file[10:end] + control + place + frame[5:]


def bmp(width, height, bits, rows, compression=0, table=b"", colours=0):
    rows = rows.astype("<u2").tobytes() if bits == 16 else rows.astype(np.uint8).tobytes()
    start = 54 + len(table)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 2835, 2835, colours, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + table + rows


def png16(array, interlaced=False):
    """16 bits a channel, which Pillow reads but does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = array.shape
    # Left, top and the steps of Adam7's passes.
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = [array[y::dy, x::dx] for x, y, dx, dy in passes] if interlaced else [array]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def processed(image, **options):
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    return processor(images=image, return_tensors="np", **options)["pixel_values"][0]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def view(path):
    image = Image.open(path).convert("RGB")
    # A transparent colour outlives the conversion, and the processor would act on it.
    image.info.pop("transparency", None)
    values = processed(image, do_rescale=False, do_normalize=False)
    assert values.dtype == np.uint8 and values.shape == (3, SIZE, SIZE), (values.dtype, values.shape)
    return values


def main():
    PICTURES.mkdir(exist_ok=True)
    out, hashes = {}, {}
    for name, data in images().items():
        (PICTURES / name).write_bytes(data)
        out[f"view.{name}"] = view(PICTURES / name)
        if name.endswith(".jpg"):
            hashes[name] = sha256(Image.open(PICTURES / name).convert("RGB").tobytes())
    photos = {}
    if PHOTOS.is_dir():
        for path in sorted(PHOTOS.glob("*.jpg")):
            out[f"photo.{path.name}"] = view(path)
            photos[path.name] = sha256(Image.open(path).convert("RGB").tobytes())
    else:
        print(f"no {PHOTOS}: the photos' values stay")
        out.update({k: v for k, v in load_file(HERE / "image.safetensors").items() if k.startswith("photo.")})
        photos = json.loads((HERE / "image.json").read_text())["photos_sha256"]
    out["pixels"] = processed(Image.open(PICTURES / "square.png"))
    landscape = Image.open(PICTURES / "landscape.png")
    width, height = landscape.size
    for n, box in enumerate(CROPS):
        pixels = tuple(share * side for share, side in zip(box, (width, height, width, height)))
        crop = np.asarray(landscape.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=pixels))
        out[f"crop.{n}"] = np.ascontiguousarray(crop[:, ::-1] if n == 1 else crop).transpose(2, 0, 1)
    out["shrunk"] = np.asarray(landscape.resize((SHRUNK * width // height, SHRUNK), Image.Resampling.BICUBIC))
    stored = io.BytesIO()
    square = Image.open(PICTURES / "square.png")
    square.save(stored, "JPEG", quality=95, subsampling=0, restart_marker_rows=1)
    write(
        HERE / "image.safetensors",
        out,
        {
            "size": SIZE, "crops": CROPS, "sha256": hashes, "photos_sha256": photos,
            "stored_sha256": sha256(stored.getvalue()),
        },
    )


if __name__ == "__main__":
    main()
