"""What the kernels are compared with: PyTorch's own attention, linear layers and layer norm at the same shapes, and what the machine
can do at most, by a copy and a large matrix product."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


@dataclass
class Peer:
    """Something of PyTorch to time. Peers of the same key are alternatives: the kernels are compared with the fastest."""

    kernel: str
    shape: str
    key: str
    # Returns a function that enqueues the work once.
    make: object
    bytes: int = 0
    flops: int = 0
    step: str = ""

    @property
    def id(self):
        return f"{self.kernel} {self.shape}"


def machine(tiny):
    """The measures of the machine, which other results are given as shares of."""
    side, elements = (256, 1 << 16) if tiny else (8192, 1 << 28)

    def copy(device):
        source = torch.randn(elements, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def product(device):
        # Random numbers, because constant ones take less power and so run faster.
        a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    yield Peer("torch copy", f"{4 * elements >> 20} MiB", "copy", copy, bytes=8 * elements)
    yield Peer("torch product", f"{side} x {side} x {side}, bf16", "product", product, flops=2 * side**3)


def attention(count, length, heads, dim, rate, key):
    """Scaled dot product attention in bf16 by each backend; `key` is a function of the way, "forward" or "backward"."""
    shape = f"{count} x {length}, {heads} heads of {dim}, dropout {rate}"
    products = 2 * count * heads * length**2 * dim
    moved = 2 * count * length * heads * dim

    def inputs(device):
        return [torch.randn(count, heads, length, dim, device=device).bfloat16().requires_grad_() for _ in range(3)]

    for name, backend in BACKENDS.items():

        def run(inputs, backend=backend):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*inputs, dropout_p=rate)

        def forward(device, run=run):
            qkv = inputs(device)

            def enqueue():
                with torch.no_grad():
                    run(qkv)

            return enqueue

        def backward(device, run=run):
            qkv = inputs(device)
            out = run(qkv)
            gradient = torch.randn_like(out)
            return lambda: torch.autograd.grad(out, qkv, gradient, retain_graph=True)

        yield Peer(f"torch attention forward {name}", shape, key("forward"), forward, bytes=4 * moved, flops=2 * products)
        yield Peer(f"torch attention backward {name}", shape, key("backward"), backward, bytes=8 * moved, flops=5 * products)


def linear(n, d, out, key):
    """The product of a linear layer with its bias, in bf16, and the product of its backward pass."""
    shape = f"{n} rows, {d} to {out}"
    moved, flops = 2 * (n * d + d * out + n * out), 2 * n * d * out

    def tensors(device):
        return [torch.randn(size, device=device).bfloat16() for size in ((n, d), (out, d), (out,), (n, out))]

    def forward(device):
        x, weight, bias, _ = tensors(device)
        return lambda: F.linear(x, weight, bias)

    def backward(device):
        _, weight, _, dy = tensors(device)
        return lambda: dy @ weight

    yield Peer("torch linear", shape, key, forward, bytes=moved, flops=flops)
    yield Peer("torch linear backward", shape, "", backward, bytes=moved, flops=flops)


def layer_norm(n, d, key):
    """Layer norm in bf16; `key` is a function of the way."""

    def tensors(device):
        x = torch.randn(n, d, device=device).bfloat16().requires_grad_()
        return x, *(torch.randn(d, device=device).bfloat16() for _ in range(2))

    def forward(device):
        x, weight, bias = tensors(device)

        def enqueue():
            with torch.no_grad():
                F.layer_norm(x, (d,), weight, bias)

        return enqueue

    def backward(device):
        x, weight, bias = tensors(device)
        y = F.layer_norm(x, (d,), weight, bias)
        gradient = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, x, gradient, retain_graph=True)

    yield Peer("torch layer norm", f"{n} rows of {d}", key("forward"), forward, bytes=4 * n * d)
    yield Peer("torch layer norm backward", f"{n} rows of {d}", key("backward"), backward, bytes=6 * n * d)


def all_tiny():
    """Each peer at a small shape, so that a run on the host calls them all."""
    yield from machine(tiny=True)
    yield from attention(2, 41, 2, 64, 0.0, lambda way: f"attention {way}, small")
    yield from linear(70, 64, 128, "linear, small")
    yield from layer_norm(70, 64, lambda way: f"layer norm {way}, small")
