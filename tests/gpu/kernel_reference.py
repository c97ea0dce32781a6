"""What the kernels are to compute, written in PyTorch from the formulas, in double precision.

Dropout draws the masks of Philox4x32-10 (Salmon et al., SC 2011) in 64-bit integers. Nothing here is shared with the kernels or
with the CPU's engine.
"""

import math

import torch

MASK32 = 0xFFFFFFFF
# Counter, key and output of philox4x32-10 from the known answers of the authors' library Random123 (kat_vectors).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK32,) * 4, (MASK32,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def multiply_wide(a, b):
    """The high and the low 32 bits of a product of a constant and a tensor, both below 2^32."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    high += low >> 16
    return high >> 16, (high & 0xFFFF) << 16 | low & 0xFFFF


def philox(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = multiply_wide(0xD2511F53, c0)
        high1, low1 = multiply_wide(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def philox_is_right():
    """Whether `philox` gives the known answers."""
    tensors = [[torch.tensor(word) for word in counter] for counter, _, _ in KNOWN_ANSWERS]
    return all(tuple(map(int, philox(c, key))) == want for c, (_, key, want) in zip(tensors, KNOWN_ANSWERS))


def dropout_factors(drop, part, samples, rows, width):
    """0 or 1 / (1 - rate) for `width` columns of each row of each sample; 16 bits decide about an element. `rows` are the numbers of
    rows in their module and step, and `samples` those of their samples. None without dropout."""
    if not drop["threshold"]:
        return None
    groups = (width + 7) // 8
    blocks = rows.long()[..., None] * groups + torch.arange(groups, device=rows.device)
    fixed = [torch.full_like(blocks, word) for word in (drop["module"] + part, drop["step"])]
    words = philox((blocks & MASK32, samples.long()[..., None].expand_as(blocks), *fixed), drop["key"])
    halves = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], -1)
    kept = halves.flatten(-2)[..., :width] >= drop["threshold"]
    return kept.double() * drop["scale"]


def dropped(x, drop, part, positions):
    """`x` in double precision after the dropout of a module; `positions` are (sample, position) of each row."""
    factors = dropout_factors(drop, part, positions[:, 0], positions[:, 1], x.shape[1])
    return x.double() if factors is None else x.double() * factors


def layer_norm(x, weight, bias, eps):
    x = x.double()
    mean = x.mean(1)
    rstd = 1 / (x.var(1, unbiased=False) + eps).sqrt()
    return normalized(x, mean, rstd, weight, bias), torch.stack([mean, rstd], 1)


def normalized(x, mean, rstd, weight, bias):
    return (x.double() - mean.double()[:, None]) * rstd.double()[:, None] * weight.double() + bias.double()


def layer_norm_backward(dy, x, weight, eps, residual):
    """The gradient by automatic differentiation, plus that of the residual."""
    x = x.double().requires_grad_()
    y = torch.nn.functional.layer_norm(x, x.shape[1:], weight.double(), None, eps)
    (dx,) = torch.autograd.grad(y, x, dy.double())
    return dx if residual is None else dx + residual.double()


def activation(z, quick_gelu):
    z = z.double()
    return z * torch.sigmoid(1.702 * z) if quick_gelu else torch.nn.functional.gelu(z)


def activation_backward(z, dy, quick_gelu):
    z = z.double().requires_grad_()
    (dz,) = torch.autograd.grad(activation(z, quick_gelu), z, dy.double())
    return dz


def attention(q, k, v, d_out, factors):
    """Attention of one sequence, heads first, and its gradients. Returns out, lse, delta, dq, dk, dv."""
    scale = 1 / math.sqrt(q.shape[-1])
    q, k, v, d_out = (t.double() for t in (q, k, v, d_out))
    scores = q @ k.mT * scale
    lse = scores.logsumexp(-1)
    p = (scores - lse[..., None]).exp_()
    weights = p if factors is None else p * factors
    out = weights @ v
    delta = (out * d_out).sum(-1)
    d_weights = d_out @ v.mT
    d_scores = p * ((d_weights if factors is None else d_weights * factors) - delta[..., None])
    return out, lse, delta, d_scores @ k * scale, d_scores.mT @ q * scale, weights.mT @ d_out


def cut_patches(input, channels, rows, cols, patch, row_stride, col_stride, transposed):
    """Patches as rows, by `unfold`."""
    images = input.double().view(-1, channels, *((cols, rows) if transposed else (rows, cols)))
    if transposed:
        images = images.mT
    patches = torch.nn.functional.unfold(images, patch, stride=(row_stride, col_stride))
    return patches.mT.reshape(-1, channels * patch * patch)


def adamw(value, m, v, gradient, step, lr, betas, eps, decay):
    """PyTorch's own AdamW in double precision, after `step - 1` steps that left the moments `m` and `v`."""
    parameter = torch.nn.Parameter(value.double())
    optimizer = torch.optim.AdamW([parameter], lr=lr, betas=betas, eps=eps, weight_decay=decay)
    state = {"step": torch.tensor(float(step - 1)), "exp_avg": m.double(), "exp_avg_sq": v.double()}
    optimizer.state[parameter] = state
    parameter.grad = gradient.double()
    optimizer.step()
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]


def head(tokens, images, present, labels, weight, bias, multi_label, task, align, align_weight, stop_gradient):
    """Everything behind two encoders (equations 4 to 7 of the paper) by autograd, for samples that each have a modality at least.

    `tokens` are class and mask token of each sequence in turn. The head reads the concatenation if it is twice as wide.
    """
    leaves = [t.double().requires_grad_() for t in tokens]
    d = leaves[0].shape[1]
    means = [leaf.view(-1, count, 2, d).mean(1) for leaf, count in zip(leaves, images)]
    left, features, squares = [list(of) for of in means], [], []
    for has in present:
        (class1, mask1), (class2, mask2) = (left[m].pop(0) if has[m] else (None, None) for m in (0, 1))
        pair = (class1 if has[0] else mask2, class2 if has[1] else mask1)
        features.append(torch.cat(pair) if weight.shape[1] == 2 * d else sum(pair))
        square = torch.zeros((), dtype=torch.float64, device=weight.device)
        if all(has):
            targets = (class1.detach(), class2.detach()) if stop_gradient else (class1, class2)
            square = ((mask1 - targets[1]) ** 2 + (mask2 - targets[0]) ** 2).sum()
        squares.append(square)
    features, squares = torch.stack(features), torch.stack(squares)
    logits = torch.nn.functional.linear(features, weight.double(), bias.double())
    logits.retain_grad()
    if multi_label:
        targets = torch.zeros_like(logits)
        for i, own in enumerate(labels):
            targets[i, list(own)] = 1.0
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
    else:
        classes = torch.tensor([own[0] for own in labels], device=weight.device)
        losses = torch.nn.functional.cross_entropy(logits, classes, reduction="none")
    (task * losses.sum() + align_weight * align * squares.sum()).backward()
    results = {"features": features, "logits": logits, "d_logits": logits.grad, "losses": torch.stack([losses, squares], 1)}
    results |= {f"gradient {m + 1}": leaf.grad for m, leaf in enumerate(leaves)}
    return {what: result.detach() for what, result in results.items()}
