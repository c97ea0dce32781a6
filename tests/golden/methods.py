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
LABELS = np.array([0, 1, 3, 0, 1, 3, 1, 0, 3])  # no sample has class 2: it gets no prototype
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

    def before_step(self, step, tokens, samples, present, labels):
        pass

    def after_step(self):
        for i, samples, losses in self.seen:
            self.history[i][samples] += losses

    def state(self):
        return {f"loss_history.m{i + 1}": h.copy() for i, h in enumerate(self.history)}

    def predict(self, tokens, present):
        return self.fuse([apply(head, t) for head, t in zip(self.heads.values(), tokens)], present)


class GBlend:
    """A head per modality and a joint one; their losses are weighted by generalization over squared overfitting.

    Each step is a super-epoch. `held_out` samples do not train; with them the losses are measured.
    """

    name = "g-blend"
    held_out = (4, 7)

    def __init__(self, width, classes, samples, dtype):
        first, second = CASE.modalities
        widths = {first: width, second: width, "joint": 2 * width}
        self.heads = {f"head.{m}": linear(w, f"g-blend.{m}", dtype, classes) for m, w in widths.items()}
        self.weights, self.last = np.full(3, 1 / 3), None

    def losses(self, tokens, samples, present, labels, keep):
        """The mean loss of each head over the samples that `keep` accepts, and the joint logits."""
        kept = torch.tensor([keep(int(s)) for s in samples])
        logits = [apply(head, x) for head, x in zip(self.heads.values(), [*tokens, torch.cat(tokens, 1)])]
        counts = [present[:, 0].bool() & kept, present[:, 1].bool() & kept, kept]
        return [F.cross_entropy(l[c], labels[c]) if c.any() else None for l, c in zip(logits, counts)], logits[2]

    def before_step(self, step, tokens, samples, present, labels):
        """Measures on the whole pool and estimates the weights of the super-epoch."""
        held_out = lambda s: s in self.held_out
        measure = lambda keep: np.array([v.item() for v in self.losses(tokens, samples, present, labels, keep)[0]])
        train, held = measure(lambda s: not held_out(s)), measure(held_out)
        if self.last is not None:
            before_train, before_held = self.last
            overfitting = np.abs((held - train) - (before_held - before_train))
            weights = np.maximum(before_held - held, 0) / np.maximum(overfitting, 1e-3) ** 2
            if weights.sum() > 0:
                self.weights = weights / weights.sum()
        self.last = (train, held)

    def objective(self, tokens, samples, present, labels):
        losses, logits = self.losses(tokens, samples, present, labels, lambda s: s not in self.held_out)
        loss = sum(w * l for w, l in zip(self.weights, losses) if l is not None)
        return loss, losses[2], logits

    def after_step(self):
        pass

    def state(self):
        return {"weights": self.weights.copy(), "losses.train": self.last[0], "losses.held_out": self.last[1]}

    def predict(self, tokens, present):
        return apply(self.heads["head.joint"], torch.cat(tokens, 1))


class Pmr:
    """A joint head on both class tokens; distances to class means classify each modality beside it.

    Each step is an epoch.
    """

    name = "pmr"
    alpha, momentum, entropy, entropy_epochs = 0.8, 0.3, 0.2, 2

    def __init__(self, width, classes, samples, dtype):
        self.heads = {"": linear(2 * width, "pmr", dtype, classes)}
        self.classes = classes
        self.prototypes, self.known, self.epoch = [None, None], [None, None], 0

    def before_step(self, step, tokens, samples, present, labels):
        """Class means over the whole pool."""
        self.epoch = step
        for i in range(2):
            rows = present[:, i].bool()
            one_hot = F.one_hot(labels[rows], self.classes).to(tokens[i])
            count = one_hot.sum(0)
            means = one_hot.T @ tokens[i][rows].detach() / count.clamp(min=1)[:, None]
            if self.prototypes[i] is None:
                self.prototypes[i] = means
            else:
                self.prototypes[i] = (1 - self.momentum) * means + self.momentum * self.prototypes[i]
            self.known[i] = count > 0

    def objective(self, tokens, samples, present, labels):
        logits = apply(self.heads[""], torch.cat(tokens, 1))
        task = F.cross_entropy(logits, labels)
        complete = present.all(1)
        cross, entropy, score = [], [], []
        for i in range(2):
            rows = present[:, i].bool()
            distance = (tokens[i][:, None] - self.prototypes[i][None]).norm(dim=2)[:, self.known[i]]
            column = self.known[i].cumsum(0) - 1  # the column of each class that has a prototype
            log_p = F.log_softmax(-distance, 1)
            true_class = log_p.gather(1, column[labels][:, None])[:, 0]
            score.append(true_class[complete].detach().exp().sum().item())
            cross.append(-true_class[rows].mean())
            entropy.append(-(log_p.exp() * log_p).sum(1)[rows].mean())
        ratio = score[0] / score[1]
        beta, gamma = min(max(1 / ratio - 1, 0), 1), min(max(ratio - 1, 0), 1)
        loss = task + self.alpha * (beta * cross[0] + gamma * cross[1])
        if self.epoch < self.entropy_epochs:
            loss = loss - self.entropy * (gamma * entropy[0] + beta * entropy[1])
        return loss, task, logits

    def after_step(self):
        pass

    def state(self):
        out = {f"prototypes.m{i + 1}": p.clone() for i, p in enumerate(self.prototypes)}
        return out | {f"known.m{i + 1}": k.to(torch.uint8) for i, k in enumerate(self.known)} | {"epoch": np.array([self.epoch])}

    def predict(self, tokens, present):
        return apply(self.heads[""], torch.cat(tokens, 1))


METHODS = [Qmf, GBlend, Pmr]


def parameters(method):
    """The heads' tensors by name; a method's only head has no name."""
    return {f"{head}.{k}".lstrip("."): p for head, tensors in method.heads.items() for k, p in tensors.items()}


def given_tokens(step, dtype):
    """The class tokens of both modalities of a step, zeros where one is missing, exact in float32."""
    present = torch.tensor(AVAILABLE[step])
    drawn = [tensor(normal((BATCH, WIDTH), 1.0, "methods", "tokens", step, i)).to(dtype) for i in range(2)]
    return [(t * present[:, i : i + 1]).requires_grad_() for i, t in enumerate(drawn)], present


def given_pool(step):
    """The class tokens of all samples at the start of a step, exact in float32; sample 6 lacks m1, sample 8 m2."""
    present = torch.ones(SAMPLES, 2, dtype=torch.int64)
    present[6, 0] = present[8, 1] = 0
    drawn = [tensor(normal((SAMPLES, WIDTH), 1.0, "methods", "pool", step, i)) for i in range(2)]
    return [t * present[:, i : i + 1] for i, t in enumerate(drawn)], present


def formulas(kind, out):
    """Three steps on given tokens, in float64."""
    method = kind(WIDTH, CLASSES, SAMPLES, torch.float64)
    labels = torch.from_numpy(LABELS)
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
        pool, has = given_pool(step)
        for i, t in enumerate(pool):
            out[f"formulas.step{step}.pool.m{i + 1}"] = t
        out[f"formulas.step{step}.pool.present"] = has.to(torch.uint8)
        method.before_step(step, pool, np.arange(SAMPLES), has, labels)
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
        everything = torch.arange(u2a.POOL)
        with torch.no_grad():
            complete = torch.ones(u2a.POOL, 2, dtype=torch.int64)
            pool = model.class_tokens(inputs, everything, complete.bool())
            model.method.before_step(step, pool, everything.numpy(), complete, labels)
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
            "formulas.stepN.pool.*": "the class tokens of all samples at the start of the step, from which losses and prototypes are measured",
            "formulas.METHOD.initial.*": "the heads before step 0",
            "formulas.METHOD.stepN.*": f"objective, task loss, logits and gradients of a step; then the heads move by -{RATE} times the gradient; state.* is the method's state after the step",
            "encoders.stepN.*": "samples of u2a-audio-video's pool and which modalities they have",
            "encoders.METHOD.initial.*": "the heads before step 0; adapters and mask tokens start as u2a-audio-video's",
            "encoders.METHOD.loss, .task": "per step",
            "encoders.METHOD.first.*, final.*": "logits and gradients of step 0, trainable tensors after the last step",
            "encoders.METHOD.eval.HAVE.logits": "the final model on the whole pool, all with both, all without m1, all without m2",
        },
        "setting": {
            "qmf": {"lambda": Qmf.lam, "temperature": Qmf.temperature},
            "g-blend": {"held_out": GBlend.held_out, "super_epoch": "one step"},
            "pmr": {
                "alpha": Pmr.alpha, "momentum": Pmr.momentum, "entropy": Pmr.entropy,
                "entropy_epochs": Pmr.entropy_epochs, "epoch": "one step",
            },
            "lr": CASE.lr,
        },
        "computed": "float64, stored as float32",
        "float32_of_torch": {k: float(f"{v:.1e}") for k, v in spread.items()},
    }
    write(HERE / "methods.safetensors", out, about)
    print("  float32 off by", about["float32_of_torch"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
