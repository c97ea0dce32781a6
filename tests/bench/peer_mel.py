"""Log-mel of 10 s of sound by torchaudio, by torch or by numpy: `peer_mel.py torchaudio|torch|numpy`. Items: seconds of sound."""

import sys

from peer import THREADS, serve

import numpy as np
import torch

from mel import BANKS, WINDOW, by_numpy

REPEAT, SECONDS = 10, 10
torch.set_num_threads(1)
assert THREADS
samples = np.random.default_rng(0).standard_normal(SECONDS * 16000).astype(np.float32) * 0.1


TORCH = torch.from_numpy(samples)
TORCH_BANKS, TORCH_WINDOW = torch.from_numpy(BANKS), torch.from_numpy(WINDOW)


def by_torch():
    frames = (TORCH - TORCH.mean()).unfold(0, 400, 160)
    frames = frames - frames.mean(dim=1, keepdim=True)
    frames = torch.cat([frames[:, :1] * 0.03, frames[:, 1:] - 0.97 * frames[:, :-1]], dim=1)
    power = torch.fft.rfft(frames * TORCH_WINDOW, 512).abs() ** 2
    return (power @ TORCH_BANKS.T).clamp_min(1.1920929e-07).log()


def by_torchaudio():
    from torchaudio.compliance import kaldi

    wave = (TORCH - TORCH.mean()).unsqueeze(0)
    return kaldi.fbank(
        wave, sample_frequency=16000, window_type="hanning", num_mel_bins=128, use_energy=False, dither=0.0, frame_shift=10,
        htk_compat=True,
    )


def main():
    work = {"numpy": lambda: by_numpy(samples), "torch": by_torch, "torchaudio": by_torchaudio}[sys.argv[1]]
    assert work().shape == (998, 128)
    serve(lambda: [work() for _ in range(REPEAT)], REPEAT * SECONDS)


if __name__ == "__main__":
    main()
