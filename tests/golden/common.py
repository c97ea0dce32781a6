"""The parts that the golden scripts share: small encoders, the mask token, PEFT's LoRA, files.

Nothing here trains or compares. Random values come from numpy generators with names, so that one script's draws never
shift another's. Everything is computed in float64, so that the committed float32 values are rounded once.
"""

import json
import os
import re
import shutil
import warnings
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save as save_bytes
from transformers import ASTModel, BertModel, CLIPVisionModel
from transformers.utils import logging as transformers_logging

warnings.filterwarnings("ignore", category=FutureWarning)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
# Encoders of other sizes; one folder each, not the hub's names, so that no folder holds two of a kind.
SIZES = HERE / "sizes"
ADAPTERS = HERE / "adapters"
SEED = 2025

# Folder names are the hub's, so `--weights tests/golden/models` works as it stands.
FOLDERS = {
    "clip": "clip-vit-base-patch16",
    "ast": "ast-finetuned-audioset-10-10-0.4593",
    "bert": "bert-base-uncased",
}
CLASSES = {"clip": CLIPVisionModel, "ast": ASTModel, "bert": BertModel}
# Query, key, value and attention output of every block and nothing else: a bare `dense` would take the
# MLP of BERT as well.
TARGETS = {
    "clip": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "ast": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "bert": ["query", "key", "value", "attention.output.dense"],
}


def rng(*name):
    """The generator of a name."""
    return np.random.default_rng([SEED, zlib.crc32("/".join(map(str, name)).encode())])


def normal(shape, std, *name, mean=0.0):
    """float32 draws, so that what is stored is exactly what was used."""
    return (mean + std * rng(*name).standard_normal(shape)).astype(np.float32)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).double()


def load(encoder, dtype=torch.float64, root=MODELS, folder=None):
    """The Hugging Face module with the committed weights, in evaluation mode (no dropout)."""
    model, report = CLASSES[encoder].from_pretrained(
        root / (folder or FOLDERS[encoder]), attn_implementation="sdpa", output_loading_info=True
    )
    assert not report["missing_keys"], report["missing_keys"]
    return model.to(dtype).eval()


def lora(encoder, model, rank=1, alpha=1):
    """PEFT's own LoRA without dropout; B is zero as PEFT leaves it."""
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=TARGETS[encoder]
    )
    return get_peft_model(model, config).eval()


def adapter_key(name):
    """The name a parameter has in `adapter_model.safetensors`."""
    return name.replace(".default.", ".")


def adapters(peft):
    """Adapter parameters by file key, sorted."""
    found = {adapter_key(n): p for n, p in peft.named_parameters() if ".lora_" in n}
    return dict(sorted(found.items()))


def fill(peft, std_a, std_b, *name):
    """Seeded values in every adapter tensor; `std_b` 0 keeps B at zero."""
    with torch.no_grad():
        for key, p in adapters(peft).items():
            std = std_a if ".lora_A." in key else std_b
            p.copy_(tensor(normal(tuple(p.shape), std, *name, key)) if std else torch.zeros_like(p))


class Encoder:
    """A Hugging Face encoder (bare or wrapped by PEFT) that can carry the mask token.

    The token joins the finished output of the embedding layer by a forward hook, hence without position or
    type: for CLIP that is before `pre_layrnorm`, for BERT after the embeddings' LayerNorm.
    """

    def __init__(self, kind, model):
        self.kind, self.model, self.mask_token = kind, model, None
        self.post_norm = True
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.base = base
        base.embeddings.register_forward_hook(self._append)

    def _append(self, module, args, output):
        if self.mask_token is None:
            return output
        return torch.cat([output, self.mask_token.expand(output.shape[0], 1, -1)], dim=1)

    def __call__(self, x, lengths=None, mask_token=None):
        """Last hidden states as Hugging Face gives them: [rows, tokens, width]."""
        self.mask_token = mask_token
        if self.kind == "clip":
            return self.model(pixel_values=x).last_hidden_state
        if self.kind == "ast":
            return self.model(input_values=x).last_hidden_state
        attend = torch.arange(x.shape[1], device=x.device)[None, :] < lengths[:, None]
        if mask_token is not None:
            # The mask token follows the padding and is always attended to.
            attend = torch.cat([attend, torch.ones(len(x), 1, dtype=torch.bool, device=x.device)], dim=1)
        return self.model(input_ids=x, attention_mask=attend.long()).last_hidden_state

    def states(self, x, lengths=None, mask_token=None):
        """Last hidden states after the encoder's final norm (CLIP's can be left out), at every position."""
        last = self(x, lengths, mask_token)
        return self.base.post_layernorm(last) if self.kind == "clip" and self.post_norm else last

    def tokens(self, x, lengths, mask_token):
        """(CLS, MT) of each row."""
        states = self.states(x, lengths, mask_token)
        return states[:, 0], states[:, -1]


def write(path, tensors, about):
    """safetensors with float64 rounded to float32, and a JSON beside it that says what each tensor is."""
    out = {}
    for key, value in tensors.items():
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        out[key] = np.ascontiguousarray(value.astype(np.float32) if value.dtype == np.float64 else value)
    path.write_bytes(save_bytes(dict(sorted(out.items()))))
    listing = {k: f"{v.dtype} {list(v.shape)}" for k, v in sorted(out.items())}
    about = dict(about, tensors=listing)
    path.with_suffix(".json").write_text(json_text(about))
    print(f"{path.name}: {len(out)} tensors, {path.stat().st_size} bytes")


def json_text(value):
    text = json.dumps(value, indent=1, ensure_ascii=False)
    # Short lists on one line keep the diffs readable.
    return re.sub(r"\[\s+([^\[\]{}]{0,90}?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"


def save_adapter(peft, folder):
    """`save_pretrained`, less what differs from run to run (the order of a set, the model card, local paths)."""
    if folder.exists():
        shutil.rmtree(folder)
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = Path(config["base_model_name_or_path"]).name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)


def relative(a, b):
    """Largest absolute difference over the largest magnitude."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()
