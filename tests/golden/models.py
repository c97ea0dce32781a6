"""Small CLIP, AST and BERT checkpoints of the real architectures, with the key names the hub's files have.

`models/FOLDER/{config.json, model.safetensors[, vocab.txt]}`; `models/layouts.json` maps each hub key to the
key that `save_pretrained` writes where it differs: transformers 4 and 5, the bare encoder and the whole model,
5 also with `save_original_format=False` (its new module names). Renaming by these maps makes such a file.
`bin/FOLDER/pytorch_model.bin` holds CLIP's weights again, as torch.save writes them.
`sizes/NAME/FOLDER/` holds bare encoders of other sizes, stored in float16.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BertConfig,
    BertForPreTraining,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
)

from common import CLASSES, FOLDERS, HERE, MODELS, SIZES, json_text, normal

WIDTH, LAYERS, HEADS, INNER = 32, 3, 4, 64
WORDS = (
    "the a of and to in is with for on food movie film recipe cake chicken soup salad best easy homemade how make "
    "love war night man woman girl boy city police murder story young old family friend life death home world day "
    "new great little big red blue green black white sweet hot cold pie rice beef fish pizza burger pasta cheese"
).split()


def vocabulary():
    """A WordPiece vocabulary with bert-base-uncased's special tokens, each letter and digit, and some words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += list("!\"#$%&'()*+,-./:;=?@_|") + list(letters) + ["##" + c for c in letters]
    tokens += [w for w in WORDS if len(w) > 1]
    tokens += ["##ing", "##ed", "##er", "##s" + "t", "##ly"]
    assert len(tokens) == len(set(tokens))
    return tokens


def value(key, shape):
    """Weights large enough that attention is not flat and norms, biases and positions matter."""
    leaf = key.split(".")[-1]
    if key == "logit_scale":
        return np.float32(2.6592)
    if re.search(r"(?i)norm|layrnorm", key):
        mean = 1.0 if leaf in ("weight", "gamma") else 0.0
        return normal(shape, 0.2, "model", key, mean=mean)
    if leaf == "bias":
        return normal(shape, 0.1, "model", key)
    # Conv2d kernels see hundreds of inputs, linear layers 32 or 64.
    if len(shape) == 4:
        return normal(shape, 0.05, "model", key)
    return normal(shape, 0.3 if re.search(r"query|key|[qk]_proj", key) else 0.15, "model", key)


def clip_keys():
    """openai/clip-vit-base-patch16: the whole CLIPModel, position ids as saved buffers, a text tower to ignore."""
    config = CLIPConfig(
        text_config=dict(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
            max_position_embeddings=6, hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, projection_dim=8,
        ),
        vision_config=dict(
            hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            image_size=32, patch_size=8, hidden_act="quick_gelu", projection_dim=8,
        ),
        projection_dim=8,
    )
    model = CLIPModel(config)
    weights = {k: value(k, tuple(v.shape)) for k, v in model.state_dict().items()}
    weights["vision_model.embeddings.position_ids"] = np.arange(17, dtype=np.int64)[None]
    weights["text_model.embeddings.position_ids"] = np.arange(6, dtype=np.int64)[None]
    return model, config, weights


def ast_hub_key(key):
    """transformers 5's module names to those of the hub's file (transformers 4)."""
    for new, old in (
        (r"\.layers\.(\d+)\.attention\.q_proj\.", r".encoder.layer.\1.attention.attention.query."),
        (r"\.layers\.(\d+)\.attention\.k_proj\.", r".encoder.layer.\1.attention.attention.key."),
        (r"\.layers\.(\d+)\.attention\.v_proj\.", r".encoder.layer.\1.attention.attention.value."),
        (r"\.layers\.(\d+)\.attention\.o_proj\.", r".encoder.layer.\1.attention.output.dense."),
        (r"\.layers\.(\d+)\.mlp\.fc1\.", r".encoder.layer.\1.intermediate.dense."),
        (r"\.layers\.(\d+)\.mlp\.fc2\.", r".encoder.layer.\1.output.dense."),
        (r"\.layers\.(\d+)\.", r".encoder.layer.\1."),
    ):
        key = re.sub(new, old, key)
    return key


def ast_keys():
    """MIT/ast-finetuned-audioset-10-10-0.4593: encoder prefix and a classifier."""
    config = ASTConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        max_length=64, num_mel_bins=128, patch_size=16, frequency_stride=10, time_stride=10, num_labels=5,
    )
    model = ASTForAudioClassification(config)
    weights = {}
    for key, v in model.state_dict().items():
        key = ast_hub_key(key)
        weights[key] = value(key, tuple(v.shape))
    return model, config, weights


def bert_hub_key(key):
    return re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", key))


def bert_keys():
    """google-bert/bert-base-uncased: `bert.` prefix, the pre-training heads, gamma and beta."""
    config = BertConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        vocab_size=len(vocabulary()), max_position_embeddings=64, type_vocab_size=2, pad_token_id=0,
    )
    model = BertForPreTraining(config)
    weights = {}
    for key, v in model.state_dict().items():
        # The decoder is tied to the word embeddings and the safetensors file holds it once.
        if not key.startswith("cls.predictions.decoder"):
            key = bert_hub_key(key)
            weights[key] = value(key, tuple(v.shape))
    return model, config, weights


def transformers4(encoder, key):
    """The key in `save_pretrained` of transformers 4 for the bare encoder; None where it has no such tensor."""
    if encoder == "clip":
        return key if key.startswith("vision_model.") and not key.endswith("position_ids") else None
    prefix = {"ast": "audio_spectrogram_transformer.", "bert": "bert."}[encoder]
    if not key.startswith(prefix):
        return None
    return key[len(prefix):].replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def saved_keys(model, weights, **options):
    """hub key -> key written by this transformers' `save_pretrained`, matched by content."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, **options)
        written = load_file(Path(folder) / "model.safetensors")
    by_content = {(v.shape, v.tobytes()): k for k, v in weights.items()}
    assert len(by_content) == len(weights), "two tensors with the same content"
    mapping = {by_content[(v.shape, v.tobytes())]: k for k, v in written.items() if (v.shape, v.tobytes()) in by_content}
    left = [k for k in written if k not in mapping.values()]
    assert not left, left
    return dict(sorted(mapping.items()))


# Encoders whose sizes differ from the paper's where larger checkpoints do: (kind, name of the checkpoint's folder,
# configuration). Like ViT-B/32 a grid of 7 x 7 patches, like ViT-L/14 patches of 14 pixels, like ViT-H/14 heads of
# 80 numbers and the other activation, heads of no multiple of 8, one layer, one head, strides of their own.
OTHER_SIZES = {
    "clip-patch14": ("clip", "clip-vit-large-patch14", CLIPVisionConfig(
        hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=2, image_size=42,
        patch_size=14, hidden_act="quick_gelu", projection_dim=8,
    )),
    "clip-heads80": ("clip", "CLIP-ViT-H", CLIPVisionConfig(
        hidden_size=80, intermediate_size=40, num_hidden_layers=1, num_attention_heads=1, image_size=56,
        patch_size=8, hidden_act="gelu", projection_dim=8,
    )),
    "bert": ("bert", "bert-large-uncased", BertConfig(
        hidden_size=40, intermediate_size=56, num_hidden_layers=4, num_attention_heads=2, vocab_size=60,
        max_position_embeddings=20, type_vocab_size=1, pad_token_id=0,
    )),
    "ast": ("ast", "ast-strides", ASTConfig(
        hidden_size=40, intermediate_size=48, num_hidden_layers=2, num_attention_heads=5, max_length=70,
        num_mel_bins=128, patch_size=16, frequency_stride=16, time_stride=9,
    )),
    "ast-patch12": ("ast", "ast-patch12", ASTConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3, max_length=50,
        num_mel_bins=128, patch_size=12, frequency_stride=11, time_stride=7,
    )),
}


def write_config(config, model, folder):
    """The library writes the configuration, less the fields that only say who wrote it."""
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n")


def write_sizes():
    if SIZES.exists():
        shutil.rmtree(SIZES)
    for name, (encoder, folder, config) in OTHER_SIZES.items():
        folder = SIZES / name / folder
        folder.mkdir(parents=True)
        model = CLASSES[encoder](config)
        weights = {}
        for key, v in sorted(model.state_dict().items()):
            if encoder == "clip":
                key = f"vision_model.{key}"
            if encoder == "ast":
                key = ast_hub_key(f"audio_spectrogram_transformer.{key}")
            weights[key] = value(f"{name}/{key}", tuple(v.shape)).astype(np.float16)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        write_config(config, model, folder)
        CLASSES[encoder].from_pretrained(folder)
        for file in folder.iterdir():
            file.chmod(0o644)
        print(f"{name}: {len(weights)} tensors, {sum(p.stat().st_size for p in folder.iterdir())} bytes")


def main():
    write_sizes()
    layouts = {}
    for encoder, build in (("clip", clip_keys), ("ast", ast_keys), ("bert", bert_keys)):
        folder = MODELS / FOLDERS[encoder]
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        whole, config, weights = build()
        weights = {k: np.array(v, order="C") for k, v in sorted(weights.items())}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if encoder == "clip":
            file = HERE / "bin" / FOLDERS[encoder] / "pytorch_model.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, file)
        if encoder == "bert":
            (folder / "vocab.txt").write_text("".join(t + "\n" for t in vocabulary()))
        write_config(config, whole, folder)
        bare = CLASSES[encoder].from_pretrained(folder)
        entire = type(whole).from_pretrained(folder)
        forms = {
            "transformers4_encoder": {k: new for k in weights if (new := transformers4(encoder, k)) is not None},
            "transformers5_encoder": saved_keys(bare, weights),
            "transformers5_encoder_new_names": saved_keys(bare, weights, save_original_format=False),
            "transformers5_whole": saved_keys(entire, weights),
            "transformers5_whole_new_names": saved_keys(entire, weights, save_original_format=False),
        }
        # Each distinct layout once; what only leaves tensors out is the hub's own.
        layouts[encoder] = {}
        for name, keys in forms.items():
            if any(k != v for k, v in keys.items()) and keys not in layouts[encoder].values():
                layouts[encoder][name] = keys
        for file in folder.iterdir():
            file.chmod(0o644)
        size = sum(p.stat().st_size for p in folder.iterdir())
        print(f"{folder.name}: {len(weights)} tensors, {size} bytes; layouts {', '.join(layouts[encoder])}")
    (MODELS / "layouts.json").write_text(json_text(layouts))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
