"""Golden log-mel frames from torchaudio's Kaldi filter bank.

    python mel.py [MMACTION2_TEST_2CH_16K_WAV]

Writes, beside this file, `mel_NAME.f32`: little-endian float32, three blocks of frames x 128, every STEP-th frame as
torchaudio computes it (1) from float64 samples, (2) in float64 throughout, (3) in float32. The first two differ by
the mel weights, which torchaudio forms in torch's default dtype whatever the samples are. The signals:

speech     mel_speech.wav, 2 s of synthetic speech, made once with
           ffmpeg -f lavfi -i "flite=text='Maybe tomorrow it will be cold.':voice=slt" -ar 16000 -ac 1 -t 2 -bitexact
synthetic  seeded noise whose loudness changes, a chirp, silence and a loud click, 11 s (longer than is kept)
stereo     the two channels of the file given, averaged; skipped when no file is given
"""

import math
import pathlib
import sys

import numpy as np
import soundfile
import torch
from torchaudio.compliance import kaldi

HERE = pathlib.Path(__file__).parent
STEP = {"speech": 5, "synthetic": 16, "stereo": 16}


def synthetic() -> np.ndarray:
    """The Rust test makes the same samples: a 32-bit LCG and sines, rounded to float32."""
    state, out = 1, np.zeros(11 * 16000)
    for i in range(len(out)):
        state = (1664525 * state + 1013904223) % 2**32
        noise = state / 2**31 - 1.0
        t = i / 16000
        if t < 2:
            out[i] = noise * 10 ** (-3 * t / 2)
        elif t < 4:
            out[i] = 0.5 * math.sin(2 * math.pi * (50 * (t - 2) + 1900 * (t - 2) ** 2))
        elif t < 5:
            out[i] = 0.0
        else:
            out[i] = 0.1 * noise + 0.3 * math.sin(2 * math.pi * 440 * t) + 0.05
    out[72000] = 1.0
    return out.astype(np.float32)


def fbank(samples: np.ndarray, dtype: torch.dtype, weights: torch.dtype) -> np.ndarray:
    torch.set_default_dtype(weights)
    wave = torch.from_numpy(samples).to(dtype).unsqueeze(0)
    wave = wave - wave.mean()
    mel = kaldi.fbank(
        wave,
        sample_frequency=16000,
        window_type="hanning",
        num_mel_bins=128,
        use_energy=False,
        dither=0.0,
        frame_shift=10,
        htk_compat=True,
    )
    torch.set_default_dtype(torch.float32)
    return mel[:1024].numpy()


def main() -> None:
    signals = {"speech": soundfile.read(HERE / "mel_speech.wav", dtype="float32")[0], "synthetic": synthetic()}
    if len(sys.argv) > 1:
        stereo = soundfile.read(sys.argv[1], dtype="float32")[0]
        signals["stereo"] = (stereo[:, 0] + stereo[:, 1]) * np.float32(0.5)
    for name, samples in signals.items():
        kinds = [(torch.float64, torch.float32), (torch.float64, torch.float64), (torch.float32, torch.float32)]
        blocks = [fbank(samples, *kind)[:: STEP[name]] for kind in kinds]
        far = [np.abs(blocks[0] - block).max() for block in blocks]
        print(f"{name}: {len(blocks[0])} frames; off by at most {far[1]:.1e} (weights), {far[2]:.1e} (float32)")
        (HERE / f"mel_{name}.f32").write_bytes(np.concatenate(blocks).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
