"""The table of the kernels: for each one its arguments, its grid, what it is to compute, and the shapes at which it is run.

A function below describes a kernel: it makes inputs of a shape, and returns a `Case`. `small_entries` and `real_entries` list all
of them, the most important first. Shapes are those of a training step: 12 heads of 64 numbers; 4, 32 and 128 spectrograms of 1215
tokens (4860, 38880 and 155520 rows), images of 198 and texts of 41. The small shapes have an odd number of rows, a sequence of one
token, and heads of each size.
"""

import functools
from dataclasses import dataclass, field

import kernel_peers as peers
import kernel_reference as reference
import torch

F32, BF16 = torch.float32, torch.bfloat16
SUFFIXES = {F32: "f32", BF16: "bf16"}
# The limits of the largest difference, relative to the largest number of the result; 8e-7 was measured in f32. The significand of a
# bf16 has 8 bits: rounding a result changes it by up to 2^-8. Attention in bf16 also rounds the probabilities.
LIMITS = {F32: 5e-6, BF16: 5e-3, torch.int32: 1e-9}
ATTENTION_LIMIT = 1.5e-2
# The elements of a guard: more than a tile of attention at the small shapes.
GUARD = 1 << 15
LARGE_INDEX = 0x7FFFFFFF
THREADS, ROW_THREADS, ROWS_PER_BLOCK = 256, 128, 4
WIDTH, HEADS, HEAD_SIZE, EPS = 768, 12, 64, 1e-5
SMALL = ((64, 1, 70), (3, 0, 9))
OFF = {"threshold": 0, "scale": 1.0, "key": (0, 0), "module": 0, "step": 0}
RATE = 0.1
ON = {"threshold": round(RATE * 65536), "scale": 1 / (1 - RATE), "key": (0x23456789, 0x1), "module": 12, "step": 5}


def div_ceil(a, b):
    return -(-a // b)


@dataclass
class Case:
    """A launch of a kernel and what is expected of it."""

    kernel: str
    grid: tuple
    threads: int
    # Arguments by name; tensors that the kernel writes are also in `outputs`.
    values: dict
    outputs: dict
    # Returns the expected outputs by name, in double precision.
    expected: object
    shared: int = 0
    limits: dict = field(default_factory=dict)
    # What the kernel reads and writes at least, and computes.
    bytes: int = 0
    flops: int = 0


class Inputs:
    """Makes the tensors of a case, each between two guards: elements that a kernel must neither use nor change."""

    def __init__(self, source, device, dtype, seed=0):
        self.source, self.device, self.dtype = source, device, dtype
        self.generator = torch.Generator(device).manual_seed(seed)
        self.guarded = []

    def empty(self, *shape, dtype=None):
        """A tensor of which every element is wrong until it is written."""
        dtype = dtype or self.dtype
        size = torch.Size(shape).numel()
        wrong = float("nan") if dtype.is_floating_point else LARGE_INDEX
        buffer = torch.full((size + 2 * GUARD,), wrong, dtype=dtype, device=self.device)
        self.guarded.append(buffer)
        return buffer[GUARD : GUARD + size].view(shape)

    def normal(self, *shape, dtype=None, scale=1.0):
        tensor = self.empty(*shape, dtype=dtype)
        return tensor.copy_(torch.randn(shape, generator=self.generator, device=self.device).mul_(scale))

    def table(self, numbers):
        tensor = self.empty(*torch.Size(torch.as_tensor(numbers).shape), dtype=torch.int32)
        return tensor.copy_(torch.as_tensor(numbers))

    def guards(self):
        for buffer in self.guarded:
            yield from (buffer[:GUARD], buffer[-GUARD:])

    def fill_guards(self, value):
        """Fills the guards of floating point; those of tables stay as they are."""
        for guard in self.guards():
            if guard.is_floating_point():
                guard.fill_(value)

    def guards_are(self, value):
        """Whether no kernel has written outside of its tensors; a written NaN is not noticed among others."""
        return all(bool((guard == (value if guard.is_floating_point() else LARGE_INDEX)).all()) for guard in self.guards())

    def structs(self, name, rows):
        """A table of structs, as the words of their bytes."""
        struct = self.source.struct(name)
        packed = b"".join(bytes(self.source.value(name, struct, row)) for row in rows)
        return self.table(torch.frombuffer(bytearray(packed), dtype=torch.int32))

    def factors(self, count, *shape):
        """One factor of each adapter, and the struct `Factors` of them."""
        made = [self.normal(*shape, dtype=F32) for _ in range(count)]
        return made, dict(zip(("first", "second", "third"), made + [None] * (3 - count)))


class Layout:
    """Packed sequences and the tables that describe them."""

    def __init__(self, inputs, lengths, samples):
        self.lengths, self.longest = lengths, max(lengths)
        self.starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        self.n = self.starts[-1]
        numbers = torch.repeat_interleave(torch.tensor(samples), torch.tensor(lengths))
        within = torch.cat([torch.arange(length) for length in lengths])
        self.positions = inputs.table(torch.stack([numbers, within], 1))
        self.offsets, self.samples = inputs.table(self.starts), inputs.table(samples)

    def positions_for(self, drop):
        """The positions as kernels get them: where nothing is dropped, they must not read them."""
        return self.positions if drop["threshold"] else None


def name(kernel, inputs):
    return f"{kernel}_{SUFFIXES[inputs.dtype]}"


def rows_grid(rows):
    """One warp for every row."""
    return {"grid": (div_ceil(rows, ROWS_PER_BLOCK), 1, 1), "threads": ROW_THREADS}


def elements_grid(inputs, elements):
    """One thread for every eight elements."""
    return {"grid": (div_ceil(elements // inputs.source.constants["VECTOR_WIDTH"], THREADS), 1, 1), "threads": THREADS}


def size(*tensors):
    """Bytes of all tensors."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


# Normalisation.


def layer_norm(inputs, layout, d=WIDTH, again=False, scale=3.0, parts=0, rank=1, drop=OFF):
    """`again` reads the statistics, which here are not those of the rows. At a `scale` of 0.01 the variance is not far above `EPS`. With
    `parts` also the low-rank activation of the adapters on the output."""
    n = layout.n
    x, weight, bias = inputs.normal(n, d, scale=scale), inputs.normal(d, dtype=F32), inputs.normal(d, dtype=F32)
    stats = inputs.normal(n, 2, dtype=F32) if again else inputs.empty(n, 2, dtype=F32)
    given = stats.clone()
    y, (a, a_struct) = inputs.empty(n, d), inputs.factors(parts, rank, d)
    u = inputs.empty(n, parts * rank, dtype=F32) if parts else None

    def expected():
        if again:
            wanted = {"y": reference.normalized(x, given[:, 0], given[:, 1], weight, bias)}
        else:
            normed, stats = reference.layer_norm(x, weight, bias, EPS)
            wanted = {"y": normed, "mean": stats[:, 0], "rstd": stats[:, 1]}
        if parts:
            # The adapters read the output as it is stored, which is compared by itself.
            wanted["u"] = torch.cat([reference.dropped(y, drop, i, layout.positions) @ a[i].double().T for i in range(parts)], 1)
        return wanted

    values = {"x": x, "scale": weight, "shift": bias, "y": y, "stats": stats, "n": n, "d": d, "eps": EPS, "compute_stats": int(not again)}
    values |= {"a": a_struct, "u": u, "positions": layout.positions_for(drop), "parts": parts, "rank": rank, "drop": drop}
    outputs = {"y": y} if again else {"y": y, "mean": stats[:, 0], "rstd": stats[:, 1]}
    outputs |= {"u": u} if parts else {}
    return Case(name("layer_norm", inputs), values=values, outputs=outputs, expected=expected, bytes=size(x, y, stats, u), **rows_grid(n))


def layer_norm_backward(inputs, layout, d=WIDTH, residual=True, parts=0, rank=1, drop=OFF):
    """With `parts` the gradient of the adapters' input is added to `dy`."""
    n = layout.n
    dy, x, weight = inputs.normal(n, d), inputs.normal(n, d, scale=3.0), inputs.normal(d, dtype=F32)
    added = inputs.normal(n, d) if residual else None
    stats = inputs.empty(n, 2, dtype=F32).copy_(reference.layer_norm(x, weight, weight, EPS)[1])
    dx, (a, a_struct) = inputs.empty(n, d), inputs.factors(parts, rank, d)
    du = inputs.normal(n, parts * rank, dtype=F32) if parts else None
    values = {"dy": dy, "x": x, "scale": weight, "stats": stats, "residual": added, "dx": dx, "n": n, "d": d}
    values |= {"a": a_struct, "du": du, "positions": layout.positions_for(drop), "parts": parts, "rank": rank, "drop": drop}

    def expected():
        total = dy.double()
        for i in range(parts):
            own = du[:, i * rank : (i + 1) * rank].double() @ a[i].double()
            total = total + reference.dropped(own, drop, i, layout.positions)
        return {"dx": reference.layer_norm_backward(total, x, weight, EPS, added)}

    return Case(
        name("layer_norm_backward", inputs),
        values=values,
        outputs={"dx": dx},
        expected=expected,
        shared=ROWS_PER_BLOCK * d * 4,
        bytes=size(dy, x, added, dx, stats, du),
        **rows_grid(n),
    )


# Linear layers.


def lora_down(inputs, layout, d=WIDTH, parts=3, rank=1, drop=ON):
    n = layout.n
    x, (a, a_struct) = inputs.normal(n, d), inputs.factors(parts, rank, d)
    u = inputs.empty(n, parts * rank, dtype=F32)
    values = {
        "x": x,
        "a": a_struct,
        "u": u,
        "positions": layout.positions_for(drop),
        "n": n,
        "d": d,
        "parts": parts,
        "rank": rank,
        "drop": drop,
    }

    def expected():
        return {"u": torch.cat([reference.dropped(x, drop, i, layout.positions) @ a[i].double().T for i in range(parts)], 1)}

    return Case(name("lora_down", inputs), values=values, outputs={"u": u}, expected=expected, bytes=size(x, u), **rows_grid(n))


def linear_epilogue(inputs, layout, out=WIDTH, parts=1, rank=1, residual=False, activation=None, in_place=False, drop=OFF):
    """`activation` is None, "gelu" or "quick gelu"; `in_place` it takes the place of the sum."""
    n, scale = layout.n, 0.7
    y, bias = inputs.normal(n, out), inputs.normal(out, dtype=F32)
    product = y.clone()
    b, b_struct = inputs.factors(parts, out // max(parts, 1), rank)
    u = inputs.normal(n, parts * rank, dtype=F32) if parts else None
    added = inputs.normal(n, out) if residual else None
    activated = None if not activation else y if in_place else inputs.empty(n, out)
    quick = activation == "quick gelu"

    def expected():
        x = product.double() + bias.double()
        if parts:
            ups = [u[:, i * rank : (i + 1) * rank].double() @ b[i].double().T for i in range(parts)]
            x += scale * torch.cat(ups, 1)
        x = reference.dropped(x, drop, 0, layout.positions)
        if residual:
            x += added.double()
        if in_place:
            return {"activated": reference.activation(x, quick)}
        return {"y": x, "activated": reference.activation(x, quick)} if activation else {"y": x}

    values = {
        "y": y,
        "bias": bias,
        "b": b_struct,
        "u": u,
        "residual": added,
        "activated": activated,
        "positions": layout.positions_for(drop),
    }
    values |= {"n": n, "out": out, "parts": parts, "rank": rank, "scale": scale, "drop": drop, "quick_gelu": int(quick)}
    outputs = {"activated": y} if in_place else {"y": y, "activated": activated} if activation else {"y": y}
    moved = 2 * size(y) + size(added, u) + (0 if in_place else size(activated))
    return Case(
        name("linear_epilogue", inputs), values=values, outputs=outputs, expected=expected, bytes=moved, **elements_grid(inputs, n * out)
    )


def lora_up_backward(inputs, layout, out=WIDTH, parts=3, rank=1):
    n, scale, width = layout.n, 0.7, out // parts
    dy, (b, b_struct) = inputs.normal(n, out), inputs.factors(parts, width, rank)
    du = inputs.empty(n, parts * rank, dtype=F32)
    values = {"dy": dy, "b": b_struct, "du": du, "n": n, "out": out, "parts": parts, "rank": rank, "scale": scale}

    def expected():
        return {"du": scale * torch.cat([dy[:, i * width : (i + 1) * width].double() @ b[i].double() for i in range(parts)], 1)}

    return Case(name("lora_up_backward", inputs), values=values, outputs={"du": du}, expected=expected, bytes=size(dy, du), **rows_grid(n))


def lora_down_backward(inputs, layout, d=WIDTH, parts=3, rank=1, drop=ON):
    n = layout.n
    dx, (a, a_struct) = inputs.normal(n, d), inputs.factors(parts, rank, d)
    product = dx.clone()
    du = inputs.normal(n, parts * rank, dtype=F32)
    values = {
        "dx": dx,
        "a": a_struct,
        "du": du,
        "positions": layout.positions_for(drop),
        "n": n,
        "d": d,
        "parts": parts,
        "rank": rank,
        "drop": drop,
    }

    def expected():
        total = product.double()
        for i in range(parts):
            own = du[:, i * rank : (i + 1) * rank].double() @ a[i].double()
            total += reference.dropped(own, drop, i, layout.positions)
        return {"dx": total}

    return Case(
        name("lora_down_backward", inputs),
        values=values,
        outputs={"dx": dx},
        expected=expected,
        bytes=2 * size(dx) + size(du),
        **elements_grid(inputs, n * d),
    )


def chunk_rows(n, columns, rank, constants):
    """Rows of a chunk of `column_sums`, as the engine chooses them: about 512 blocks, of 16 to 256 rows."""
    groups, lanes = constants["SUM_GROUPS"], constants["SUM_LANES"]
    blocks = div_ceil(columns, groups * constants["VECTOR_WIDTH"])
    return blocks, min(max(div_ceil(div_ceil(n * blocks * rank, 512), lanes) * lanes, 16), 256)


def column_sums(inputs, layout, width=WIDTH, parts=3, rank=1, own=False, drop=OFF, norm=False):
    """`own`: each part has columns of its own, as the gradient of B needs; else all read the same, as that of A. `norm`: they read what
    a layer norm makes of the columns."""
    n, scale, constants = layout.n, 0.7, inputs.source.constants
    columns, step = (parts * width, width) if own else (width, 0)
    x, weights = inputs.normal(n, columns), inputs.normal(n, parts * rank, dtype=F32)
    blocks, chunk = chunk_rows(n, columns, rank, constants)
    chunks = div_ceil(n, chunk)
    partial = inputs.empty(chunks, parts * rank, width, dtype=F32)
    stats, norm_scale, norm_shift = (inputs.normal(*s, dtype=F32) if norm else None for s in ((n, 2), (columns,), (columns,)))
    values = {"stats": stats, "norm_scale": norm_scale, "norm_shift": norm_shift}
    values |= {
        "x": x,
        "weights": weights,
        "partial": partial,
        "positions": layout.positions_for(drop),
        "n": n,
        "columns": columns,
        "width": width,
    }
    values |= {"chunk": chunk, "parts": parts, "rank": rank, "scale": scale, "drop": drop}

    def expected():
        sums = []
        read = reference.normalized(x, stats[:, 0], stats[:, 1], norm_scale, norm_shift).to(x.dtype) if norm else x
        for i in range(parts):
            x_part = reference.dropped(read[:, i * step : i * step + width], drop, i, layout.positions)
            weight = scale * weights[:, i * rank : (i + 1) * rank].double()
            both = [torch.nn.functional.pad(t, (0, 0, 0, chunks * chunk - n)).view(chunks, chunk, -1) for t in (weight, x_part)]
            sums.append(both[0].mT @ both[1])
        return {"partial": torch.cat(sums, 1)}

    lanes, groups = constants["SUM_LANES"], constants["SUM_GROUPS"]
    return Case(
        name("column_sums", inputs),
        grid=(blocks, chunks, rank),
        threads=groups * lanes,
        shared=(lanes - 1) * constants["VECTOR_WIDTH"] * groups * 4,
        values=values,
        outputs={"partial": partial},
        expected=expected,
        # A norm in single precision rounds a few numbers to the other bf16 than one in double precision.
        limits={"partial": 1e-4} if norm and x.dtype == BF16 else {},
        bytes=size(x, stats, weights, partial),
    )


def add_chunks(inputs, layout, sums=None):
    """A table of sums, each (chunks, parts, rank, width); the sums of a rank above 1 are written transposed. By default those of an
    audio-video step: in each of 12 blocks of both encoders, the gradients of A and B of three parts and of one."""
    if sums is None:
        chunks = div_ceil(layout.n, chunk_rows(layout.n, WIDTH, 1, inputs.source.constants)[1])
        sums = [(chunks, parts, 1, WIDTH) for parts in (3, 3, 1, 1)] * 24
    made, rows = [], []
    for chunks, parts, rank, width in sums:
        partial, total = inputs.normal(chunks, parts * rank * width, dtype=F32), inputs.empty(parts, width, rank, dtype=F32)
        made.append((partial, total))
        rows.append({"partial": partial, "sum": total, "chunks": chunks, "numbers": parts * rank * width, "width": width, "rank": rank})

    def expected():
        totals = (partial.double().sum(0).view(total.shape[0], total.shape[2], -1).mT for partial, total in made)
        return {f"sum {i}": total for i, total in enumerate(totals)}

    lanes = inputs.source.constants["CHUNK_LANES"]
    return Case(
        "add_chunks",
        grid=(div_ceil(max(row["numbers"] for row in rows), 32), len(rows), 1),
        threads=32 * lanes,
        shared=32 * lanes * 4,
        values={"table": inputs.structs("PartialSums", rows)},
        outputs={f"sum {i}": total for i, (_, total) in enumerate(made)},
        expected=expected,
        bytes=sum(size(*pair) for pair in made),
    )


# Element by element.


def activate(inputs, layout, width=4 * WIDTH, quick=False):
    z, y = inputs.normal(layout.n, width, scale=3.0), inputs.empty(layout.n, width)
    return Case(
        name("activate", inputs),
        values={"z": z, "y": y, "groups": z.numel() // 8, "quick_gelu": int(quick)},
        outputs={"y": y},
        expected=lambda: {"y": reference.activation(z, quick)},
        bytes=size(z, y),
        **elements_grid(inputs, z.numel()),
    )


def activate_backward(inputs, layout, width=4 * WIDTH, quick=False, bias=False):
    """`bias`: z is the product of a linear layer, whose bias is added first."""
    z, dy, dz = inputs.normal(layout.n, width, scale=3.0), inputs.normal(layout.n, width), inputs.empty(layout.n, width)
    added = inputs.normal(width, dtype=F32) if bias else None

    def expected():
        total = (z.float() + added).to(z.dtype) if bias else z
        return {"dz": reference.activation_backward(total, dy, quick)}

    return Case(
        name("activate_backward", inputs),
        values={"z": z, "bias": added, "dy": dy, "dz": dz, "groups": z.numel() // 8, "columns": width // 8, "quick_gelu": int(quick)},
        outputs={"dz": dz},
        expected=expected,
        bytes=size(z, dy, dz),
        **elements_grid(inputs, z.numel()),
    )


def dropout(inputs, layout, d=WIDTH, drop=ON):
    x, y = inputs.normal(layout.n, d), inputs.empty(layout.n, d)
    return Case(
        name("dropout", inputs),
        values={"x": x, "y": y, "positions": layout.positions, "n": layout.n, "d": d, "drop": drop},
        outputs={"y": y},
        expected=lambda: {"y": reference.dropped(x, drop, 0, layout.positions)},
        bytes=size(x, y),
        **elements_grid(inputs, x.numel()),
    )


# The ends of an encoder.


def cut_patches(inputs, layout, count=2, channels=3, rows=32, cols=48, patch=16, strides=(16, 16), transposed=False):
    """Patches of `count` images; it needs no layout."""
    down, across = (rows - patch) // strides[0] + 1, (cols - patch) // strides[1] + 1
    image = inputs.normal(count, channels * rows * cols, dtype=F32)
    out = inputs.empty(count * down * across, channels * patch * patch)
    step = 1 if patch % inputs.source.constants["VECTOR_WIDTH"] else inputs.source.constants["VECTOR_WIDTH"]
    values = {"input": image, "out": out, "total": out.numel(), "step": step, "channels": channels, "rows": rows, "cols": cols}
    values |= {"patch": patch, "row_stride": strides[0], "col_stride": strides[1], "down": down, "across": across}
    return Case(
        name("cut_patches", inputs),
        grid=(div_ceil(out.numel() // step, THREADS), 1, 1),
        threads=THREADS,
        values=values | {"transposed": int(transposed)},
        outputs={"out": out},
        expected=lambda: {"out": reference.cut_patches(image, channels, rows, cols, patch, *strides, transposed)},
        bytes=size(image, out),
    )


def sequences_grid(inputs, layout, d):
    """One thread for every eight columns of the longest sequence, and that for each sequence."""
    blocks = div_ceil(layout.longest * (d // inputs.source.constants["VECTOR_WIDTH"]), THREADS)
    return {"grid": (blocks, len(layout.lengths), 1), "threads": THREADS}


def embed_words(inputs, layout, d=WIDTH, vocabulary=1000):
    """Each sequence of the layout is a text and a mask token."""
    words, positions = inputs.normal(vocabulary, d), inputs.normal(layout.longest, d)
    places = torch.cat([torch.arange(length - 1) for length in layout.lengths])
    ids = torch.arange(len(places)) * 7 % vocabulary
    out = inputs.empty(len(places), d)
    values = {"words": words, "positions": positions, "ids": inputs.table(ids), "offsets": layout.offsets, "out": out, "d": d}
    return Case(
        name("embed_words", inputs),
        values=values,
        outputs={"out": out},
        expected=lambda: {"out": words.double()[ids] + positions.double()[places]},
        bytes=3 * size(out),
        **sequences_grid(inputs, layout, d),
    )


def pack_tokens(inputs, layout, d=WIDTH, specials=0):
    """Without special tokens, as for texts, own tokens get no position embeddings."""
    counts = [length - specials - 1 for length in layout.lengths]
    own, mask = inputs.normal(sum(counts), d), inputs.normal(1, d, dtype=F32)
    special = inputs.normal(specials, d) if specials else None
    positions = inputs.normal(max(counts), d) if specials else None
    out = inputs.empty(layout.n, d)

    def expected():
        parts = []
        for tokens in own.double().split(counts):
            if specials:
                parts += [special.double(), tokens + positions.double()[: len(tokens)], mask.double()]
            else:
                parts += [tokens, mask.double()]
        return {"out": torch.cat(parts)}

    values = {"own": own, "positions": positions, "special": special, "mask_token": mask, "offsets": layout.offsets, "out": out}
    return Case(
        name("pack_tokens", inputs),
        values=values | {"d": d, "specials": specials},
        outputs={"out": out},
        expected=expected,
        bytes=size(own, out),
        **sequences_grid(inputs, layout, d),
    )


def ends_of(layout):
    """The numbers of the first and the last row of each sequence."""
    return torch.tensor([[start, end - 1] for start, end in zip(layout.starts, layout.starts[1:])])


def pick_ends(inputs, layout, d=WIDTH, each=2):
    x, out = inputs.normal(layout.n, d), inputs.empty(each * len(layout.lengths), d)
    values = {"x": x, "offsets": layout.offsets, "out": out, "sequences": len(layout.lengths), "d": d, "each": each}
    return Case(
        name("pick_ends", inputs),
        values=values,
        outputs={"out": out},
        expected=lambda: {"out": x.double()[ends_of(layout)[:, -each:].flatten()]},
        bytes=2 * size(out),
        **elements_grid(inputs, out.numel()),
    )


def spread_ends(inputs, layout, d=WIDTH):
    """In a sequence of one row, that row gets both gradients."""
    ends, out = inputs.normal(2 * len(layout.lengths), d), inputs.empty(layout.n, d)

    def expected():
        spread = torch.zeros(out.shape, dtype=torch.float64, device=inputs.device)
        return {"out": spread.index_add(0, ends_of(layout).flatten().to(inputs.device), ends.double())}

    return Case(
        name("spread_ends", inputs),
        values={"ends": ends, "offsets": layout.offsets, "out": out, "d": d},
        outputs={"out": out},
        expected=expected,
        bytes=size(ends, out),
        **sequences_grid(inputs, layout, d),
    )


def sum_rows(inputs, layout, d=WIDTH):
    x, total = inputs.normal(layout.n, d), inputs.empty(d, dtype=F32)
    constants = inputs.source.constants
    threads = constants["END_GROUPS"] * constants["END_SLICES"]
    return Case(
        name("sum_rows", inputs),
        grid=(div_ceil(d, constants["END_COLUMNS"]), 1, 1),
        threads=threads,
        shared=threads * constants["VECTOR_WIDTH"] * 4,
        values={"x": x, "sum": total, "n": layout.n, "d": d},
        outputs={"sum": total},
        expected=lambda: {"sum": x.double().sum(0)},
        bytes=size(x),
    )


# Behind the encoders.

HEAD_FACTORS = {"align": 0.03, "align_weight": 0.2}


def head_sample(inputs, layout, count=7, d=WIDTH, classes=28, concat=False, multi_label=False, stop_gradient=False):
    """`count` samples, of which every third has the first modality alone and every third the second alone. Three sequences of the
    second encoder belong to a sample. It needs no layout."""
    present = [((True, True), (True, False), (False, True))[i % 3] for i in range(count)]
    labels = [tuple(range(i % 4)) if multi_label else (i % classes,) for i in range(count)]
    images, width = (1, 3), 2 * d if concat else d
    table, rows, none = [], [0, 0], -1
    for has, own in zip(present, labels):
        # Class and mask token of the first modality are numbers 0 and 1, of the second 2 and 3.
        table += [rows[m] if has[m] else none for m in (0, 1)] + [0 if has[0] else 3, 2 if has[1] else 1, int(all(has))]
        if multi_label:
            words = [sum(1 << k % 32 for k in own if k // 32 == word) for word in range(div_ceil(classes, 32))]
            table += [word - (word >> 31 << 32) for word in words]
        else:
            table += own
        rows = [rows[m] + has[m] for m in (0, 1)]
    tokens = [inputs.normal(2 * images[m] * rows[m], d) for m in (0, 1)]
    gradients = [inputs.empty(*t.shape) for t in tokens]
    weight, bias = inputs.normal(classes, width, dtype=F32, scale=0.05), inputs.normal(classes, dtype=F32)
    wide = {"features": width, "logits": classes, "d_logits": classes, "losses": 2}
    outputs = {what: inputs.empty(count, columns, dtype=F32) for what, columns in wide.items()}
    task = 1 / (count * classes if multi_label else count)
    settings = (multi_label, task, HEAD_FACTORS["align"], HEAD_FACTORS["align_weight"], stop_gradient)
    encoders = [{"tokens": tokens[m], "gradient": gradients[m], "images": images[m]} for m in (0, 1)]
    sizes = {"d": d, "classes": classes, "concat": int(concat), "multi_label": int(multi_label)}
    factors = {"task": task, "stop_gradient": int(stop_gradient), **HEAD_FACTORS}
    values = {"table": inputs.table(table), "m1": encoders[0], "m2": encoders[1], "weight": weight, "bias": bias, "h": sizes}
    return Case(
        name("head_sample", inputs),
        grid=(count, 1, 1),
        threads=THREADS,
        shared=(width + 2 * classes + THREADS // 32) * 4,
        values=values | outputs | {"f": factors},
        outputs=outputs | {f"gradient {m + 1}": gradients[m] for m in (0, 1)},
        expected=lambda: reference.head(tokens, images, present, labels, weight, bias, *settings),
        bytes=2 * size(*tokens) + 2 * count * size(weight),
    )


def head_sums(inputs, layout, count=7, width=WIDTH, classes=28):
    """Sums over `count` samples; it needs no layout."""
    features, d_logits, losses = (inputs.normal(count, columns) for columns in (width, classes, 2))
    outputs = {"d_weight": inputs.empty(classes, width), "d_bias": inputs.empty(classes), "losses": inputs.empty(3)}
    task = 1 / count

    def expected():
        sums = losses.double().sum(0) * torch.tensor([task, HEAD_FACTORS["align"]], dtype=torch.float64, device=inputs.device)
        training = sums[0] + HEAD_FACTORS["align_weight"] * sums[1]
        found = {"d_weight": d_logits.double().T @ features.double(), "d_bias": d_logits.double().sum(0)}
        return found | {"losses": torch.stack([training, *sums])}

    values = {"features": features, "d_logits": d_logits, "sample_losses": losses, "n": count, "width": width, "classes": classes}
    return Case(
        name("head_sums", inputs),
        grid=(div_ceil(width, THREADS), classes, 1),
        threads=THREADS,
        values=values | outputs | {"f": {"task": task, "stop_gradient": 0, **HEAD_FACTORS}},
        outputs=outputs,
        expected=expected,
        bytes=size(features, d_logits, outputs["d_weight"]),
    )


# Rows.


def row_positions(inputs, layout):
    positions = inputs.empty(layout.n, 2, dtype=torch.int32)
    return Case(
        "row_positions",
        grid=(div_ceil(layout.longest, THREADS), len(layout.lengths), 1),
        threads=THREADS,
        values={"offsets": layout.offsets, "samples": layout.samples, "positions": positions},
        outputs={"positions": positions},
        expected=lambda: {"positions": layout.positions.double()},
        bytes=size(positions),
    )


# Attention.


class AttentionProblem:
    """Inputs and expected results that the attention kernels of one shape share."""

    def __init__(self, inputs, layout, heads, dim, drop):
        n, d = layout.n, heads * dim
        self.heads, self.dim, self.drop, self.n, self.d = heads, dim, drop, n, d
        self.layout, self.inputs = layout, inputs
        self.qkv, self.d_out = inputs.normal(n, 3 * d), inputs.normal(n, d)
        wide = {"dtype": torch.float64, "device": inputs.device}
        self.out, self.d_qkv = torch.empty(n, d, **wide), torch.empty(n, 3 * d, **wide)
        self.lse, self.delta = torch.empty(heads, n, **wide), torch.empty(heads, n, **wide)
        for start, length, sample in zip(layout.starts, layout.lengths, layout.samples.tolist()):
            at = slice(start, start + length)

            def by_heads(x):
                return x[at].view(length, -1, dim).transpose(0, 1)

            rows = torch.arange(heads * length, device=inputs.device)
            factors = reference.dropout_factors(drop, 0, torch.full_like(rows, sample), rows, length)
            q, k, v = by_heads(self.qkv).split(heads)
            factors = None if factors is None else factors.view(heads, length, length)
            out, lse, delta, *gradients = reference.attention(q, k, v, by_heads(self.d_out), factors)
            self.out[at] = out.transpose(0, 1).reshape(length, d)
            self.lse[:, at], self.delta[:, at] = lse, delta
            self.d_qkv[at] = torch.cat(gradients).transpose(0, 1).reshape(length, 3 * d)

    def case(self, kernel, wide, outputs, expected, values, products, moved):
        """A case of an attention kernel, with blocks of 128 rows instead of 64 if `wide`; `products` is the number of matrix products
        of length x length x dim."""
        inputs, layout, constants = self.inputs, self.layout, self.inputs.source.constants
        values = values | {"qkv": self.qkv, "h": self.struct()}
        if inputs.dtype == BF16:
            tile = constants["TILE_BF16"]
            rows = 2 * tile if wide else tile
            shared = 2 * 2 * tile * ((self.dim + constants["TILE_PADDING"]) * 2 + 4)
        else:
            rows = tile = constants["TILE_F32"]
            shared = 2 * tile * (self.dim + 1) * 4
        return Case(
            attention_name(kernel, inputs.dtype, self.dim, self.drop is ON, wide),
            grid=(div_ceil(layout.longest, rows), self.heads, len(layout.lengths)),
            threads=128,
            shared=shared,
            values=values,
            outputs=outputs,
            expected=expected,
            limits={output: ATTENTION_LIMIT for output, tensor in outputs.items() if tensor.dtype == BF16},
            flops=products * 2 * self.d * sum(length**2 for length in layout.lengths),
            bytes=moved,
        )

    def struct(self):
        layout = self.layout
        shared = {"offsets": layout.offsets, "samples": layout.samples, "n": self.n, "d": self.d}
        return shared | {"scale": self.dim**-0.5, "drop": self.drop}

    def saved(self):
        """What the backward kernels read of the forward pass and of `attention_delta`."""
        lse, delta = (self.inputs.empty(self.heads, self.n, dtype=F32).copy_(t) for t in (self.lse, self.delta))
        return {"d_out": self.d_out, "lse": lse, "delta": delta}


def attention_name(kernel, dtype, dim, dropped, wide):
    """The name of a kernel; those of f32 are the same with and without dropout."""
    variant = "_wide" if wide else "_dropout" if dropped and dtype == BF16 else ""
    return f"{kernel}{variant}_{SUFFIXES[dtype]}_{dim}"


def attention_forward(problem, wide):
    inputs = problem.inputs
    out, lse = inputs.empty(problem.n, problem.d), inputs.empty(problem.heads, problem.n, dtype=F32)
    outputs = {"out": out, "lse": lse}
    expected = {"out": problem.out, "lse": problem.lse}
    return problem.case("attention_forward", wide, outputs, lambda: expected, outputs, 2, size(problem.qkv, out, lse))


def attention_delta(problem, wide):
    inputs = problem.inputs
    out = inputs.empty(problem.n, problem.d).copy_(problem.out)
    delta = inputs.empty(problem.heads, problem.n, dtype=F32)

    def expected():
        product = out.double() * problem.d_out.double()
        return {"delta": product.view(problem.n, problem.heads, problem.dim).sum(2).T}

    values = {"out": out, "d_out": problem.d_out, "delta": delta, "n": problem.n, "d": problem.d, "heads": problem.heads}
    return Case(
        name("attention_delta", inputs),
        values=values,
        outputs={"delta": delta},
        expected=expected,
        bytes=size(out, problem.d_out, delta),
        **rows_grid(problem.n * problem.heads),
    )


def attention_backward_q(problem, wide):
    d_qkv, d = problem.inputs.empty(problem.n, 3 * problem.d), problem.d
    values = problem.saved() | {"d_qkv": d_qkv}
    moved = size(problem.qkv, problem.d_out) + size(d_qkv) // 3
    expected = {"dq": problem.d_qkv[:, :d]}
    return problem.case("attention_backward_q", wide, {"dq": d_qkv[:, :d]}, lambda: expected, values, products=3, moved=moved)


def attention_backward_kv(problem, wide):
    d_qkv, d = problem.inputs.empty(problem.n, 3 * problem.d), problem.d
    values = problem.saved() | {"d_qkv": d_qkv}
    moved = size(problem.qkv, problem.d_out) + size(d_qkv) * 2 // 3
    # The two gradients have limits of their own, because their sizes differ.
    outputs = {"dk": d_qkv[:, d : 2 * d], "dv": d_qkv[:, 2 * d :]}
    expected = {"dk": problem.d_qkv[:, d : 2 * d], "dv": problem.d_qkv[:, 2 * d :]}
    return problem.case("attention_backward_kv", wide, outputs, lambda: expected, values, products=4, moved=moved)


ATTENTION = (attention_forward, attention_delta, attention_backward_q, attention_backward_kv)


# The optimizer.


def adamw(inputs, layout, sizes=(5, 1000, 300), step=7):
    """A table of tensors. The first has gradients so small that `eps` counts, the third has no weight decay."""
    lr, betas, eps = 1e-3, (0.9, 0.999), 1e-8
    decays = [0.02] * len(sizes)
    decays[2:3] = [0.0]
    tensors = []
    for i, n in enumerate(sizes):
        scale = 0.1 if i else 1e-8
        value, m, gradient = (inputs.normal(n, dtype=F32, scale=s) for s in (1.0, scale, scale))
        v = inputs.empty(n, dtype=F32).copy_(inputs.normal(n, dtype=F32, scale=scale) ** 2)
        tensors.append((value, m, v, gradient))
    before = [[t.clone() for t in of] for of in tensors]
    rows = []
    for n, decay, (value, m, v, gradient) in zip(sizes, decays, tensors):
        fields = {"value": value, "m": m, "v": v, "gradient": gradient, "n": n, "step": lr / (1 - betas[0] ** step)}
        rows.append(fields | {"root_correction": (1 - betas[1] ** step) ** 0.5, "decay": 1 - lr * decay})
    outputs = {f"{what} {i}": of[j] for i, of in enumerate(tensors) for j, what in enumerate(("value", "m", "v"))}

    def expected():
        found = {}
        for i, (decay, of) in enumerate(zip(decays, before)):
            results = reference.adamw(*of, step, lr, betas, eps, decay)
            found |= {f"{what} {i}": result for what, result in zip(("value", "m", "v"), results)}
        return found

    values = {"one_minus_beta1": 1 - betas[0], "beta2": betas[1], "one_minus_beta2": 1 - betas[1], "eps": eps}
    return Case(
        "adamw",
        grid=(min(div_ceil(max(sizes), THREADS), 1024), len(sizes), 1),
        threads=THREADS,
        values=values | {"table": inputs.structs("AdamWTensor", rows)},
        outputs=outputs,
        expected=expected,
        bytes=28 * sum(sizes),
    )


# The list of cases.


@dataclass
class Entry:
    """A case that can be made: the kernel, for `--only`, and a shape in words."""

    kernel: str
    shape: str
    dtype: torch.dtype
    small: bool
    # Returns the case and the inputs that it was made of.
    make: object
    # What it is compared with, see kernel_peers.py; the steps of a key are added up.
    key: str = ""
    # Kernels of the same key and step are alternatives, of which the fastest counts.
    step: str = ""

    @property
    def id(self):
        return f"{self.kernel} {self.shape}"


def describe(settings):
    words = []
    for key, value in settings.items():
        if isinstance(value, dict):
            value = RATE if value["threshold"] else 0
        words.append(f"{key} {value}")
    return ", ".join(words)


def entry(function, dtype, lengths, samples, small, key="", label=None, **settings):
    kernel = function.__name__
    if kernel not in ("add_chunks", "adamw", "row_positions"):
        kernel += f"_{SUFFIXES[dtype]}"

    def make(source, device):
        inputs = Inputs(source, device, dtype)
        return function(inputs, Layout(inputs, lengths, samples), **settings), inputs

    shape = label or ", ".join(filter(None, [f"{sum(lengths)} rows", describe(settings)]))
    return Entry(kernel, shape, dtype, small, make, key)


# Two, one for each build of the kernels.
@functools.lru_cache(maxsize=2)
def problem(source, device, dtype, lengths, samples, heads, dim, dropped):
    inputs = Inputs(source, device, dtype)
    return AttentionProblem(inputs, Layout(inputs, lengths, samples), heads, dim, ON if dropped else OFF)


def attention_key(way, dtype, shape):
    return f"attention {way}, {SUFFIXES[dtype]}, {shape}"


def attention_entries(dtype, lengths, samples, heads, dim, dropped, small=False):
    words = f"{len(lengths)} x {lengths[0]}" if len(set(lengths)) == 1 else f"lengths {lengths}"
    rate = RATE if dropped else 0.0
    shape = f"{words}, {heads} heads of {dim}, dropout {rate}"
    # Without dropout, the kernels of bf16 come with narrow and with wide blocks.
    variants = [(function, False) for function in ATTENTION]
    if dtype == BF16 and not dropped:
        variants += [(function, True) for function in ATTENTION if function is not attention_delta]
    for function, wide in variants:
        if function is attention_delta:
            kernel = f"attention_delta_{SUFFIXES[dtype]}"
        else:
            kernel = attention_name(function.__name__, dtype, dim, dropped, wide)

        def make(source, device, function=function, wide=wide):
            of = problem(source, device, dtype, tuple(lengths), tuple(samples), heads, dim, dropped)
            return function(of, wide), of.inputs

        way = "forward" if function is attention_forward else "backward"
        yield Entry(kernel, shape, dtype, small, make, attention_key(way, dtype, shape), step=function.__name__)
    if not small and dtype == BF16:
        yield from peers.attention(len(lengths), lengths[0], heads, dim, rate, lambda way: attention_key(way, dtype, shape))


def equal(count, length):
    """`count` sequences of the same length, of samples in order."""
    return (length,) * count, tuple(range(count))


def small_entries():
    """Every kernel, in both number types, with each of its options; on a GPU and on the host."""
    for dtype in (BF16, F32):
        for dim in (64, 32, 16):
            for dropped in (True, False):
                yield from attention_entries(dtype, *SMALL, 2, dim, dropped, small=True)
        of = functools.partial(entry, dtype=dtype, lengths=SMALL[0], samples=SMALL[1], small=True)
        for parts, rank in ((1, 1), (3, 1), (3, 2), (1, 4)):
            yield of(linear_epilogue, out=parts * 24, parts=parts, rank=rank)
            yield of(linear_epilogue, out=parts * 24, parts=parts, rank=rank, residual=True, drop=ON)
            yield of(lora_up_backward, out=parts * 24, parts=parts, rank=rank)
            for drop in (OFF, ON):
                yield of(lora_down, d=40, parts=parts, rank=rank, drop=drop)
                yield of(lora_down_backward, d=40, parts=parts, rank=rank, drop=drop)
                yield of(column_sums, width=40, parts=parts, rank=rank, drop=drop)
                yield of(column_sums, width=40, parts=parts, rank=rank, drop=drop, norm=True)
                yield of(layer_norm, d=40, parts=parts, rank=rank, drop=drop)
                yield of(layer_norm_backward, d=40, parts=parts, rank=rank, drop=drop)
            yield of(column_sums, width=264, parts=parts, rank=rank, own=True)
        for activation in ("gelu", "quick gelu"):
            yield of(linear_epilogue, out=72, parts=0, activation=activation)
            yield of(linear_epilogue, out=72, parts=0, activation=activation, in_place=True)
        for d in (72, 768):
            yield of(layer_norm, d=d, scale=3.0)
            yield of(layer_norm, d=d, scale=0.01)
            yield of(layer_norm, d=d, again=True)
            yield of(layer_norm_backward, d=d, residual=True)
            yield of(layer_norm_backward, d=d, residual=False)
        for quick in (False, True):
            yield of(activate, width=72, quick=quick)
            yield of(activate_backward, width=72, quick=quick)
            yield of(activate_backward, width=72, quick=quick, bias=True)
        yield of(dropout, d=72)
        yield of(cut_patches, label="2 images of 32 x 48")
        yield of(cut_patches, label="2 images of 20 x 25 in patches of 5", rows=20, cols=25, patch=5, strides=(5, 5))
        yield of(cut_patches, label="2 spectrograms of 32 x 44", channels=1, rows=32, cols=44, strides=(10, 7), transposed=True)
        yield of(embed_words, d=72, vocabulary=50)
        yield of(pack_tokens, d=72)
        yield entry(pack_tokens, dtype, (9, 9), (3, 0), small=True, d=72, specials=2)
        for each in (1, 2):
            yield of(pick_ends, d=72, each=each)
        yield of(spread_ends, d=72)
        yield of(sum_rows, d=72)
        for concat in (False, True):
            yield of(head_sample, label=f"7 samples, concat {concat}", d=72, concat=concat)
            words = f"7 samples, concat {concat}, several of 40 labels"
            yield of(head_sample, label=words, d=72, classes=40, concat=concat, multi_label=True, stop_gradient=True)
    yield entry(row_positions, F32, *SMALL, small=True)
    yield entry(row_positions, F32, (1, 300), (2, 5), small=True)
    yield entry(head_sums, F32, *SMALL, small=True, label="7 samples", width=72)
    yield entry(add_chunks, F32, *SMALL, small=True, label="3 sums", sums=((9, 3, 1, 104), (1, 3, 2, 72), (70, 1, 4, 24)))
    yield entry(adamw, F32, *SMALL, small=True, label="tensors of 5, 1000 and 300")


def real_entries():
    """The kernels of a training step, at its shapes."""
    attention = [(4, 1215, False), (32, 1215, False), (96, 198, False), (32, 41, True), (128, 1215, False), (12, 198, True)]
    for count, length, dropped in attention:
        yield from attention_entries(BF16, *equal(count, length), HEADS, HEAD_SIZE, dropped)
    for count in (4, 32, 128):
        yield from layer_entries(BF16, count)
    yield from attention_entries(F32, *equal(4, 1215), HEADS, HEAD_SIZE, False)
    yield from layer_entries(F32, 4)


def layer_entries(dtype, count):
    of = functools.partial(entry, dtype=dtype, lengths=equal(count, 1215)[0], samples=equal(count, 1215)[1], small=False)
    rows = f"{count * 1215} rows, {SUFFIXES[dtype]}"
    yield of(linear_epilogue, key=f"linear 768 to 2304, {rows}", out=3 * WIDTH, parts=3)
    yield of(linear_epilogue, key=f"linear 768 to 768, {rows}", out=WIDTH, parts=1, residual=True)
    yield of(linear_epilogue, key=f"linear 768 to 3072, {rows}", out=4 * WIDTH, parts=0, activation="gelu", in_place=True)
    yield of(linear_epilogue, key=f"linear 3072 to 768, {rows}", out=WIDTH, parts=0, residual=True, drop=ON)
    yield of(column_sums, parts=3, drop=ON, norm=True)
    yield of(column_sums, parts=3, drop=ON)
    yield of(column_sums, parts=3, own=True)
    yield of(column_sums, parts=1, drop=ON)
    yield of(layer_norm, key=f"layer norm forward, {rows}")
    yield of(layer_norm, again=True)
    yield of(layer_norm_backward, key=f"layer norm backward, {rows}", residual=False)
    yield of(layer_norm_backward, residual=True)
    yield of(layer_norm, parts=3, drop=ON)
    yield of(layer_norm_backward, parts=3, drop=ON)
    yield of(lora_down, parts=1)
    yield of(lora_down_backward, parts=1)
    yield of(lora_down, parts=3)
    yield of(lora_down_backward, parts=3)
    yield of(lora_up_backward, out=3 * WIDTH, parts=3)
    yield of(activate_backward, bias=True)
    yield of(activate)
    yield of(dropout)
    yield of(cut_patches, label=f"{3 * count} images of 224 x 224", count=3 * count, rows=224, cols=224)
    spectrogram = {"channels": 1, "rows": 128, "cols": 1024, "strides": (10, 10), "transposed": True}
    yield of(cut_patches, label=f"{count} spectrograms of 128 x 1024", count=count, **spectrogram)
    yield of(pick_ends)
    yield of(spread_ends)
    yield of(pack_tokens, specials=2)
    yield of(head_sample, label=f"{count} samples, 101 classes", count=count, classes=101)
    if dtype == F32:
        yield of(sum_rows)
        yield of(head_sums, label=f"{count} samples, 101 classes", count=count, classes=101)
        yield of(embed_words)
    if dtype == BF16:
        for d, out in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)):
            yield from peers.linear(count * 1215, d, out, f"linear {d} to {out}, {rows}")
        yield from peers.layer_norm(count * 1215, WIDTH, lambda way: f"layer norm {way}, {rows}")
        yield of(add_chunks)
        yield of(row_positions)
    if dtype == BF16 and count == 4:
        # The adapters of 12 blocks of both encoders, two mask tokens and the head.
        yield of(adamw, label="audio-video", sizes=(WIDTH,) * (12 * 8 * 2 + 2) + (28 * WIDTH, 28))
