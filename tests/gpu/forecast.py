"""What a training step should take on a GPU, from counted launches, bytes and operations, before it is measured.

    python3 tests/gpu/forecast.py

It prints the table of docs/gpu.md. The counts are those of the kernels in train/engine/cuda and of the layers that launch them, with
`keep=selective` in bf16; the rates are assumptions about one H200, to be replaced by what `scripts/gpu-check` measures.
"""

from math import ceil
from typing import NamedTuple

# Rates of an H200: of products with 768 or more terms (of 989 TFLOP/s), of attention in blocks of 64 rows and, from 256 tokens on, of
# 128 rows, and of reads and writes (of 4.8 TB/s). And the host's time for a launch with its allocation, for a product, and for a step of the optimizer.
PRODUCT_FLOPS, NARROW_FLOPS, WIDE_FLOPS, BYTES_PER_SECOND = 620e12, 240e12, 290e12, 3.8e12
LAUNCH_SECONDS, PRODUCT_SECONDS, STEP_SECONDS = 4e-6, 8e-6, 300e-6
# A kernel is not shorter than this.
SHORTEST_SECONDS = 2.5e-6
# A product is computed in tiles, one to a multiprocessor at a time.
MULTIPROCESSORS, TILE = 132, (128, 256)
WIDTH, BLOCKS, BF16 = 768, 12, 2


class Encoder(NamedTuple):
    # Sequences of a sample, and their tokens.
    sequences: int
    tokens: int
    # Weights, and the numbers of a sample's input.
    weights: float
    inputs: int
    # BERT normalises after each part.
    post_norm: bool = False


CLIP_FRAMES = Encoder(3, 198, 86e6, 3 * 3 * 224 * 224)
CLIP_IMAGE = Encoder(1, 198, 86e6, 3 * 224 * 224)
PAIRS = {
    "audio-video": (Encoder(1, 1215, 86e6, 1024 * 128), CLIP_FRAMES),
    "image-text": (CLIP_IMAGE, Encoder(1, 41, 109e6, 40, post_norm=True)),
}

# The launches of a block's forward and backward pass beside its products, by whether it normalises after each part; and what all but
# attention's own move for each row, in units of a row of 768 numbers in bf16:
# forward before: norm 2, queries, keys and values 6, output 1 + 3, norm 2, feed-forward 8 + 3; after: adapters 1, 6, 1 + 4, norm 2, 8 + 3,
# norm 2. Backward before: norm again 2, activation 12, norm 4, output 5, attention's sums 2, projections 3 + 1 + 3, norm 4; after: norm 3,
# dropout 2, norm again 2, activation 12, sum 3, norm 3, dropout 2, output 5, 2, projections 3 + 2 + 1 + 3, sum 3.
LAUNCHES = {False: 8 + 14, True: 9 + 19}
ROWS_MOVED = {False: 25 + 36, True: 27 + 46}
# The products of a block: columns of the result, and terms of each sum. The first is formed of all rows in every block, the others in
# the last block of two rows a sequence. Forward, again for the hidden activations, and backward.
PRODUCTS = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
AGAIN = [(4 * WIDTH, WIDTH)]
BACKWARD = [(k, n) for n, k in PRODUCTS]
# The launches at both ends of an encoder, and of head, losses and optimizer.
END_LAUNCHES, HEAD_LAUNCHES = 20, 6


def product(rows, columns, terms):
    """The seconds of a product, whose last wave of tiles may leave multiprocessors idle."""
    down, across = TILE
    waves = ceil(ceil(rows / down) * ceil(columns / across) / MULTIPROCESSORS)
    tile = 2 * down * across * terms / (PRODUCT_FLOPS / MULTIPROCESSORS)
    return max(waves * tile, SHORTEST_SECONDS)


def encoder(of, batch):
    """The seconds of products, of attention and of everything else, the launches, and the bytes that are stored."""
    rows = batch * of.sequences * of.tokens
    last = 2 * batch * of.sequences
    products = attention = other = 0.0
    for block in range(BLOCKS):
        used = last if block == BLOCKS - 1 else rows
        for i, (columns, terms) in enumerate(PRODUCTS + AGAIN + BACKWARD):
            first = i in (0, len(PRODUCTS) + len(AGAIN))
            products += product(rows if first else used, columns, terms)
        # Two products forward, three for the queries' gradient, four for those of keys and values.
        operations = 2 * 9 * rows * of.tokens * WIDTH
        rate = WIDE_FLOPS if of.tokens >= 256 else NARROW_FLOPS
        attention += max(operations / rate, 3 * SHORTEST_SECONDS)
        moved = ROWS_MOVED[of.post_norm] * WIDTH * BF16 * (rows + 2 * used) / 3
        other += max(moved / BYTES_PER_SECOND, LAUNCHES[of.post_norm] * SHORTEST_SECONDS)
    other += END_LAUNCHES * SHORTEST_SECONDS + 4 * rows * WIDTH * BF16 / BYTES_PER_SECOND
    # The input of a block, queries, keys and values, attention's output and the sum after it; the widest buffers of one block.
    numbers = BLOCKS * (7 if of.post_norm else 6) + 12
    stored = of.weights * BF16 + batch * of.inputs * (4 + BF16) + rows * WIDTH * BF16 * numbers
    launches = BLOCKS * LAUNCHES[of.post_norm] + END_LAUNCHES
    return products, attention, other, launches, stored


def forecast(pair, batch):
    parts = [encoder(of, batch) for of in PAIRS[pair]]
    products, attention, other, launches, stored = map(sum, zip(*parts))
    other += HEAD_LAUNCHES * SHORTEST_SECONDS
    launches += HEAD_LAUNCHES
    count = 2 * BLOCKS * len(PRODUCTS + AGAIN + BACKWARD)
    host = launches * LAUNCH_SECONDS + count * PRODUCT_SECONDS + STEP_SECONDS
    device = products + attention + other
    return {
        "launches": launches,
        "products": count,
        "host": host,
        "parts": (products, attention, other),
        "samples_per_second": batch / max(host, device),
        "gigabytes": stored / 1e9,
    }


def main():
    print("| step | samples/s | GPU ms: products + attention + others | host ms | launches + products | stored GB |")
    print("|---|---|---|---|---|---|")
    for pair in PAIRS:
        for batch in (4, 8, 32, 128):
            f = forecast(pair, batch)
            parts = " + ".join(f"{1e3 * seconds:.1f}" for seconds in f["parts"])
            print(
                f"| {pair} {batch} | {f['samples_per_second']:.0f} | {1e3 * sum(f['parts']):.1f}: {parts} | {1e3 * f['host']:.1f} "
                f"| {f['launches']} + {f['products']} | {f['gigabytes']:.1f} |"
            )


if __name__ == "__main__":
    main()
