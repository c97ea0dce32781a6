"""U2A's training step in PyTorch on the small encoders: 20 steps, audio-video and image-text.

Each batch has 4 samples; complete ones, ones without m1 and ones without m2 are mixed, and there are steps in
which an encoder does not run at all. No dropout of any kind, so nothing is random. Writes
u2a-audio-video.safetensors (single label, cross-entropy, LoRA's B zero as at the start of a run) and
u2a-image-text.safetensors (multi-label, binary cross-entropy, B already filled).
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from common import HERE, MODELS, Encoder, adapters, fill, load, lora, normal, relative, rng, tensor, write

WIDTH, BATCH, STEPS, STEPS_PER_EPOCH, POOL = 32, 4, 20, 2, 8
WARMUP_EPOCHS, WARMUP_FACTOR, POWER = 5, 0.1, 0.9
WEIGHT_DECAY, EPS = 0.02, 1e-8
ALIGN_WEIGHT = 0.2
FRAMES = 3
BOTH, NO_FIRST, NO_SECOND = (1, 1), (0, 1), (1, 0)
# Availability by step (m1, m2), the last steps repeating the first: a mixture; all complete; nobody complete;
# nobody has m1 (its encoder does not run); nobody has m2.
AVAILABLE = [
    (BOTH, NO_FIRST, NO_SECOND, BOTH),
    (BOTH, BOTH, BOTH, BOTH),
    (NO_FIRST, NO_SECOND, NO_FIRST, NO_SECOND),
    (NO_FIRST, NO_FIRST, NO_FIRST, NO_FIRST),
    (NO_SECOND, BOTH, BOTH, NO_FIRST),
    (NO_SECOND, NO_SECOND, NO_SECOND, NO_SECOND),
    (NO_FIRST, BOTH, BOTH, BOTH),
]


@dataclass
class Case:
    name: str
    kinds: tuple  # encoders of (m1, m2)
    modalities: tuple
    classes: int
    multi_label: bool
    lr: float
    std_b: float


CASES = [
    Case("audio-video", ("ast", "clip"), ("audio", "video"), 6, False, 5e-3, 0.0),
    Case("image-text", ("clip", "bert"), ("image", "text"), 5, True, 5e-3, 0.2),
]


def pool_inputs(case):
    """Inputs of the pool's samples, exact in float16 (float32 ids): {modality: array}, plus text lengths."""
    out = {}
    for m in case.modalities:
        if m == "audio":
            out[m] = normal((POOL, 64, 128), 0.5, case.name, m).astype(np.float16)
        elif m == "video":
            out[m] = normal((POOL, FRAMES, 3, 32, 32), 1.0, case.name, m).astype(np.float16)
        elif m == "image":
            out[m] = normal((POOL, 3, 32, 32), 1.0, case.name, m).astype(np.float16)
        else:
            lengths = rng(case.name, "lengths").integers(3, 13, POOL)
            ids = rng(case.name, m).integers(5, 150, (POOL, 12))
            for row, n in enumerate(lengths):
                ids[row, 0], ids[row, n - 1], ids[row, n:] = 2, 3, 0
            out[m], out["text_lengths"] = ids, lengths
    return out


def pool_labels(case):
    """[pool] class indices, or [pool, classes] of 0 and 1."""
    if case.multi_label:
        return rng(case.name, "labels").integers(0, 2, (POOL, case.classes)).astype(np.float32)
    return rng(case.name, "labels").integers(0, case.classes, POOL)


def learning_rate(step, total, per_epoch, base):
    """A tenth of the base rate for the first epochs, then polynomial decay counted from their end."""
    warmup = WARMUP_EPOCHS * per_epoch
    if step < warmup:
        return base * WARMUP_FACTOR
    return base * (1 - (step - warmup) / (total - warmup)) ** POWER


def adamw(trainable, lr):
    return torch.optim.AdamW(
        trainable.values(), lr=lr, betas=(0.9, 0.999), eps=EPS, weight_decay=WEIGHT_DECAY, foreach=False
    )


class U2A(torch.nn.Module):
    """The paper's model on the encoders below `root`."""

    def __init__(self, case, dtype, root=MODELS, rank=1, alpha=1):
        super().__init__()
        self.case, self.encoders = case, []
        self.mask_tokens = torch.nn.ParameterDict()
        for kind, m in zip(case.kinds, case.modalities):
            base = load(kind, dtype, root)
            self.width = base.config.hidden_size
            self.encoders.append(Encoder(kind, lora(kind, base, rank, alpha)))
            self.mask_tokens[m] = torch.nn.Parameter(torch.zeros(1, self.width, dtype=dtype))
        self.head = torch.nn.Linear(self.width, case.classes).to(dtype)

    def draw(self):
        """The case's seeded start."""
        case = self.case
        std_a = (1 / 3 / self.width) ** 0.5  # the deviation of Kaiming-uniform with a = sqrt 5
        bound = self.width**-0.5
        with torch.no_grad():
            for encoder, m in zip(self.encoders, case.modalities):
                fill(encoder.model, std_a, case.std_b, case.name, m)
                self.mask_tokens[m].copy_(tensor(normal((1, self.width), 0.02, case.name, m, "mask_token")))
            for name, p in self.head.named_parameters():
                p.copy_(torch.from_numpy(rng(case.name, name).uniform(-bound, bound, tuple(p.shape)).astype(np.float32)))
        return self

    def set(self, values):
        """Takes every trainable tensor from `values`, by the names of `trainable`."""
        mine = self.trainable()
        assert mine.keys() == values.keys(), sorted(mine.keys() ^ values.keys())[:4]
        with torch.no_grad():
            for key, p in mine.items():
                p.copy_(values[key].reshape(p.shape))
        return self

    def trainable(self):
        """By the names of the run's files: MODALITY/adapter key, then head.safetensors' own."""
        out = {}
        for m, encoder in zip(self.case.modalities, self.encoders):
            out |= {f"{m}/{key}": p for key, p in adapters(encoder.model).items()}
        out |= {"weight": self.head.weight, "bias": self.head.bias}
        return out | {f"mask_token.{m}": p for m, p in self.mask_tokens.items()}

    def encode(self, index, inputs, rows):
        """(CLS, MT) of the given samples, [rows, width] each."""
        m = self.case.modalities[index]
        x, lengths = inputs[m][rows], None
        if m == "text":
            lengths = inputs["text_lengths"][rows]
        if m == "video":
            x = x.flatten(0, 1)
        cls, mt = self.encoders[index].tokens(x, lengths, self.mask_tokens[m])
        if m == "video":
            cls, mt = (t.view(len(rows), -1, self.width).mean(1) for t in (cls, mt))
        return cls, mt

    def forward(self, inputs, samples, present, labels, stop_gradient=False, zeros=False):
        """(logits, task loss, alignment loss); the encoders see only samples that have their modality.

        Options: no gradient of the alignment loss into the class tokens; zeros for a missing token.
        """
        dtype = self.head.weight.dtype
        cls = [torch.zeros(len(samples), self.width, dtype=dtype) for _ in range(2)]
        mt = [torch.zeros(len(samples), self.width, dtype=dtype) for _ in range(2)]
        for i in range(2):
            rows = present[:, i].nonzero().flatten()
            if len(rows):
                c, t = self.encode(i, inputs, samples[rows])
                cls[i], mt[i] = cls[i].index_copy(0, rows, c), mt[i].index_copy(0, rows, t)
        # The missing modality's class token is the other encoder's mask token.
        stand_in = [torch.zeros_like(t) if zeros else t for t in mt]
        first = torch.where(present[:, :1], cls[0], stand_in[1])
        second = torch.where(present[:, 1:], cls[1], stand_in[0])
        logits = self.head(first + second)
        if self.case.multi_label:
            task = F.binary_cross_entropy_with_logits(logits, labels)
        else:
            task = F.cross_entropy(logits, labels)
        complete = present.all(1).nonzero().flatten()
        align = torch.zeros((), dtype=dtype)
        if len(complete):
            cls = [t.detach() for t in cls] if stop_gradient else cls
            align = F.mse_loss(mt[0][complete], cls[1][complete]) + F.mse_loss(mt[1][complete], cls[0][complete])
        return logits, task, align


def train(case, dtype):
    torch.manual_seed(0)
    out = {}
    stored = pool_inputs(case)
    inputs = {k: torch.from_numpy(v).to(dtype) if v.dtype == np.float16 else torch.from_numpy(v) for k, v in stored.items()}
    labels = torch.from_numpy(pool_labels(case))
    labels = labels.to(dtype) if case.multi_label else labels
    samples = np.stack([rng(case.name, "batch", s).permutation(POOL)[:BATCH] for s in range(STEPS)])
    present = np.array([AVAILABLE[s % len(AVAILABLE)] for s in range(STEPS)], dtype=np.uint8)
    for key, value in stored.items():
        out[f"pool.{key}"] = value
    out |= {"pool.labels": labels, "steps.samples": samples, "steps.present": present}

    model = U2A(case, dtype).draw()
    trainable = model.trainable()
    wanted = {id(p) for p in trainable.values()}
    for p in model.parameters():
        assert id(p) in wanted or not p.requires_grad
    out |= {f"initial.{k}": p.detach().clone() for k, p in trainable.items()}
    optimiser = adamw(trainable, case.lr)
    # The options, on the first batch.
    first = (inputs, torch.from_numpy(samples[0]), torch.from_numpy(present[0]).bool(), labels[torch.from_numpy(samples[0])])
    _, task, align = model(*first, stop_gradient=True)
    (task + ALIGN_WEIGHT * align).backward()
    out |= {f"first.stop_gradient.grad.{k}": p.grad.clone() for k, p in trainable.items()}
    with torch.no_grad():
        out["first.zeros.logits"] = model(*first, zeros=True)[0]
        for encoder in model.encoders:
            encoder.post_norm = False
        logits, task, align = model(*first)
        out |= {"first.last_hidden.logits": logits, "first.last_hidden.loss": task + ALIGN_WEIGHT * align}
        for encoder in model.encoders:
            encoder.post_norm = True

    curves = {k: [] for k in ("loss", "task_loss", "align_loss", "lr")}
    for step in range(STEPS):
        rate = learning_rate(step, STEPS, STEPS_PER_EPOCH, case.lr)
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = torch.from_numpy(samples[step])
        logits, task, align = model(inputs, chosen, torch.from_numpy(present[step]).bool(), labels[chosen])
        loss = task + ALIGN_WEIGHT * align
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            out["first.logits"] = logits
            out |= {f"first.grad.{k}": p.grad.clone() for k, p in trainable.items()}
        # What got no gradient was not run: nothing else may be without one.
        for k, p in trainable.items():
            ran = [bool(present[step][:, i].any()) for i in range(2)]
            i = next((i for i, m in enumerate(case.modalities) if k.startswith(f"{m}/") or k == f"mask_token.{m}"), None)
            assert (p.grad is None) == (i is not None and not ran[i]), (step, k)
        for key, value in (("loss", loss), ("task_loss", task), ("align_loss", align), ("lr", rate)):
            curves[key].append(value.item() if isinstance(value, torch.Tensor) else value)
        optimiser.step()
        if step in (0, 3):
            out |= {f"after{step + 1}.{k}": p.detach().clone() for k, p in trainable.items()}
    for key, values in curves.items():
        out[f"steps.{key}"] = np.array(values)
    out |= {f"final.{k}": p.detach().clone() for k, p in trainable.items()}
    # Evaluation of the trained model on the whole pool, complete and with either modality gone.
    everything = torch.arange(POOL)
    with torch.no_grad():
        for name, have in (("both", BOTH), ("no_first", NO_FIRST), ("no_second", NO_SECOND)):
            mask = torch.tensor([have] * POOL).bool()
            out[f"eval.{name}.logits"] = model(inputs, everything, mask, labels)[0]
    return out


def main():
    for case in CASES:
        truth, single = train(case, torch.float64), train(case, torch.float32)
        spread = {}
        for group in ("first.", "after1.", "after4.", "final.", "eval."):
            keys = [k for k in truth if k.startswith(group) and truth[k].abs().max() > 0]
            spread[group] = max(relative(single[k], truth[k]) for k in keys)
        loss, loss32 = truth["steps.loss"], single["steps.loss"]
        spread["steps.loss, relative, worst step"] = float(np.max(np.abs(loss32 - loss) / loss))
        about = {
            "what": {
                "pool.*": f"the {POOL} samples' inputs (float16 holds them exactly) and labels; audio: padded and normalised mel [pool, frames, bins]; video: normalised pixels [pool, {FRAMES}, 3, size, size]; image: [pool, 3, size, size]; text: ids [pool, 12], 0-padded, and text_lengths",
                "steps.samples, steps.present": "which samples make up each step's batch, and which of (m1, m2) each has",
                "steps.loss, .task_loss, .align_loss, .lr": "per step; lr is the rate the step used",
                "initial.*, after1.*, after4.*, final.*": "trainable tensors before step 1, after steps 1, 4 and 20; MODALITY/KEY is the adapter file's key (transformers 5's names), the rest is head.safetensors'",
                "first.logits, first.grad.*": "step 1",
                "first.OPTION.*": "step 1 again; stop_gradient: the alignment loss leaves the class tokens alone; zeros: a missing token is zero; last_hidden: CLIP's states before post_layernorm",
                "eval.HAVE.logits": "the final model on the whole pool, all with both, all without m1, all without m2",
            },
            "setting": {
                "modalities": case.modalities, "encoders": case.kinds, "classes": case.classes,
                "multi_label": case.multi_label, "base_lr": case.lr, "epochs": STEPS // STEPS_PER_EPOCH,
                "steps_per_epoch": STEPS_PER_EPOCH, "warmup_epochs": WARMUP_EPOCHS, "warmup_factor": WARMUP_FACTOR,
                "power": POWER, "weight_decay": WEIGHT_DECAY, "eps": EPS, "align_weight": ALIGN_WEIGHT,
                "lora_rank": 1, "lora_alpha": 1,
            },
            "computed": "float64, stored as float32",
            "float32_of_torch": {k: float(f"{v:.1e}") for k, v in spread.items()},
        }
        write(HERE / f"u2a-{case.name}.safetensors", truth, about)
        print("  loss", " ".join(f"{v:.4f}" for v in truth["steps.loss"]))
        print("  align", " ".join(f"{v:.4f}" for v in truth["steps.align_loss"]))
        print("  float32 off by", about["float32_of_torch"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
