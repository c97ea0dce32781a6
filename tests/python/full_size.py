"""The outputs and gradients of encoders of the paper's sizes with random weights, by transformers and PEFT in float64.

`python full_size.py OUT` writes OUT/FOLDER/ (checkpoints as `save_pretrained` makes them), OUT/adapters/ENCODER (PEFT's own
folders) and OUT/values.safetensors: inputs, class and mask token after the last norm, and the gradients of
sum(cls * c1) + sum(mt * c2). They are 1.1 GB and made from a seed.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import ASTConfig, BertConfig, CLIPVisionConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from common import CLASSES, FOLDERS, Encoder, adapters, fill, load, lora, normal, rng, save_adapter, tensor

CONFIGS = {"clip": lambda: CLIPVisionConfig(patch_size=16), "ast": ASTConfig, "bert": BertConfig}
LENGTHS = [40, 17, 3]


def inputs(kind):
    if kind == "clip":
        return tensor(normal((2, 3, 224, 224), 1.0, "full", kind)), None
    if kind == "ast":
        return tensor(normal((1, 1024, 128), 0.5, "full", kind)), None
    ids = rng("full", kind).integers(1000, 30000, (len(LENGTHS), max(LENGTHS)))
    for row, n in enumerate(LENGTHS):
        ids[row, n:] = 0
    return torch.from_numpy(ids), torch.tensor(LENGTHS)


def main():
    out, values = Path(sys.argv[1]), {}
    for kind in ("clip", "ast", "bert"):
        torch.manual_seed(0)
        model = CLASSES[kind](CONFIGS[kind]())
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(out / FOLDERS[kind])
        peft = lora(kind, load(kind, torch.float64, out))
        fill(peft, 0.05, 0.05, "full", kind)
        x, lengths = inputs(kind)
        mask_token, c1, c2 = (
            tensor(normal((rows, 768), 0.5, "full", kind, name))
            for name, rows in (("mask_token", 1), ("c1", len(x)), ("c2", len(x)))
        )
        mask_token.requires_grad_()
        cls, mt = Encoder(kind, peft).tokens(x, lengths, mask_token)
        ((cls * c1).sum() + (mt * c2).sum()).backward()
        named = {"input": x, "mask_token": mask_token, "c1": c1, "c2": c2, "cls": cls, "mt": mt}
        named["grad.mask_token"] = mask_token.grad
        named |= {f"grad.{key}": p.grad for key, p in adapters(peft).items()}
        values |= {f"{kind}.{k}": v.detach().contiguous() for k, v in named.items()}
        save_adapter(peft.float(), out / "adapters" / kind)
    values["bert.lengths"] = torch.tensor(LENGTHS)
    single = {k: v.float() if v.is_floating_point() else v for k, v in values.items()}
    save_file(single, out / "values.safetensors")


if __name__ == "__main__":
    main()
