"""MLA (Zhang et al., CVPR 2024) in PyTorch: formulas on given tokens, and training of the small encoders.

Tokens, samples and availability are those of methods.py. Each of the three steps has one pass per modality: a loss of
the shared head on that modality alone, an update, and recursive least squares on the mean feature. Writes
mla.safetensors; the inputs of the encoders are those of u2a-audio-video.safetensors.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F

import methods
import u2a
from common import HERE, relative, write
from methods import BOTH, CASE, CLASSES, NO_FIRST, NO_SECOND, RATE, SAMPLES, STEPS, WIDTH

LAMBDA = 0.1


class Mla:
    """One head for both modalities, whose gradient is projected off the features that it has learnt from."""

    def __init__(self, width, classes, samples, dtype):
        self.heads = {"": methods.linear(width, "mla", dtype, classes)}
        self.projection = torch.eye(width, dtype=dtype)

    def parameters(self):
        return self.heads[""]

    def loss(self, tokens, rows, labels):
        return F.cross_entropy(methods.apply(self.heads[""], tokens[rows]), labels[rows])

    def project(self):
        """Of the gradient, before the update."""
        weight = self.heads[""]["weight"]
        weight.grad = weight.grad @ self.projection

    def learn(self, feature):
        """After the update: P_t = P_{t-1} - q h^T P_{t-1} with q = P_{t-1} h / (lambda + h^T P_{t-1} h)."""
        p = self.projection
        q = p @ feature / (LAMBDA + feature @ p @ feature)
        self.projection = p - torch.outer(q, feature) @ p

    def predict(self, tokens, present):
        logits = torch.stack([methods.apply(self.heads[""], t) for t in tokens])
        p = logits.softmax(-1)
        entropies = -(p * p.log()).sum(-1)
        weights = torch.exp(entropies.max(0).values - entropies) * present.T
        return (logits * (weights / weights.sum(0)).unsqueeze(-1)).sum(0)


def formulas(out):
    """Three steps of plain gradient descent on the head, in float64."""
    model = Mla(WIDTH, CLASSES, SAMPLES, torch.float64)
    labels = torch.from_numpy(methods.LABELS)
    out |= {f"formulas.initial.{k}": p.detach().clone() for k, p in model.parameters().items()}
    for step in range(STEPS):
        samples = np.array(methods.BATCHES[step])
        tokens, present = methods.given_tokens(step, torch.float64)
        for m in range(2):
            at = f"formulas.step{step}.m{m + 1}"
            rows = present[:, m].nonzero().flatten()
            loss = model.loss(tokens[m], rows, labels[samples])
            loss.backward()
            model.project()
            out |= {f"{at}.loss": loss, f"{at}.grad.tokens": tokens[m].grad.clone()}
            with torch.no_grad():
                for k, p in model.parameters().items():
                    out[f"{at}.grad.{k}"] = p.grad.clone()
                    p -= RATE * p.grad
                    p.grad = None
                model.learn(tokens[m][rows].mean(0))
            out[f"{at}.projection"] = model.projection
        with torch.no_grad():
            out[f"formulas.step{step}.logits"] = model.predict(tokens, present)


def encoders(dtype):
    """Three steps of AdamW through the small encoders, and the evaluation of the pool after them."""
    out = {}
    inputs = {k: torch.from_numpy(v).to(dtype) for k, v in u2a.pool_inputs(CASE).items()}
    labels = torch.from_numpy(u2a.pool_labels(CASE))
    model = methods.Model(Mla, dtype)
    trainable = model.trainable()
    out |= {f"encoders.initial.{k}": p.detach().clone() for k, p in model.method.parameters().items()}
    optimiser = u2a.adamw(trainable, CASE.lr)
    losses = []
    for step in range(STEPS):
        samples = torch.tensor(methods.ENCODER_BATCHES[step])
        present = torch.tensor(methods.ENCODER_AVAILABLE[step])
        for m in range(2):
            rows = present[:, m].nonzero().flatten()
            feature = model.encode(m, inputs, samples[rows])[0]
            loss = F.cross_entropy(methods.apply(model.method.heads[""], feature), labels[samples][rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            model.method.project()
            if step == 1:
                grads = {k: p.grad.clone() for k, p in trainable.items() if p.grad is not None}
                out |= {f"encoders.second.m{m + 1}.grad.{k}": g for k, g in grads.items()}
            optimiser.step()
            model.method.learn(feature.detach().mean(0))
            losses.append(loss.item())
    out["encoders.loss"] = np.array(losses)
    out["encoders.projection"] = model.method.projection
    out |= {f"encoders.final.{k}": p.detach().clone() for k, p in trainable.items()}
    everything = torch.arange(u2a.POOL)
    with torch.no_grad():
        for name, have in (("both", BOTH), ("no_first", NO_FIRST), ("no_second", NO_SECOND)):
            present = torch.tensor([have] * u2a.POOL)
            tokens = model.class_tokens(inputs, everything, present.bool())
            out[f"encoders.eval.{name}.logits"] = model.method.predict(tokens, present)
    return out


def main():
    out = {}
    formulas(out)
    truth, single = encoders(torch.float64), encoders(torch.float32)
    spread = max(relative(single[k], truth[k]) for k in truth if torch.as_tensor(truth[k]).abs().max() > 0)
    out |= truth
    about = {
        "what": {
            "formulas.initial.*": "the shared head before step 0; tokens, samples and availability of a step are those of methods.safetensors",
            "formulas.stepN.mM.*": f"the pass of modality M: loss, gradients (that of the head's weight projected), then the head moves by -{RATE} times the gradient, then the projection takes the mean token",
            "formulas.stepN.logits": "the fused logits of the step's samples after both passes",
            "encoders.initial.*": "the head before step 0; adapters and mask tokens start as u2a-audio-video's",
            "encoders.loss": "of each pass, both modalities of a step in turn",
            "encoders.second.mM.grad.*": "gradients in the pass of modality M of step 1",
            "encoders.projection, final.*": "projection and trainable tensors after the last step",
            "encoders.eval.HAVE.logits": "the final model on the whole pool, all with both, all without m1, all without m2",
        },
        "setting": {"lambda": LAMBDA, "lr": CASE.lr},
        "computed": "float64, stored as float32",
        "float32_of_torch": float(f"{spread:.1e}"),
    }
    write(HERE / "mla.safetensors", out, about)
    print("  float32 off by", about["float32_of_torch"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
