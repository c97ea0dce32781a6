"""One training step, or one evaluation batch, of U2A with transformers and PEFT at full size.

`peer_step.py audio-video|image-text train|eval eager|sdpa f32|bf16|autocast [--device cuda] [--batch N] [--steps N] [--compile]`.
The default batches are 4 for audio-video and 8 for image-text; frozen weights have no gradient, and all samples are complete.
`autocast` has f32 weights. `bf16` is autocast over bf16 weights with f32 adapters on a GPU; on the CPU, whose autocast refuses
bf16 norms, everything is bf16. Items: samples.
"""

import argparse
import sys
from pathlib import Path

from peer import THREADS, serve

import torch
import torch.nn.functional as F
from transformers import ASTConfig, BertConfig, CLIPVisionConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from common import CLASSES, TARGETS, Encoder  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

CLASS_COUNT, TEXT_LENGTH = 28, 40
KINDS = {"audio-video": ("ast", "clip"), "image-text": ("clip", "bert")}


def encoder(kind, attention, compiled):
    torch.manual_seed(0)
    config = {"clip": lambda: CLIPVisionConfig(patch_size=16), "ast": ASTConfig, "bert": BertConfig}[kind]()
    config._attn_implementation = attention
    lora = LoraConfig(r=1, lora_alpha=1, lora_dropout=0.1, bias="none", target_modules=TARGETS[kind])
    model = get_peft_model(CLASSES[kind](config), lora)
    if compiled:
        model.get_base_model().encoder.compile()
    return Encoder(kind, model)


def inputs(kind, batch, video):
    if kind == "clip":
        return torch.randn(batch * (3 if video else 1), 3, 224, 224), None
    if kind == "ast":
        return torch.randn(batch, 1024, 128) * 0.5, None
    return torch.randint(1000, 30000, (batch, TEXT_LENGTH)), torch.full((batch,), TEXT_LENGTH)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pair", choices=KINDS)
    parser.add_argument("mode", choices=("train", "eval"))
    parser.add_argument("attention", choices=("eager", "sdpa"))
    parser.add_argument("precision", choices=("f32", "bf16", "autocast"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    mode, precision, device = args.mode, args.precision, torch.device(args.device)
    cuda = device.type == "cuda"
    if not cuda:
        torch.set_num_threads(THREADS)
    whole = precision == "bf16" and not cuda
    cast = precision != "f32" and not whole
    video = args.pair == "audio-video"
    batch = args.batch or (4 if video else 8)
    encoders = [encoder(kind, args.attention, args.compile) for kind in KINDS[args.pair]]
    for e in encoders:
        e.model.to(device)
        if precision == "bf16":
            for name, p in e.model.named_parameters():
                p.data = p.data.to(torch.float32 if cuda and ".lora_" in name else torch.bfloat16)
    masks = [torch.nn.Parameter(torch.randn(1, 768, device=device) * 0.02) for _ in encoders]
    head = torch.nn.Linear(768, CLASS_COUNT).to(device)
    xs = [[t if t is None else t.to(device) for t in inputs(kind, batch, video)] for kind in KINDS[args.pair]]
    if whole:
        masks, head = [torch.nn.Parameter(m.data.bfloat16()) for m in masks], head.bfloat16()
        xs = [[t if t is None or not t.is_floating_point() else t.bfloat16() for t in ts] for ts in xs]
    labels = torch.randint(0, CLASS_COUNT, (batch,)).to(device)
    learnable = [p for e in encoders for p in e.model.parameters() if p.requires_grad] + masks + list(head.parameters())
    optimiser = torch.optim.AdamW(learnable, lr=1e-3, weight_decay=0.02)

    def tokens():
        out = []
        for e, m, (x, lengths) in zip(encoders, masks, xs):
            cls, mt = e.tokens(x, lengths, m)
            out.append((cls.reshape(batch, -1, 768).mean(1), mt.reshape(batch, -1, 768).mean(1)))
        return out

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=cast):
            (c1, m1), (c2, m2) = tokens()
            logits = head(c1 + c2)
        loss = F.cross_entropy(logits.float(), labels) + 0.2 * (F.mse_loss(m2.float(), c1.float()) + F.mse_loss(m1.float(), c2.float()))
        loss.backward()
        optimiser.step()

    @torch.inference_mode()
    def evaluate():
        with torch.autocast(device.type, torch.bfloat16, enabled=cast):
            (c1, _), (c2, _) = tokens()
            return head(c1 + c2)

    for e in encoders:
        if mode == "eval":
            e.model.merge_adapter()
        e.model.train(mode == "train")
    unit = step if mode == "train" else evaluate

    def work():
        for _ in range(args.steps):
            unit()
        if cuda:
            torch.cuda.synchronize()

    serve(work, batch * args.steps, torch.cuda.max_memory_allocated if cuda else None)


if __name__ == "__main__":
    main()
