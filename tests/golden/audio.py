"""Golden log-mel frames of stereo audio at 44.1 and 48 kHz: averaged to mono, resampled by torchaudio, then its Kaldi
filter bank.

Writes `audio_RATE.f32`: little-endian float32, two blocks of frames x 128, every STEP-th frame, (1) resampled in float64
by a sinc of 512 zero crossings under a Kaiser window, as good as ideal below 7.9 kHz; (2) by torchaudio's default (a
Hann window over 6 crossings, which takes more than a decibel off everything above 6.5 kHz).
"""

import math

import numpy as np
import torch
from common import HERE
from mel import fbank
from torchaudio.functional import resample

SECONDS, STEP = 3, 8


def stereo(rate):
    """The Rust test makes the same samples: left a sweep over noise, right a tone and its octave; 16 bits."""
    state, out = 1, np.zeros((SECONDS * rate, 2))
    for i in range(len(out)):
        state = (1664525 * state + 1013904223) % 2**32
        noise, t = state / 2**31 - 1.0, i / rate
        out[i, 0] = 0.3 * math.sin(2 * math.pi * (50 * t + 1200 * t * t)) + 0.1 * noise
        out[i, 1] = 0.2 * math.sin(2 * math.pi * 440 * t) + 0.1 * math.sin(2 * math.pi * 880 * t)
    return np.floor(out * 32767 + 0.5)


def main():
    for rate in (44100, 48000):
        mono = torch.from_numpy(stereo(rate).mean(axis=1) / 32768)
        ideal = resample(
            mono, rate, 16000, lowpass_filter_width=512, rolloff=0.995, resampling_method="sinc_interp_kaiser", beta=12.0
        )
        usual = resample(mono, rate, 16000)
        blocks = [fbank(x.numpy(), torch.float64, torch.float32)[::STEP] for x in (ideal, usual)]
        apart = np.abs(blocks[0] - blocks[1])
        low, high = apart[:, :104].mean(), apart[:, 104:].mean()
        print(f"{rate}: {len(blocks[0])} frames; torchaudio's default is {low:.4f} off below 6 kHz, {high:.4f} above")
        (HERE / f"audio_{rate}.f32").write_bytes(np.concatenate(blocks).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
