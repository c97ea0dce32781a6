"""Outputs and gradients of the small encoders: bare, with the mask token, with PEFT's LoRA.

Writes encoders.safetensors, encoders.json and adapters/ENCODER-CASE/ (PEFT's own folders). The LoRA of a
case is in its adapter folder and nowhere else; gradients carry the adapter file's key. The encoders of other
sizes (sizes/NAME/) have one case each: encoder_sizes.safetensors, encoder_sizes.json and adapters/NAME/.
"""

import numpy as np
import torch

from common import (
    ADAPTERS, HERE, SIZES, Encoder, adapters, fill, load, lora, normal, relative, rng, save_adapter, tensor, write,
)

WIDTH = 32
# rank and alpha; in r0 B is zero as at the start of training
CASES = {"r0": (1, 1), "r1": (1, 1), "r2a4": (2, 4)}
LENGTHS = [12, 7, 3]


def inputs(kind):
    """(x, lengths): pixels [2,3,32,32], normalised mel [2,64,128], ids [3,12] padded with 0."""
    if kind == "clip":
        return tensor(normal((2, 3, 32, 32), 1.0, "pixels")), None
    if kind == "ast":
        mel = normal((2, 64, 128), 0.5, "mel")
        # The second clip is short: its tail is what normalised padding looks like.
        mel[1, 40:] = 0.4670
        return tensor(mel), None
    ids = rng("ids").integers(5, 150, (3, 12))
    for row, n in enumerate(LENGTHS):
        ids[row, 0], ids[row, n - 1], ids[row, n:] = 2, 3, 0
    return torch.from_numpy(ids), torch.tensor(LENGTHS)


def run(kind, dtype):
    out = {}
    x, lengths = inputs(kind)
    x = x.to(dtype) if x.is_floating_point() else x
    rows = len(x)
    mask_token = tensor(normal((1, WIDTH), 0.5, kind, "mask_token")).to(dtype)
    c1 = tensor(normal((rows, WIDTH), 1.0, kind, "c1")).to(dtype)
    c2 = tensor(normal((rows, WIDTH), 1.0, kind, "c2")).to(dtype)
    out[f"{kind}.input"] = x
    if lengths is not None:
        out[f"{kind}.lengths"] = lengths
    out |= {f"{kind}.mask_token": mask_token, f"{kind}.c1": c1, f"{kind}.c2": c2}

    bare = Encoder(kind, load(kind, dtype))
    with torch.no_grad():
        out[f"{kind}.plain.last_hidden"] = bare(x, lengths)
        out[f"{kind}.mask.last_hidden"] = bare(x, lengths, mask_token)
        if kind == "clip":
            out["clip.plain.post_norm"] = bare.states(x)
            pooled = bare.model(pixel_values=x).pooler_output
            assert torch.equal(pooled, out["clip.plain.post_norm"][:, 0])
            out["clip.mask.post_norm"] = bare.states(x, None, mask_token)
        if kind == "bert":
            # Padding is never attended to, the mask token always: a row alone, unpadded, gives the same.
            for row, n in enumerate(LENGTHS):
                alone = bare(x[row : row + 1, :n], lengths[row : row + 1], mask_token)[0]
                padded = out["bert.mask.last_hidden"][row]
                assert relative(alone, torch.cat([padded[:n], padded[-1:]])) < 1e-5

    for case, (rank, alpha) in CASES.items():
        peft = lora(kind, load(kind, dtype), rank, alpha)
        fill(peft, 0.3, 0.0 if case == "r0" else 0.3, kind, case)
        encoder = Encoder(kind, peft)
        mt = mask_token.clone().requires_grad_()
        cls, token = encoder.tokens(x, lengths, mt)
        loss = (cls * c1).sum() + (token * c2).sum()
        loss.backward()
        if case == "r0":
            # B is zero: LoRA changes nothing.
            last = encoder.states(x, lengths, mt)
            same = out["clip.mask.post_norm" if kind == "clip" else f"{kind}.mask.last_hidden"]
            assert torch.equal(last, same)
        out |= {f"{kind}.{case}.cls": cls, f"{kind}.{case}.mt": token, f"{kind}.{case}.loss": loss}
        out[f"{kind}.{case}.grad.mask_token"] = mt.grad
        for key, p in adapters(peft).items():
            assert p.grad is not None and p.grad.isfinite().all()
            out[f"{kind}.{case}.grad.{key}"] = p.grad
        names = {n.split(".lora_")[0].removeprefix("base_model.model.") for n in adapters(peft)}
        assert len(names) == 4 * 3 and not [n for n in names if "mlp" in n or "intermediate" in n], names
        if dtype == torch.float64:
            save_adapter(peft.float(), ADAPTERS / f"{kind}-{case}")
    return out


def half(*arguments):
    """`normal`, rounded to float16 so that it can be stored as such."""
    return normal(*arguments).astype(np.float16)


def input_of_size(kind, name, config):
    """(x, lengths) of two sequences in the sizes of a configuration; numbers are exact in float16."""
    if kind == "clip":
        return half((2, 3, config.image_size, config.image_size), 1.0, name, "pixels"), None
    if kind == "ast":
        return half((2, config.max_length, config.num_mel_bins), 0.5, name, "mel"), None
    lengths = np.array([config.max_position_embeddings, 5])
    ids = rng(name, "ids").integers(5, config.vocab_size, (2, config.max_position_embeddings))
    ids[1, 5:] = 0
    return ids, lengths


def run_size(kind, name, folder, dtype):
    """Class token, mask token and gradients with LoRA of rank 2, of the encoder in `folder`."""
    config = load(kind, dtype, SIZES, folder).config
    x, lengths = input_of_size(kind, name, config)
    rows, width = 2, config.hidden_size
    drawn = {
        part: half((n, width), std, name, part)
        for part, n, std in (("mask_token", 1, 0.5), ("c1", rows, 1.0), ("c2", rows, 1.0))
    }
    out = {f"{name}.input": x} | {f"{name}.{part}": value for part, value in drawn.items()}
    if lengths is not None:
        out[f"{name}.lengths"] = lengths
    x = torch.from_numpy(x) if kind == "bert" else tensor(x).to(dtype)
    lengths = None if lengths is None else torch.from_numpy(lengths)
    mask_token, c1, c2 = (tensor(value).to(dtype) for value in drawn.values())
    peft = lora(kind, load(kind, dtype, SIZES, folder), rank=2, alpha=4)
    fill(peft, 0.3, 0.3, name)
    mask_token.requires_grad_()
    cls, token = Encoder(kind, peft).tokens(x, lengths, mask_token)
    ((cls * c1).sum() + (token * c2).sum()).backward()
    out |= {f"{name}.cls": cls, f"{name}.mt": token, f"{name}.grad.mask_token": mask_token.grad}
    out |= {f"{name}.grad.{key}": p.grad for key, p in adapters(peft).items()}
    if dtype == torch.float64:
        save_adapter(peft.float(), ADAPTERS / name)
    return out


def sizes():
    tensors, spread = {}, {}
    for path in sorted(SIZES.glob("*/*")):
        name, folder = path.parent.name, path.relative_to(SIZES)
        kind = name.split("-")[0]
        truth = run_size(kind, name, folder, torch.float64)
        single = run_size(kind, name, folder, torch.float32)
        tensors |= truth
        computed = [k for k, v in truth.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        for part, keys in (
            ("outputs", [k for k in computed if ".grad." not in k]),
            ("gradients", [k for k in computed if ".grad." in k]),
        ):
            spread[f"{name}, {part}"] = float(f"{max(relative(single[k], truth[k]) for k in keys):.1e}")
    about = {
        "what": {
            "NAME": "the encoder in sizes/NAME with the adapter in adapters/NAME: rank 2, alpha 4",
            "NAME.input": "pixels [2, 3, size, size]; mel [2, frames, bins]; token ids, 0-padded",
            "NAME.lengths": "bert: real tokens of each row",
            "NAME.mask_token, NAME.cls, NAME.mt, NAME.grad.KEY": "as in encoders.json; the loss is sum(cls * c1) + sum(mt * c2)",
        },
        "computed": "float64, stored as float32",
        "float32_of_torch": spread,
    }
    write(HERE / "encoder_sizes.safetensors", tensors, about)


def main():
    sizes()
    tensors, spread = {}, {}
    for kind in ("clip", "ast", "bert"):
        truth, single = run(kind, torch.float64), run(kind, torch.float32)
        tensors |= truth
        worst = {}
        for key, value in truth.items():
            if value.is_floating_point() and ".grad." not in key:
                worst[key] = relative(single[key], value)
        grads = [k for k in truth if ".grad." in k and truth[k].abs().max() > 0]
        worst[f"{kind}.*.grad.*"] = max(relative(single[k], truth[k]) for k in grads)
        spread |= {k: float(f"{v:.1e}") for k, v in worst.items() if v > 0}
    about = {
        "what": {
            "K.input": "clip: normalised pixels [rows, 3, 32, 32]; ast: padded and normalised mel [rows, frames, bins]; bert: token ids [rows, 12], 0-padded",
            "K.lengths": "bert: real tokens of each row",
            "K.mask_token": "appended to the finished embeddings, without position",
            "K.plain.last_hidden, K.mask.last_hidden": "Hugging Face's last_hidden_state without and with the mask token (last position); bert rows: positions past the length are padding, of no meaning; clip: before post_layernorm",
            "clip.plain.post_norm, clip.mask.post_norm": "the same after post_layernorm at every position",
            "K.CASE.cls, K.CASE.mt": "position 0 and last, after the final norm; r0: rank 1, alpha 1, B zero; r1: rank 1, alpha 1; r2a4: rank 2, alpha 4; adapters/K-CASE holds A and B",
            "K.CASE.loss": "sum(cls * c1) + sum(mt * c2)",
            "K.CASE.grad.KEY": "gradient of the loss; KEY is mask_token or a key of adapter_model.safetensors (transformers 5's module names)",
        },
        "computed": "float64, stored as float32",
        "float32_of_torch": spread,
    }
    write(HERE / "encoders.safetensors", tensors, about)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
