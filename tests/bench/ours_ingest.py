"""`ingest run` of a folder of clips with two workers, from the start of the program: `ours_ingest.py INGEST KIND [ROWS]`.
Items: clips."""

import subprocess
import sys
import tempfile

from peer import serve

import clips


def main():
    program, kind = sys.argv[1:3]
    folder = clips.make(kind, *map(int, sys.argv[3:]))
    with tempfile.TemporaryDirectory() as out:
        command = [program, "run", str(folder / "clips.toml"), "--out", out, "--overwrite", "--workers", "2"]
        run = lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        serve(run, len(list(clips.rows_of(folder))))


if __name__ == "__main__":
    main()
