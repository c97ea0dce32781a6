"""Log-mel spectrograms of 10 s of audio: `peer_mel.py torchaudio|torch|numpy|kaldi`. Items: seconds of audio.

kaldi-native-fbank refuses 128 bins, because the third covers no line of the spectrum; it computes 80, which is less work.
"""

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


def by_kaldi():
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 80
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(16000, samples)
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])


def main():
    ways = {"numpy": lambda: by_numpy(samples), "torch": by_torch, "torchaudio": by_torchaudio, "kaldi": by_kaldi}
    work = ways[sys.argv[1]]
    assert work().shape == (998, 80 if sys.argv[1] == "kaldi" else 128)
    serve(lambda: [work() for _ in range(REPEAT)], REPEAT * SECONDS)


if __name__ == "__main__":
    main()
