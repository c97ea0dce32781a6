"""The methods that U2A is compared with, written in PyTorch: formulas on given tokens, and training of the encoders.

Each method runs twice for three steps, once on given class tokens with plain gradient descent on its heads
(formulas.METHOD.*) and once through the small encoders of u2a.py with AdamW (encoders.METHOD.*). Samples without one
modality are mixed in. Writes methods.safetensors; the inputs of the encoders are those of u2a-audio-video.safetensors.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F

import u2a
from common import HERE, normal, relative, rng, tensor, write

STEPS = 3
WIDTH, CLASSES, SAMPLES, BATCH = 8, 4, 9, 6
RATE = 0.3  # of the gradient descent on given tokens
# Samples and availability (m1, m2) of each step. Samples come again, so that what a method remembers of them counts.
BATCHES = [[0, 1, 2, 3, 4, 5], [2, 3, 4, 6, 7, 8], [8, 0, 3, 5, 1, 2]]
BOTH, NO_FIRST, NO_SECOND = u2a.BOTH, u2a.NO_FIRST, u2a.NO_SECOND
AVAILABLE = [
    [BOTH] * BATCH,
    [BOTH, NO_FIRST, BOTH, NO_SECOND, NO_FIRST, BOTH],
    [BOTH, BOTH, NO_SECOND, BOTH, NO_SECOND, NO_SECOND],
]
CASE = u2a.CASES[0]
ENCODER_BATCHES = [[0, 1, 2, 3], [2, 3, 4, 5], [5, 0, 3, 1]]
ENCODER_AVAILABLE = [[BOTH] * 4, [BOTH, NO_FIRST, NO_SECOND, BOTH], [BOTH, BOTH, NO_FIRST, NO_SECOND]]


def linear(width, name, dtype, classes):
    """A seeded head: {weight, bias}, exact in float32."""
    bound = width**-0.5
    draw = lambda shape, key: rng("methods", name, key).uniform(-bound, bound, shape).astype(np.float32)
    values = {"weight": draw((classes, width), "weight"), "bias": draw((classes,), "bias")}
    return {k: torch.from_numpy(v).to(dtype).requires_grad_() for k, v in values.items()}


def apply(head, x):
    return x @ head["weight"].T + head["bias"]


class Qmf:
    """One head per modality. Energy-weighted logits; losses of both modalities; weights ranked by the loss history."""

    name = "qmf"
    lam, temperature = 0.1, 1.5

    def __init__(self, width, classes, samples, dtype):
        self.heads = {f"head.{m}": linear(width, f"qmf.{m}", dtype, classes) for m in CASE.modalities}
        self.history = [np.zeros(samples) for _ in range(2)]

    def weight(self, logits):
        return self.temperature * torch.logsumexp(logits / self.temperature, 1, keepdim=True) / 10

    def fuse(self, logits, present):
        return sum(l * self.weight(l).detach() * present[:, i : i + 1] for i, l in enumerate(logits))

    def objective(self, tokens, samples, present, labels):
        logits = [apply(head, t) for head, t in zip(self.heads.values(), tokens)]
        fused = self.fuse(logits, present)
        task = F.cross_entropy(fused, labels)
        loss, self.seen = task, []
        for i in range(2):
            rows = present[:, i].nonzero().flatten()
            if not len(rows):
                continue
            losses = F.cross_entropy(logits[i][rows], labels[rows], reduction="none")
            history = self.history[i]
            spread = history.max() - history.min()
            k = (history - history.min()) / (spread if spread > 0 else 1)
            k = torch.from_numpy(k[samples[rows]]).to(losses)
            w = self.weight(logits[i][rows])[:, 0]
            order = torch.sign(k - k.roll(-1))
            ranking = torch.clamp(order * (w - w.roll(-1)) + (k - k.roll(-1)).abs(), min=0).mean()
            loss = loss + losses.mean() + self.lam * ranking
            self.seen.append((i, samples[rows], losses.detach().double().numpy()))
        return loss, task, fused

    def after_step(self):
        for i, samples, losses in self.seen:
            self.history[i][samples] += losses

    def state(self):
        return {f"loss_history.m{i + 1}": h.copy() for i, h in enumerate(self.history)}

    def predict(self, tokens, present):
        return self.fuse([apply(head, t) for head, t in zip(self.heads.values(), tokens)], present)


METHODS = [Qmf]


def parameters(method):
    return {f"{head}.{k}": p for head, tensors in method.heads.items() for k, p in tensors.items()}


def given_tokens(step, dtype):
    """The class tokens of both modalities of a step, zeros where one is missing, exact in float32."""
    present = torch.tensor(AVAILABLE[step])
    drawn = [tensor(normal((BATCH, WIDTH), 1.0, "methods", "tokens", step, i)).to(dtype) for i in range(2)]
    return [(t * present[:, i : i + 1]).requires_grad_() for i, t in enumerate(drawn)], present


def formulas(kind, out):
    """Three steps on given tokens, in float64."""
    method = kind(WIDTH, CLASSES, SAMPLES, torch.float64)
    labels = torch.from_numpy(rng("methods", "labels").integers(0, CLASSES, SAMPLES))
    out["formulas.labels"] = labels
    key = f"formulas.{kind.name}"
    out |= {f"{key}.initial.{k}": p.detach().clone() for k, p in parameters(method).items()}
    for step in range(STEPS):
        samples = np.array(BATCHES[step])
        tokens, present = given_tokens(step, torch.float64)
        for i, t in enumerate(tokens):
            out[f"formulas.step{step}.tokens.m{i + 1}"] = t.detach().clone()
        out[f"formulas.step{step}.samples"] = samples
        out[f"formulas.step{step}.present"] = present.to(torch.uint8)
        loss, task, logits = method.objective(tokens, samples, present, labels[samples])
        loss.backward()
        at = f"{key}.step{step}"
        out |= {f"{at}.loss": loss, f"{at}.task": task, f"{at}.logits": logits}
        out |= {f"{at}.grad.tokens.m{i + 1}": t.grad.clone() for i, t in enumerate(tokens)}
        with torch.no_grad():
            for k, p in parameters(method).items():
                out[f"{at}.grad.{k}"] = p.grad.clone()
                p -= RATE * p.grad
                p.grad = None
        method.after_step()
        out |= {f"{at}.state.{k}": v for k, v in method.state().items()}
    return out


class Model(u2a.U2A):
    """The encoders of U2A with the heads of a method."""

    def __init__(self, kind, dtype):
        super().__init__(CASE, dtype)
        self.draw()
        self.head = None
        self.method = kind(u2a.WIDTH, CASE.classes, u2a.POOL, dtype)

    def trainable(self):
        if self.head is not None:
            return super().trainable()
        out = {}
        for m, encoder in zip(self.case.modalities, self.encoders):
            out |= {f"{m}/{key}": p for key, p in u2a.adapters(encoder.model).items()}
        out |= {f"mask_token.{m}": p for m, p in self.mask_tokens.items()}
        return out | parameters(self.method)

    def class_tokens(self, inputs, samples, present):
        """[n, width] per modality, zeros where it is missing."""
        tokens = []
        for i in range(2):
            rows = present[:, i].nonzero().flatten()
            zeros = torch.zeros(len(samples), self.width, dtype=self.mask_tokens[self.case.modalities[i]].dtype)
            tokens.append(zeros.index_copy(0, rows, self.encode(i, inputs, samples[rows])[0]) if len(rows) else zeros)
        return tokens


def encoders(kind, dtype):
    """Three steps of AdamW through the small encoders, and the evaluation of the pool after them."""
    out = {}
    inputs = {k: torch.from_numpy(v).to(dtype) for k, v in u2a.pool_inputs(CASE).items()}
    labels = torch.from_numpy(u2a.pool_labels(CASE))
    model = Model(kind, dtype)
    trainable = model.trainable()
    key = f"encoders.{kind.name}"
    out |= {f"{key}.initial.{k}": p.detach().clone() for k, p in parameters(model.method).items()}
    optimiser = u2a.adamw(trainable, CASE.lr)
    losses, tasks = [], []
    for step in range(STEPS):
        samples = torch.tensor(ENCODER_BATCHES[step])
        present = torch.tensor(ENCODER_AVAILABLE[step])
        tokens = model.class_tokens(inputs, samples, present.bool())
        loss, task, logits = model.method.objective(tokens, samples.numpy(), present, labels[samples])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            out[f"{key}.first.logits"] = logits
            out |= {f"{key}.first.grad.{k}": p.grad.clone() for k, p in trainable.items() if p.grad is not None}
        optimiser.step()
        model.method.after_step()
        losses.append(loss.item())
        tasks.append(task.item())
    out |= {f"{key}.loss": np.array(losses), f"{key}.task": np.array(tasks)}
    out |= {f"{key}.final.{k}": p.detach().clone() for k, p in trainable.items()}
    everything = torch.arange(u2a.POOL)
    with torch.no_grad():
        for name, have in (("both", BOTH), ("no_first", NO_FIRST), ("no_second", NO_SECOND)):
            present = torch.tensor([have] * u2a.POOL)
            tokens = model.class_tokens(inputs, everything, present.bool())
            out[f"{key}.eval.{name}.logits"] = model.method.predict(tokens, present)
    return out


def main():
    out, spread = {}, {}
    for kind in METHODS:
        formulas(kind, out)
        truth, single = encoders(kind, torch.float64), encoders(kind, torch.float32)
        spread[kind.name] = max(
            relative(single[k], truth[k]) for k in truth if torch.as_tensor(truth[k]).abs().max() > 0
        )
        out |= truth
    for step in range(STEPS):
        out[f"encoders.step{step}.samples"] = np.array(ENCODER_BATCHES[step])
        out[f"encoders.step{step}.present"] = np.array(ENCODER_AVAILABLE[step], dtype=np.uint8)
    about = {
        "what": {
            "formulas.stepN.*": "the given class tokens [batch, width] of both modalities (zeros where missing), the samples and which modalities they have",
            "formulas.METHOD.initial.*": "the heads before step 0",
            "formulas.METHOD.stepN.*": f"objective, task loss, logits and gradients of a step; then the heads move by -{RATE} times the gradient; state.* is the method's state after the step",
            "encoders.stepN.*": "samples of u2a-audio-video's pool and which modalities they have",
            "encoders.METHOD.initial.*": "the heads before step 0; adapters and mask tokens start as u2a-audio-video's",
            "encoders.METHOD.loss, .task": "per step",
            "encoders.METHOD.first.*, final.*": "logits and gradients of step 0, trainable tensors after the last step",
            "encoders.METHOD.eval.HAVE.logits": "the final model on the whole pool, all with both, all without m1, all without m2",
        },
        "setting": {"qmf": {"lambda": Qmf.lam, "temperature": Qmf.temperature}, "lr": CASE.lr},
        "computed": "float64, stored as float32",
        "float32_of_torch": {k: float(f"{v:.1e}") for k, v in spread.items()},
    }
    write(HERE / "methods.safetensors", out, about)
    print("  float32 off by", about["float32_of_torch"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
