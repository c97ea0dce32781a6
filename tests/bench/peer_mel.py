"""Log-mel of 10 s of sound by torchaudio, by torch or by numpy: `peer_mel.py torchaudio|torch|numpy`. Items: seconds of sound."""

import sys

from peer import THREADS, serve

import numpy as np
import torch

REPEAT, SECONDS = 10, 10
torch.set_num_threads(1)
assert THREADS
samples = np.random.default_rng(0).standard_normal(SECONDS * 16000).astype(np.float32) * 0.1


def banks():
    """Kaldi's triangles on the HTK mel scale: 128 x 257."""
    mel = lambda hz: 1127.0 * np.log(1.0 + hz / 700.0)
    edges = np.linspace(mel(20.0), mel(8000.0), 130)
    bins = mel(np.arange(257) * 31.25)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))).astype(np.float32)


BANKS, WINDOW = banks(), (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)).astype(np.float32)


def by_numpy():
    frames = np.lib.stride_tricks.sliding_window_view(samples - samples.mean(), 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = np.concatenate([frames[:, :1] * 0.03, frames[:, 1:] - 0.97 * frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * WINDOW, 512)) ** 2
    return np.log(np.maximum(power.astype(np.float32) @ BANKS.T, 1.1920929e-07))


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
    work = {"numpy": by_numpy, "torch": by_torch, "torchaudio": by_torchaudio}[sys.argv[1]]
    assert work().shape == (998, 128)
    serve(lambda: [work() for _ in range(REPEAT)], REPEAT * SECONDS)


if __name__ == "__main__":
    main()
