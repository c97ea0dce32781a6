"""Missing-aware prompts (Lee et al., CVPR 2023) on the small encoders: three training steps at input and at attention level.

The prompts stand in front of the tokens, as in the paper: at input level a hook puts them before the input of a block, at
attention level an attention function of our own puts halves of them before keys and values. Each batch but the second mixes
complete samples, ones without m1 and ones without m2; the second has none without m2, whose prompts then get no gradient. A
missing modality is an empty input of its own encoder. Encoders are frozen, there are no adapters, no mask token and no
dropout. Inputs and labels are the pools of u2a-*.safetensors. Writes prompts.safetensors.
"""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from common import HERE, load, normal, relative, rng, tensor, write
from u2a import BATCH, BOTH, CASES, NO_FIRST, NO_SECOND, POOL, WIDTH, adamw, pool_inputs, pool_labels

LENGTH, LAYERS, STEPS, LR = 4, 2, 3, 5e-3
LEVELS = ("input", "attention")
AVAILABLE = [(BOTH, NO_FIRST, NO_SECOND, BOTH), (BOTH, NO_FIRST, BOTH, NO_FIRST), (NO_SECOND, NO_FIRST, BOTH, NO_SECOND)]
MISSING = {BOTH: "complete", NO_FIRST: "missing_first", NO_SECOND: "missing_second"}
BLOCKS = {"clip": "CLIPEncoderLayer", "ast": "ASTLayer", "bert": "BertLayer"}
ATTENTION = {"clip": "CLIPAttention", "ast": "ASTAttention", "bert": "BertSelfAttention"}


def empty_input(modality):
    """What preprocessing makes of zeros, or of a text without words: [CLS] [SEP]."""
    if modality == "audio":
        silence = (np.float32(0) - np.float32(-4.2677393)) / (np.float32(2) * np.float32(4.5689974))
        return torch.full((64, 128), float(silence), dtype=torch.float64)
    if modality == "text":
        return torch.tensor([2, 3])
    mean = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
    black = tensor((np.float32(0) - mean) / std)
    return black[:, None, None].expand(3, 32, 32)


def attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q [p_k, k]^T / sqrt(dim)) [p_v, v], with the prompts of `module.prompt` (`length x d`) if it has any."""
    assert attention_mask is None and dropout == 0.0
    if getattr(module, "prompt", None) is not None:
        batch, heads, _, dim = key.shape
        for_keys, for_values = (half.view(-1, heads, dim).transpose(0, 1) for half in module.prompt.chunk(2))
        key = torch.cat([for_keys.expand(batch, -1, -1, -1), key], dim=2)
        value = torch.cat([for_values.expand(batch, -1, -1, -1), value], dim=2)
    weights = (query @ key.transpose(2, 3) * scaling).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


AttentionInterface.register("prompted", attend)


class PromptedEncoder:
    """A frozen Hugging Face encoder that takes one sample at a time, with the prompts of its case (`layers x length x d`)."""

    def __init__(self, kind, level, dtype):
        self.kind, self.level, self.prompt = kind, level, None
        self.model = load(kind, dtype).requires_grad_(False)
        self.model.set_attn_implementation("prompted")
        named = lambda names: [m for m in self.model.modules() if type(m).__name__ == names[kind]]
        self.blocks, self.attention = named(BLOCKS), named(ATTENTION)
        assert len(self.blocks) == len(self.attention) == 3
        if level == "input":
            for number, block in enumerate(self.blocks[:LAYERS]):
                block.register_forward_pre_hook(lambda _, args, number=number: self.enter(number, args))

    def enter(self, number, args):
        x = args[0]
        return (torch.cat([self.prompt[number].expand(len(x), -1, -1), x], dim=1), *args[1:])

    def class_token(self, x, prompt):
        """`images x d`; a video's frames are images of one sample."""
        self.prompt = prompt
        for number, module in enumerate(self.attention):
            module.prompt = prompt[number] if self.level == "attention" and number < LAYERS else None
        if self.kind == "clip":
            last = self.model(pixel_values=x).last_hidden_state
        elif self.kind == "ast":
            last = self.model(input_values=x).last_hidden_state
        else:
            last = self.model(input_ids=x).last_hidden_state
        token = last[:, LENGTH * LAYERS if self.level == "input" else 0]
        if self.kind == "clip":
            (norm,) = (m for n, m in self.model.named_modules() if n.endswith("post_layernorm"))
            token = norm(token)
        return token


class Prompted(torch.nn.Module):
    """Two frozen encoders, the prompts of each and a head on the sum of the class tokens."""

    def __init__(self, case, level, dtype):
        super().__init__()
        self.case = case
        self.encoders = [PromptedEncoder(kind, level, dtype) for kind in case.kinds]
        bound = WIDTH**-0.5
        draw = lambda name, shape: rng("prompts", case.name, name).uniform(-bound, bound, shape).astype(np.float32)
        self.trainable = {}
        for m in case.modalities:
            for name in MISSING.values():
                # Larger than new prompts, so that every gradient matters.
                value = normal((LAYERS, LENGTH, WIDTH), 0.5, "prompts", case.name, m, name)
                self.trainable[f"prompts.{m}.{name}"] = value
        self.trainable |= {"weight": draw("weight", (case.classes, WIDTH)), "bias": draw("bias", case.classes)}
        self.trainable = {k: torch.nn.Parameter(tensor(v).to(dtype)) for k, v in self.trainable.items()}

    def forward(self, inputs, samples, present):
        """Logits; `present` has the availability of each sample."""
        dtype, rows = self.trainable["weight"].dtype, []
        for sample, has in zip(samples.tolist(), present):
            token = 0
            for i, (m, encoder) in enumerate(zip(self.case.modalities, self.encoders)):
                x = inputs[m][sample] if has[i] else empty_input(m)
                if m == "text" and has[i]:
                    x = x[: inputs["text_lengths"][sample]]
                if m == "video" and not has[i]:
                    x = x.expand(3, 3, 32, 32)
                x = x if m == "video" else x[None]
                prompt = self.trainable[f"prompts.{m}.{MISSING[has]}"]
                x = x.to(dtype) if x.is_floating_point() else x
                token = token + encoder.class_token(x, prompt).mean(0)
            rows.append(token)
        return torch.stack(rows) @ self.trainable["weight"].T + self.trainable["bias"]


def train(case, level, dtype):
    inputs = {k: torch.from_numpy(v) for k, v in pool_inputs(case).items()}
    inputs = {k: v.to(dtype) if v.dtype == torch.float16 else v for k, v in inputs.items()}
    labels = torch.from_numpy(pool_labels(case))
    model = Prompted(case, level, dtype)
    out = {f"initial.{k}": p.detach().clone() for k, p in model.trainable.items()}
    optimiser = adamw(model.trainable, LR)
    chosen = np.stack([rng("prompts", case.name, "batch", s).permutation(POOL)[:BATCH] for s in range(STEPS)])
    losses = []
    for step in range(STEPS):
        samples = torch.from_numpy(chosen[step])
        logits = model(inputs, samples, AVAILABLE[step])
        if case.multi_label:
            loss = F.binary_cross_entropy_with_logits(logits, labels[samples].to(dtype))
        else:
            loss = F.cross_entropy(logits, labels[samples])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        out[f"step{step}.logits"] = logits
        for k, p in model.trainable.items():
            assert (p.grad is None) == (step == 1 and k.endswith("missing_second")), (step, k)
            if p.grad is not None and step < 2:
                out[f"step{step}.grad.{k}"] = p.grad.clone()
        losses.append(loss.item())
        optimiser.step()
    out |= {f"final.{k}": p.detach().clone() for k, p in model.trainable.items()}
    with torch.no_grad():
        for has, name in MISSING.items():
            out[f"eval.{name}.logits"] = model(inputs, torch.arange(POOL), [has] * POOL)
    return out | {"steps.loss": np.array(losses), "steps.samples": chosen, "steps.present": np.array(AVAILABLE, dtype=np.uint8)}


def main():
    tensors, spread = {}, {}
    for case in CASES:
        for level in LEVELS:
            truth, single = train(case, level, torch.float64), train(case, level, torch.float32)
            name = f"{case.name}.{level}"
            keys = [k for k, v in truth.items() if isinstance(v, torch.Tensor)]
            spread[f"{name}.*"] = float(f"{max(relative(single[k], truth[k]) for k in keys):.1e}")
            tensors |= {f"{name}.{k}": v for k, v in truth.items()}
    about = {
        "what": {
            "PAIR.LEVEL.initial.KEY, final.KEY": "learnable tensors before the first and after the third step; KEY as in head.safetensors; prompts are layers x length x d",
            "PAIR.LEVEL.steps.samples, steps.present, steps.loss": "numbers in the pools of u2a-PAIR.safetensors, availability of (m1, m2), loss of each step",
            "PAIR.LEVEL.stepN.logits, stepN.grad.KEY": "of step N, from 0",
            "PAIR.LEVEL.eval.CASE.logits": "of the whole pool after the third step, in each missing case",
        },
        "settings": {"length": LENGTH, "layers": LAYERS, "learning rate": LR},
        "computed": "float64, stored as float32",
        "float32_of_torch": spread,
    }
    write(HERE / "prompts.safetensors", tensors, about)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
