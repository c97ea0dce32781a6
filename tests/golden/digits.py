"""The sample of handwritten and spoken digits in digits/, from which tests/tests/digits makes its data.

digits.csv.gz is the file of `sklearn.datasets.load_digits`, unchanged: 1,797 lines of 64 pixels from 0 to 16 and the digit. It
is the test set of the UCI repository's "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
https://doi.org/10.24432/C50P49), licensed under CC BY 4.0; scikit-learn is licensed under BSD-3-Clause.

Each WAV file (mu-law, mono, 8 kHz) has the words "zero" to "nine" in one voice of the speech synthesiser eSpeak NG 1.51, in ten
slots of SLOT samples, which end with silence. eSpeak NG is licensed under GPL-3.0-or-later, which does not cover the speech
that it produces; nothing of the program is here.

Without the program espeak-ng (`apt-get install espeak-ng`) the WAV files are left as they are. Another version speaks differently.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.signal
import sklearn.datasets
import soundfile

OUT = Path(__file__).resolve().parent / "digits"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE = 8000
SLOT = 3000
# File name: voice and variant, words per minute, pitch from 0 to 99.
VOICES = {
    "train-0": ("en-us", 220, 50),
    "train-1": ("en-us+f2", 310, 55),
    "train-2": ("en-gb+m7", 230, 40),
    "train-3": ("en-gb-x-rp+f5", 290, 60),
    "train-4": ("en-gb-scotland", 230, 45),
    "train-5": ("en-us+m3", 230, 30),
    "train-6": ("en-gb+f3", 280, 70),
    "train-7": ("en-us+Andy", 260, 60),
    "test-0": ("en-gb-x-gbclan+m4", 230, 50),
    "test-1": ("en-us+f4", 320, 50),
}


def speak(word, voice, speed, pitch):
    """A word without the silence around it, at 8 kHz, with a peak of 0.9."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # The header of a stream does not know its length.
    rate = int.from_bytes(wav[24:28], "little")
    x = np.frombuffer(wav[44:], "<i2").astype(np.float64)
    x = scipy.signal.resample_poly(x, RATE, rate)
    loud = np.flatnonzero(np.abs(x) > 0.02 * np.abs(x).max())
    x = x[loud[0] : loud[-1] + 1]
    assert len(x) <= SLOT, f"{voice} takes {len(x)} samples for {word!r}"
    return np.pad(0.9 * x / np.abs(x).max(), (0, SLOT - len(x)))


def main():
    OUT.mkdir(exist_ok=True)
    source = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    (OUT / "digits.csv.gz").write_bytes(source.read_bytes())
    if shutil.which("espeak-ng") is None:
        print("espeak-ng is not installed: the WAV files stay as they are", file=sys.stderr)
        return
    for name, voice in VOICES.items():
        x = np.concatenate([speak(word, *voice) for word in WORDS])
        soundfile.write(OUT / f"{name}.wav", x, RATE, subtype="ULAW")


main()
