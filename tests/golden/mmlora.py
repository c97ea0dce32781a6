"""MMLoRA (Du et al., arXiv 2310.05193) in PyTorch: objectives on given tokens, and both stages of the small encoders.

Tokens, samples and availability are those of methods.py. Training makes three steps in which all weights of both
encoders learn, each with a head of its own, and then three in which their LoRA adapters and a head for both learn; the
first two modalities' losses are computed and differentiated one by one, as two runs would. Writes mmlora.safetensors;
the inputs of the encoders are those of u2a-audio-video.safetensors.
"""

import re
import sys

import numpy as np
import torch
import torch.nn.functional as F

import methods
import u2a
from common import HERE, relative, rng, write
from methods import BOTH, CASE, CLASSES, NO_FIRST, NO_SECOND, RATE, STEPS, WIDTH

HEADS = [f"head.{m}" for m in CASE.modalities] + ["head.joint"]
# Of each weight of an encoder, this many first numbers are stored.
KEPT = 12
# transformers 5's names of AST's layers, and the hub's.
AST_NAMES = [
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
]


class Mmlora:
    """A head for each modality and one for both side by side."""

    def __init__(self, width, classes, samples, dtype):
        widths = [width, width, 2 * width]
        self.heads = {n: methods.linear(w, f"mmlora.{n}", dtype, classes) for n, w in zip(HEADS, widths)}

    def unimodal_loss(self, m, tokens, rows, labels, task=F.cross_entropy):
        return task(methods.apply(self.heads[HEADS[m]], tokens[rows]), labels[rows])

    def joint(self, tokens):
        return methods.apply(self.heads["head.joint"], torch.cat(tokens, 1))

    def predict_unimodal(self, tokens, present):
        logits = [methods.apply(self.heads[HEADS[m]], tokens[m]) * present[:, m : m + 1] for m in range(2)]
        return sum(logits) / present.sum(1, keepdim=True)


def formulas(out):
    """Both stages' objectives on given tokens, in float64: three steps of plain gradient descent on the heads each."""
    single = torch.from_numpy(methods.LABELS)
    several = torch.from_numpy(rng("mmlora", "labels").integers(0, 2, (len(single), CLASSES)).astype(np.float64))
    out["formulas.several_labels"] = several
    for name, labels, task in (
        ("single", single, F.cross_entropy),
        ("several", several, F.binary_cross_entropy_with_logits),
    ):
        model = Mmlora(WIDTH, CLASSES, None, torch.float64)
        parameters = methods.parameters(model)
        out |= {f"formulas.initial.{k}": p.detach().clone() for k, p in parameters.items()}
        for stage in ("unimodal", "joint"):
            for step in range(STEPS):
                samples = np.array(methods.BATCHES[step])
                tokens, present = methods.given_tokens(step, torch.float64)
                if stage == "joint":
                    logits = model.joint(tokens)
                    loss = task(logits, labels[samples])
                    loss.backward()
                else:
                    logits, loss = model.predict_unimodal(tokens, present), 0
                    for m in range(2):
                        rows = present[:, m].nonzero().flatten()
                        own = model.unimodal_loss(m, tokens[m], rows, labels[samples], task)
                        own.backward()
                        loss = loss + own.detach()
                at = f"formulas.{name}.{stage}.step{step}"
                out |= {f"{at}.loss": loss, f"{at}.logits": logits}
                out |= {f"{at}.grad.tokens.m{m + 1}": t.grad.clone() for m, t in enumerate(tokens)}
                with torch.no_grad():
                    for k, p in parameters.items():
                        if p.grad is not None:
                            out[f"{at}.grad.{k}"] = p.grad.clone()
                            p -= RATE * p.grad
                            p.grad = None


def weights(kind, peft):
    """The encoder's own weights by the hub's names; PEFT wraps those with an adapter."""
    found = {}
    for name, p in peft.named_parameters():
        if ".lora_" in name:
            continue
        name = name.removeprefix("base_model.model.").removeprefix("vision_model.").replace(".base_layer.", ".")
        if kind == "ast" and name.startswith("layers."):
            name = "encoder.layer." + name.removeprefix("layers.")
            for new, old in AST_NAMES:
                if new in name:
                    name = name.replace(new, old)
                    break
        found[name] = p
    return found


def encoders(dtype):
    """Three steps of AdamW in each stage, and the evaluation of the pool after each."""
    out = {}
    inputs = {k: torch.from_numpy(v).to(dtype) for k, v in u2a.pool_inputs(CASE).items()}
    labels = torch.from_numpy(u2a.pool_labels(CASE))
    model = methods.Model(Mmlora, dtype)
    heads = methods.parameters(model.method)
    out |= {f"encoders.initial.{k}": p.detach().clone() for k, p in heads.items()}
    adapters, own = {}, {}
    for kind, m, encoder in zip(CASE.kinds, CASE.modalities, model.encoders):
        adapters |= {f"{m}/{k}": p for k, p in u2a.adapters(encoder.model).items()}
        own |= {f"{m}/{k}": p for k, p in weights(kind, encoder.model).items()}
    unimodal = own | {k: p for k, p in heads.items() if "joint" not in k}
    joint = adapters | {k: p for k, p in heads.items() if "joint" in k}
    for p in model.mask_tokens.values():
        p.requires_grad_(False)
    trainable = unimodal | joint
    optimiser = u2a.adamw(trainable, CASE.lr)
    everything = torch.arange(u2a.POOL)
    short = lambda k, t: t.detach().flatten()[:KEPT].clone() if k in own else t.detach().clone()
    losses = []
    for stage, learns in (("unimodal", unimodal), ("joint", joint)):
        for k, p in trainable.items():
            p.requires_grad_(k in learns)
        for step in range(STEPS):
            samples = torch.tensor(methods.ENCODER_BATCHES[step])
            present = torch.tensor(methods.ENCODER_AVAILABLE[step])
            optimiser.zero_grad(set_to_none=True)
            if stage == "joint":
                tokens = model.class_tokens(inputs, samples, present.bool())
                loss = F.cross_entropy(model.method.joint(tokens), labels[samples])
                loss.backward()
                losses.append(loss.item())
            else:
                losses.append(0.0)
                for m in range(2):
                    rows = present[:, m].nonzero().flatten()
                    tokens = model.encode(m, inputs, samples[rows])[0]
                    loss = model.method.unimodal_loss(m, tokens, slice(None), labels[samples[rows]])
                    loss.backward()
                    losses[-1] += loss.item()
            if step == 0:
                at = f"encoders.{stage}.first.grad"
                out |= {f"{at}.{k}": short(k, p.grad) for k, p in trainable.items() if p.grad is not None}
            optimiser.step()
        out |= {f"encoders.{stage}.final.{k}": short(k, p) for k, p in learns.items()}
        with torch.no_grad():
            for name, have in (("both", BOTH), ("no_first", NO_FIRST), ("no_second", NO_SECOND)):
                present = torch.tensor([have] * u2a.POOL)
                tokens = model.class_tokens(inputs, everything, present.bool())
                logits = model.method.joint(tokens) if stage == "joint" else model.method.predict_unimodal(tokens, present)
                out[f"encoders.{stage}.eval.{name}.logits"] = logits
    out["encoders.loss"] = np.array(losses)
    return out


def main():
    out = {}
    formulas(out)
    truth, single = encoders(torch.float64), encoders(torch.float32)
    # The bias of a key moves all attention scores of a query alike: its gradient is zero but for rounding, and what
    # AdamW makes of it is of no meaning.
    truth = {k: v for k, v in truth.items() if not re.search(r"/.*(k_proj|key)\.bias$", k)}
    spread = {k: relative(single[k], truth[k]) for k in truth if torch.as_tensor(truth[k]).abs().max() > 0}
    out |= truth
    about = {
        "what": {
            "formulas.initial.*": "the heads before step 0; tokens, samples, availability and labels of a step are those of methods.safetensors",
            "formulas.several_labels": "0 or 1 for each sample and class",
            "formulas.LABELS.STAGE.stepN.*": f"objective, logits and gradients with one label per sample or several, in the first stage (unimodal) and then in the second (joint); the heads move by -{RATE} times the gradient",
            "encoders.initial.*": "the heads before step 0; encoders are those of models/, adapters and mask tokens start as u2a-audio-video's",
            "encoders.loss": "of the first stage's three steps, then of the second's",
            "encoders.STAGE.first.grad.*": f"gradients of the stage's first step; of each weight of an encoder the first {KEPT} numbers",
            "encoders.STAGE.final.*": f"what the stage has trained, after its last step; of each weight of an encoder the first {KEPT} numbers",
            "encoders.STAGE.eval.HAVE.logits": "the model after the stage on the whole pool, all with both, all without m1, all without m2",
        },
        "setting": {"lr": CASE.lr, "left_out": "the biases of keys, whose gradients are zero"},
        "computed": "float64, stored as float32",
        "float32_of_torch": float(f"{max(spread.values()):.1e}"),
    }
    write(HERE / "mmlora.safetensors", out, about)
    print("  float32 off by", sorted(((v, k) for k, v in spread.items()), reverse=True)[:5])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
