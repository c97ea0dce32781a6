"""Folders of clips for the ingest benchmarks, which ffmpeg makes once below cargo's target folder.

`ave`: H.264 640x360 with AAC, 10 s. `kinetics`: the same at 1280x720. `crema-d`: flv1 480x360 of 3 s with a WAV file.
The encoder is x264 with its defaults: B-frames, scene cuts, a keyframe every 250 frames. The frames come from the real
clips of ../shared/media if they are there; else they are synthetic: textures of natural spectrum under a moving camera,
a moving object, noise and cuts. `crema-d-real`: the publisher's own clips of CREMA-D, VP6F 480x360 of 2 s with MP3, which
no encoder of ffmpeg can make; U2A_CREMA_D names their folder, by default ../shared/media/crema-d/VideoFlash. Each folder has a `clips.toml` for `ingest run`; every row has a file of its own.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "bench"
MEDIA = ROOT.parent / "shared" / "media" / "clips"
CREMA_D = Path(os.environ.get("U2A_CREMA_D", ROOT.parent / "shared" / "media" / "crema-d" / "VideoFlash"))
FPS = 30

# width, height, seconds, rows of a unit of work, real clips as (file, start in seconds)
KINDS = {
    "ave": (640, 360, 10, 48, [("R6llTwEh07w", 0), ("SOX5yA1l24A", 0), ("WUzgd7C1pWA", 0), ("KlsG1EnBEjc_000361", 0)]),
    # Only one real clip has 720 lines; four segments of it.
    "kinetics": (1280, 720, 10, 24, [("KlsG1EnBEjc_000361", 0)] * 4),
    "crema-d": (480, 360, 3, 240, [("R6llTwEh07w", 1), ("R6llTwEh07w", 5), ("SOX5yA1l24A", 2), ("WUzgd7C1pWA", 4)]),
}
# Rows of a unit of work.
CREMA_D_ROWS = 200
DISTINCT = 4


def ffmpeg(*arguments, **how):
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)], check=True, **how)


def texture(rng, height, width, rough):
    """Noise with the spectrum of natural images, whose amplitude falls with frequency; mostly within -1 to 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**rough
    spectrum[0, 0] = 0
    values = np.fft.irfft2(spectrum, s=(height, width))
    return (values / values.std() / 2.5).astype(np.float32)


def synthetic_frames(seed, width, height, frames):
    """Yields yuv420p frames."""
    rng = np.random.default_rng(seed)
    noise = [rng.standard_normal((height, width)).astype(np.float32) * 1.5 for _ in range(5)]
    cuts = set(np.sort(rng.integers(60, frames, 2 if frames > 100 else 0)).tolist())
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for n in range(frames):
        if n == 0 or n in cuts:
            margin = height // 2
            luma = texture(rng, height + margin, width + margin, 1.15) * 60 + 120
            chroma = [texture(rng, (height + margin) // 2, (width + margin) // 2, 1.4) * 20 + 128 for _ in range(2)]
            thing = texture(rng, height, width, 1.0) * 50 + 110
            start, speed = rng.uniform(0, margin / 3, 2), rng.uniform(-1, 1, 2)
            radius, way = height * rng.uniform(0.12, 0.25), rng.uniform(0.03, 0.09, 2)
            begun = n
        t = n - begun
        y, x = np.clip(start + margin / 4 + speed * t + 3 * np.sin(0.11 * t), 0, margin - 2)
        iy, ix, fy, fx = int(y), int(x), y % 1, x % 1
        part = luma[iy : iy + height + 1, ix : ix + width + 1]
        part = part[:-1] * (1 - fy) + part[1:] * fy
        picture = part[:, :-1] * (1 - fx) + part[:, 1:] * fx
        cy, cx = height * (0.5 + 0.3 * np.sin(way[0] * t)), width * (0.5 + 0.3 * np.cos(way[1] * t))
        inside = np.clip(radius - np.hypot(rows - cy, columns - cx), 0, 1)
        moved = np.roll(thing, (int(cy), int(cx)), (0, 1))
        picture = picture + inside * (moved - picture) + noise[n % 5]
        planes = [picture] + [c[iy // 2 : iy // 2 + height // 2, ix // 2 : ix // 2 + width // 2] for c in chroma]
        yield b"".join(np.clip(p, 0, 255).astype(np.uint8).tobytes() for p in planes)


def audio(seed, seconds, rate):
    """A few gliding tones with a rhythm, and noise; signed 16-bit samples."""
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * rate) / rate
    wave = sum(np.sin(2 * np.pi * (f * t + g * np.sin(t))) for f, g in zip(rng.uniform(100, 4000, 6), rng.uniform(0, 80, 6)))
    wave = wave * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 4) * t)) + rng.standard_normal(len(t)) * 0.3
    return (wave * 3000).clip(-32768, 32767).astype("<i2").tobytes()


def make_clip(kind, number, folder):
    """Makes one clip and returns its video file; CREMA-D has an audio file beside it."""
    if not shutil.which("ffmpeg"):
        raise SystemExit("error: the program ffmpeg, which encodes the clips, is missing; install it with: apt-get install ffmpeg")
    width, height, seconds, _, sources = KINDS[kind]
    flash = kind == "crema-d"
    pcm = folder / "audio.s16"
    pcm.write_bytes(audio(number, seconds, 44100))
    audio_input = ["-f", "s16le", "-ar", 44100, "-ac", 1, "-i", pcm]
    codec = ["-c:v", "flv", "-b:v", "400k"] if flash else ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", 2]
    out = folder / (f"made{number}.flv" if flash else f"made{number}.mp4")
    name, start = sources[number]
    file = MEDIA / f"{name}.mp4"
    if file.exists():
        fit = f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=bicubic,crop={width}:{height},fps={FPS}"
        start += number if kind == "kinetics" else 0
        ffmpeg("-ss", start, "-i", file, *audio_input, "-map", "0:v", "-map", "1:a", "-an" if flash else "-shortest", "-vf", fit,
               "-t", seconds, *codec, out)
    else:
        raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", FPS, "-i", "-"]
        process = subprocess.Popen(
            ["ffmpeg", "-v", "error", "-y", *map(str, [*raw, *audio_input, "-map", "0:v", "-map", "1:a", *codec, *(["-an"] if flash else []), out])],
            stdin=subprocess.PIPE,
        )
        for frame in synthetic_frames(number, width, height, seconds * FPS):
            process.stdin.write(frame)
        process.stdin.close()
        assert process.wait() == 0
    if flash:
        ffmpeg(*audio_input, "-ar", 16000, "-c:a", "pcm_s16le", out.with_suffix(".wav"))
    pcm.unlink()
    return out


def make(kind, rows=None):
    """Makes the folder of a kind with `rows` rows (by default a unit of work) and returns it."""
    real = kind == "crema-d-real"
    rows = rows or (CREMA_D_ROWS if real else KINDS[kind][3])
    folder = CACHE / f"{kind}-{rows}"
    if (folder / "clips.toml").exists():
        return folder
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    made = sorted(CREMA_D.glob("*.flv")) if real else [clip_of(kind, number) for number in range(DISTINCT)]
    if not made:
        raise SystemExit(f"error: {CREMA_D} holds no .flv of CREMA-D; set U2A_CREMA_D to a folder of them")
    table = ["clip,label,part,file,sound"]
    for row in range(rows):
        clip = made[row % len(made)]
        for file in (clip, clip.with_suffix(".wav")):
            link = raw / f"c{row}{file.suffix}"
            if file.exists() and not link.exists():
                # The real clips may lie on another file system.
                (shutil.copyfile if real else os.link)(file, link)
        table.append(f"clip{row},{'ab'[row % 2]},train,c{row}{clip.suffix},c{row}.wav")
    (folder / "clips.csv").write_text("\n".join(table) + "\n")
    columns = 'id = "clip"\nlabel = "label"\nsplit = "part"\nvideo = "file"\n' + ('audio = "sound"\n' if kind == "crema-d" else "")
    (folder / "clips.toml").write_text(f'name = "clips"\ntable = "clips.csv"\nraw = "raw"\n[columns]\n{columns}')
    return folder


def clip_of(kind, number):
    """One of the distinct clips of a kind, which stay from run to run."""
    folder = CACHE / "clips" / kind
    done = sorted(folder.glob(f"made{number}.*"))
    if done and (folder / f"done{number}").exists():
        return next(file for file in done if file.suffix != ".wav")
    folder.mkdir(parents=True, exist_ok=True)
    clip = make_clip(kind, number, folder)
    (folder / f"done{number}").touch()
    return clip


def rows_of(folder):
    """(id, video file, audio file) of every row."""
    for line in (folder / "clips.csv").read_text().splitlines()[1:]:
        name, _, _, video, audio_file = line.split(",")
        audio = folder / "raw" / audio_file
        yield name, str(folder / "raw" / video), str(audio if audio.exists() else folder / "raw" / video)


def frame_numbers(n, size=9):
    """The frame numbers that `ingest` stores: evenly spaced, or all if there are no more than `size`."""
    count = min(n, size)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]
