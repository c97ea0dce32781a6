"""Images whose metadata say how they are to be turned, in every place where Pillow looks.

`orientation/` holds the files, `orientation.json` the tag (1 to 8) by which `ImageOps.exif_transpose` turns each of them.
"""

import io
import json
import shutil
import struct
import zlib

import numpy as np
from common import HERE
from PIL import Image, ImageOps

FOLDER = HERE / "orientation"
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def encoded(format, **options):
    y, x = np.mgrid[0:8, 0:16]
    image = Image.fromarray(np.stack([x * 16, y * 32, x * y], -1).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiff(tag, order=">", kind=3, number=0x0112):
    """A TIFF file whose directory has one other entry and the orientation."""
    other = struct.pack(order + "HHII", 0x0100, 4, 1, 16)
    value = struct.pack(order + {1: "Bxxx", 3: "HH", 4: "I"}[kind], *([tag, 0] if kind == 3 else [tag]))
    entry = struct.pack(order + "HHI", number, kind, 1) + value
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return mark + struct.pack(order + "IH", 8, 2) + other + entry + bytes(4)


def xmp(tag, element=False):
    said = f"><tiff:Orientation>{tag}</tiff:Orientation>" if element else f' tiff:Orientation="{tag}">'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{said}</rdf:Description></x:xmpmeta>'.encode()


def jpeg(*segments):
    """A JPEG with APP1 segments."""
    file = encoded("JPEG")
    return file[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(s)) + s for s in segments) + file[2:]


def png(kind, data, last=False):
    """A PNG with one more chunk, before or after the image data."""
    file = encoded("PNG")
    at = len(file) - 12 if last else 33
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return file[:at] + chunk + file[at:]


def webp(kind, data, flags):
    """An extended WebP with one chunk of metadata after the image."""
    body = encoded("WEBP", lossless=True)[12:]
    chunk = kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0, 15, 0, 0, 7, 0, 0])
    body = extended + body + chunk
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def profile(data):
    """EXIF data in the words of ImageMagick."""
    digits = (b"Exif\0\0" + data).hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\nexif\n{len(digits) // 2:8}\n{lines}\n".encode()


def files():
    exif, xap = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
    text, itxt = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
    for tag in range(10):
        yield f"tag{tag}.jpg", jpeg(exif + tiff(tag))
    yield "little.jpg", jpeg(exif + tiff(8, "<"))
    yield "long.jpg", jpeg(exif + tiff(6, kind=4))
    yield "behind_xmp.jpg", jpeg(xap + b"<x/>", exif + tiff(6))
    yield "other_tag.jpg", jpeg(exif + tiff(6, number=0x0110))
    yield "twice_named.jpg", jpeg(exif + exif + tiff(5))
    yield "xmp.jpg", jpeg(xap + xmp(6))
    yield "xmp_element.jpg", jpeg(xap + xmp(8, element=True))
    yield "exif_before_xmp.jpg", jpeg(xap + xmp(6), exif + tiff(3))
    yield "xmp_and_other_tag.jpg", jpeg(exif + tiff(6, number=0x0110), xap + xmp(7))
    yield "first.png", png(b"eXIf", tiff(6))
    yield "little.png", png(b"eXIf", tiff(3, "<"))
    yield "named.png", png(b"eXIf", exif + tiff(8))
    yield "last.png", png(b"eXIf", tiff(6), last=True)
    yield "profile.png", png(b"tEXt", text + profile(tiff(6)))
    yield "compressed_profile.png", png(b"zTXt", text + b"\0" + zlib.compress(profile(tiff(8))))
    yield "xmp.png", png(b"iTXt", itxt + b"\0\0\0\0" + xmp(6))
    yield "compressed_xmp.png", png(b"iTXt", itxt + b"\1\0\0\0" + zlib.compress(xmp(3)))
    yield "plain.webp", webp(b"EXIF", tiff(6), 8)
    yield "named.webp", webp(b"EXIF", exif + tiff(6), 8)
    yield "named_little.webp", webp(b"EXIF", exif + tiff(8, "<"), 8)
    yield "xmp.webp", webp(b"XMP ", xmp(5), 4)
    yield "without_flag.webp", webp(b"EXIF", tiff(6), 0)
    yield "none.gif", encoded("GIF")
    yield "none.bmp", encoded("BMP")


def turn(path):
    """The tag that stands for what `exif_transpose` does."""
    image = Image.open(path)
    upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    stored = image.convert("RGB")
    for tag, method in TURNS.items():
        turned = np.asarray(stored if method is None else stored.transpose(method))
        if turned.shape == upright.shape and (turned == upright).all():
            return tag
    raise ValueError(path)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    tags = {}
    for name, data in files():
        (FOLDER / name).write_bytes(data)
        tags[name] = turn(FOLDER / name)
    (HERE / "orientation.json").write_text(json.dumps(tags, indent=1) + "\n")
    print(f"orientation.json: {len(tags)} files")


if __name__ == "__main__":
    main()
