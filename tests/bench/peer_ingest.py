"""Clips to Parquet with spectrograms and nine JPEG frames, as `ingest run` makes them:
`peer_ingest.py torchcodec|torchcodec444|pyav|floor KIND`.

Two processes with one thread each work on all units; shorter side 256, quality 95, 4:4:4.
`torchcodec`: torchcodec, torchvision, spectrograms by numpy, pyarrow; its JPEG files are 4:2:0, which torchvision cannot
change. `torchcodec444`: the same with JPEG files by Pillow in 4:4:4. `pyav`: PyAV and Pillow. All take the number of frames
from the container and stop after the last frame that they need. `floor`: `ffmpeg` decodes all frames and does nothing
else, two clips at a time. Items: clips.
"""

import ctypes
import functools
import io
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["BENCH_THREADS"] = "1"
from peer import serve  # noqa: E402

import numpy as np  # noqa: E402

import clips  # noqa: E402
from mel import by_numpy  # noqa: E402

SIDE, QUALITY, RATE, PROCESSES = 256, 95, 16000, 2
# AV_CPU_FLAG_AVX512 and AV_CPU_FLAG_AVX512ICL of libavutil/cpu.h.
AVX512 = 0x100000 | 0x200000
MASKED = os.environ.get("U2A_CPU") == "avx2"


@functools.cache
def mask_libav():
    """Hides AVX-512 from every libavutil of this process if U2A_CPU is avx2, as this project does."""
    if MASKED:
        maps = Path("/proc/self/maps").read_text().splitlines()
        libraries = {line.split()[-1] for line in maps if "/libavutil" in line}
        assert libraries, "libav has to be loaded before it is masked"
        for path in libraries:
            library = ctypes.CDLL(path)
            library.av_force_cpu_flags(library.av_get_cpu_flags() & ~AVX512)


def output_size(width, height):
    short = min(width, height)
    if short <= SIDE:
        return width, height
    return SIDE * width // short, SIDE * height // short


def torchcodec_clip(row, encode=None):
    import torch
    from torchcodec.decoders import AudioDecoder, VideoDecoder
    from torchvision.io import encode_jpeg
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)
    mask_libav()
    name, video, audio = row
    decoder = VideoDecoder(video, num_ffmpeg_threads=1, seek_mode="approximate")
    frames = decoder.get_frames_at(clips.frame_numbers(decoder.metadata.num_frames))
    width, height = output_size(frames.data.shape[3], frames.data.shape[2])
    small = functional.resize(frames.data, [height, width], interpolation=functional.InterpolationMode.BICUBIC)
    encode = encode or (lambda frame: encode_jpeg(frame, QUALITY).numpy().tobytes())
    jpegs = [encode(frame) for frame in small]
    samples = AudioDecoder(audio, sample_rate=RATE, num_channels=1).get_all_samples().data[0].numpy()
    return name, by_numpy(samples[: 10 * RATE + 4080]), jpegs, frames.pts_seconds.tolist()


def torchcodec444_clip(row):
    from PIL import Image

    def encode(frame):
        out = io.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(out, "JPEG", quality=QUALITY, subsampling=0)
        return out.getvalue()

    return torchcodec_clip(row, encode)


def pyav_clip(row):
    import av
    from PIL import Image

    mask_libav()
    name, video, audio = row
    jpegs, times = [], []
    with av.open(video) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        count = stream.frames or round(float(file.duration / av.time_base * stream.average_rate))
        wanted = clips.frame_numbers(count)
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                image = frame.to_image()
                out = io.BytesIO()
                image.resize(output_size(*image.size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY, subsampling=0)
                jpegs.append(out.getvalue())
                times.append(frame.time)
            if number >= wanted[-1]:
                break
    with av.open(audio) as file:
        resampler = av.AudioResampler("flt", "mono", RATE)
        parts = [part.to_ndarray()[0] for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return name, by_numpy(np.concatenate(parts)[: 10 * RATE + 4080]), jpegs, times


def write(rows, path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, mels, jpegs, times = zip(*rows)
    offsets = np.cumsum([0, *(len(m) for m in mels)]).astype(np.int32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(mels).ravel()), 128)
    table = pa.table({
        "id": pa.array(names),
        "mel": pa.ListArray.from_arrays(offsets, values),
        "frames": pa.array([[{"bytes": j} for j in of] for of in jpegs], pa.list_(pa.struct([("bytes", pa.binary())]))),
        "frame_times": pa.array(times, pa.list_(pa.float32())),
    })
    pq.write_table(
        table, path, compression={"mel.list.element.list.element": "ZSTD"}, use_dictionary=False, write_statistics=False,
        column_encoding={"mel.list.element.list.element": "BYTE_STREAM_SPLIT"},
    )


def floor(video):
    flags = ["-cpuflags", "-avx512-avx512icl"] if MASKED else []
    subprocess.run(["ffmpeg", *flags, "-nostdin", "-v", "quiet", "-threads", "1", "-i", video, "-an", "-f", "null", "-"], check=True)


def main():
    how, kind = sys.argv[1:3]
    rows = list(clips.rows_of(clips.make(kind)))
    if how == "floor":
        with ThreadPoolExecutor(PROCESSES) as threads:
            serve(lambda: list(threads.map(floor, [video for _, video, _ in rows])), len(rows))
        return
    work = {"torchcodec": torchcodec_clip, "torchcodec444": torchcodec444_clip, "pyav": pyav_clip}[how]
    # torchcodec's wheel needs CUDA's libraries even on the CPU; the processes find them here.
    os.environ["LD_LIBRARY_PATH"] = str(Path(np.__file__).parents[1] / "nvidia" / "cu13" / "lib")
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(PROCESSES) as pool:
        def unit():
            done = pool.map(work, rows, chunksize=1)
            assert all(len(jpegs) == 9 and len(mel) > 100 for _, mel, jpegs, _ in done)
            write(done, f"{folder}/shard.parquet")

        serve(unit, len(rows))


if __name__ == "__main__":
    main()
