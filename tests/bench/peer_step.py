"""One training step, or one evaluation batch, of U2A with transformers and PEFT.

`peer_step.py audio-video|image-text train|eval eager|sdpa f32|bf16|autocast [--device cuda] [--batch N] [--steps N] [--compile] [--tiny]`.
The default batches are 4 for audio-video and 8 for image-text; a line `go N [STEPS]` of the input asks for batches of N samples and as
many steps. Frozen weights have no gradient, and all samples are complete. `autocast` has f32 weights. `bf16` is autocast over bf16
weights with f32 adapters on a GPU; on the CPU, whose autocast refuses bf16 norms, everything is bf16. `--compile` puts torch.compile on each
transformer layer. `--tiny` has small encoders. Items: samples. On a GPU `enqueue_seconds` is the time after which all work was
queued, before it was waited for.
"""

import argparse
import gc
import sys
import time
from pathlib import Path

from peer import THREADS, serve

import torch
import torch._dynamo
import torch.nn.functional as F
from transformers import ASTConfig, BertConfig, CLIPVisionConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from common import CLASSES, TARGETS, Encoder  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

CLASS_COUNT, TEXT_LENGTH = 28, 40
KINDS = {"audio-video": ("ast", "clip"), "image-text": ("clip", "bert")}
CONFIGS = {"clip": CLIPVisionConfig, "ast": ASTConfig, "bert": BertConfig}
# The settings that differ from the defaults of the configuration classes.
BASE = {"clip": {"patch_size": 16}, "ast": {}, "bert": {}}
SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
TINY = {
    "clip": {"patch_size": 16, "image_size": 64, **SMALL},
    "ast": {"max_length": 256, "frequency_stride": 16, "time_stride": 16, **SMALL},
    "bert": SMALL,
}
# Every batch size is compiled for itself, so that no kernel is slower for being general.
torch._dynamo.config.recompile_limit = 64


def config(kind, attention, tiny):
    made = CONFIGS[kind](**(TINY if tiny else BASE)[kind])
    made._attn_implementation = attention
    return made


def layers(base):
    """The transformer layers: AST has them as `.layers`, CLIP as `.encoder.layers`, BERT as `.encoder.layer`."""
    inner = getattr(base, "encoder", base)
    return inner.layer if hasattr(inner, "layer") else inner.layers


def encoder(kind, config, compiled):
    torch.manual_seed(0)
    lora = LoraConfig(r=1, lora_alpha=1, lora_dropout=0.1, bias="none", target_modules=TARGETS[kind])
    model = get_peft_model(CLASSES[kind](config), lora)
    if compiled:
        # One by one: the second layer of a kind takes what was compiled for the first.
        for layer in layers(model.get_base_model()):
            layer.compile(dynamic=False)
    return Encoder(kind, model)


def inputs(kind, config, batch, video, device):
    if kind == "clip":
        return torch.randn(batch * (3 if video else 1), 3, config.image_size, config.image_size, device=device), None
    if kind == "ast":
        return torch.randn(batch, config.max_length, config.num_mel_bins, device=device) * 0.5, None
    lengths = torch.full((batch,), TEXT_LENGTH, device=device)
    return torch.randint(1000, 30000, (batch, TEXT_LENGTH), device=device), lengths


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
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    mode, precision, device = args.mode, args.precision, torch.device(args.device)
    cuda = device.type == "cuda"
    if not cuda:
        torch.set_num_threads(THREADS)
    whole = precision == "bf16" and not cuda
    cast = precision != "f32" and not whole
    video = args.pair == "audio-video"
    kinds = KINDS[args.pair]
    configs = [config(kind, args.attention, args.tiny) for kind in kinds]
    encoders = [encoder(kind, c, args.compile) for kind, c in zip(kinds, configs)]
    for e in encoders:
        e.model.to(device)
        if precision == "bf16":
            for name, p in e.model.named_parameters():
                p.data = p.data.to(torch.float32 if cuda and ".lora_" in name else torch.bfloat16)
    width = configs[0].hidden_size
    masks = [torch.nn.Parameter(torch.randn(1, width, device=device) * 0.02) for _ in encoders]
    head = torch.nn.Linear(width, CLASS_COUNT).to(device)
    if whole:
        masks, head = [torch.nn.Parameter(m.data.bfloat16()) for m in masks], head.bfloat16()
    learnable = [p for e in encoders for p in e.model.parameters() if p.requires_grad] + masks + list(head.parameters())
    optimiser = torch.optim.AdamW(learnable, lr=1e-3, weight_decay=0.02)
    xs, labels, steps = [], None, args.steps

    def resize(batch, new_steps=None):
        """Draws inputs of another batch size, after everything of the former one is freed. Returns the samples of a unit."""
        nonlocal xs, labels, steps
        xs, labels, steps = [], None, new_steps or steps
        optimiser.zero_grad(set_to_none=True)
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        xs = [inputs(kind, c, batch, video, device) for kind, c in zip(kinds, configs)]
        if whole:
            xs = [[t if t is None or not t.is_floating_point() else t.bfloat16() for t in ts] for ts in xs]
        labels = torch.randint(0, CLASS_COUNT, (batch,), device=device)
        return batch * steps

    def tokens():
        out = []
        for e, m, (x, lengths) in zip(encoders, masks, xs):
            # In the number format of the embeddings that it joins: in f32 it would make all of them, and the sums of all layers, f32.
            cls, mt = e.tokens(x, lengths, m.bfloat16() if cuda and precision == "bf16" else m)
            out.append((cls.reshape(len(labels), -1, width).mean(1), mt.reshape(len(labels), -1, width).mean(1)))
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
        start = time.perf_counter()
        for _ in range(steps):
            unit()
        if not cuda:
            return {}
        queued = time.perf_counter() - start
        torch.cuda.synchronize()
        return {"enqueue_seconds": queued}

    items = resize(args.batch or (4 if video else 8))
    serve(work, items, torch.cuda.max_memory_allocated if cuda else None, resize, torch.OutOfMemoryError)


if __name__ == "__main__":
    main()
