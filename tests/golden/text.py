"""Golden ids of Hugging Face's BertTokenizerFast: `text.json`.

Two vocabularies: the small one of `models/bert-base-uncased`, and `text_vocab.txt`, which has the letters of many
scripts on their own and as continuations, so that cleaning, accents and splitting show in the ids and not only as
`[UNK]`. The texts are chosen to be difficult.
"""

import json
import unicodedata

from common import FOLDERS, HERE, MODELS
from transformers import BertTokenizerFast

VOCAB = HERE / "text_vocab.txt"
LENGTHS = [2, 3, 12, 40, 256]
TEXTS = [
    "",
    " ",
    "\t\r\n",
    "a man and a woman talk in the kitchen",
    "Banana Bread with Walnuts | Recipes, photos & more - foodnetwork.com",
    "The man. He's 3.14 (or $5,000.00)... isn't he?! \"quoted\" 'single' `tick` ~100% #tag @user a_b a-b a/b <i>",
    "ÀÉÎÕÜ naïve façade coöperate Crème Brûlée jalapeño Ångström İstanbul ıI ẞß œ Ø ł đ",
    "e\u0301 cafe\u0301 n\u0303 a\u0308\u0304 \u0301 \u0301a",
    "东京タワー 寿司を食べる 中文字abc中文 한국어 김치찌개 ｶﾀｶﾅ ＦＵＬＬ　ｗｉｄｔｈ ㍿ 豈 𠀀𪜶",
    "Привет мир, Ёлка й Ελληνικά ΆΣΣ σς שָׁלוֹם العَرَبِيَّة हिन्दी ภาษาไทย ไก่ Tiếng Việt ქართული Հայերեն",
    "🍕🍣 pizza 👩‍🍳 cook 🇫🇷 flag 👍🏽 \U0001f9d1\u200d\U0001f692 ❤️ ☕︎",
    "a\u0000b c\ufffdd e\u200bf g\u00adh i\u2028j k\u2060l m\ufeffn o\u0085p q\u00a0r s\u3000t \u001f \u007f \x80 \ue000 \U000e0041",
    "w" * 100,
    "w" * 101,
    "the " + "é" * 100 + " and " + "é" * 101 + " in " + "中" * 120,
    "x" * 5000,
    "the man " * 400,
    "[CLS] the [SEP] man [MASK] in [PAD] a [UNK] room [mask] [ SEP ] x[SEP]y [SEP][SEP] [CLS",
    "##a ##ing a##b # # ## [unused1]",
    "http://www.example.com/a?b=c&d=é 12:30 2024-01-02 +1-800-555 3x2",
    "“curly” ‘quotes’ – dash — em… ¿qué? ¡sí! «guillemets» 「corner」 、。 ！？ ৳ € £ ¥ ₿ § ¶ © ® ™ × ÷ ± ½ ² ₃ Ⅷ ﬁ ﬂ ℃ №",
    "\u202eright to left\u202c \u2066isolate\u2069 \u0640 \u1160 \uffa0 \u115f",
    "ǅ ǆ Ǆ ﬀ ŉ ǰ ΐ և ẖ ᾳ ᾼ ȷ K Å Ω \u1e9e \u0345 \u0130\u0307",
    "\u1ebf \u0065\u0302\u0301 \u0323\u0307q q\u0307\u0323 각 \u1100\u1161\u11a8",
]


def vocabulary():
    """Words, and every character that cleaning can leave of the texts, on its own and as a continuation."""
    left = set()
    for text in TEXTS:
        for form in (text, text.lower(), unicodedata.normalize("NFD", text.lower())):
            left.update(c for c in form if unicodedata.category(c)[0] not in "CZ" or c == "\u2028")
    left -= {"\u2028"}
    words = "the man woman and in a recipe banana bread ##s ##ing ##en cafe naive pizza cook www ##ww".split()
    chars = sorted(left)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *chars, *("##" + c for c in chars)]
    return list(dict.fromkeys(tokens))


def main():
    VOCAB.write_text("".join(f"{token}\n" for token in vocabulary()), encoding="utf-8")
    files = {"small": MODELS / FOLDERS["bert"] / "vocab.txt", "letters": VOCAB}
    out = {"texts": TEXTS, "lengths": LENGTHS}
    for name, path in files.items():
        tokenizer = BertTokenizerFast.from_pretrained(path.parent) if name == "small" else None
        tokenizer = tokenizer or BertTokenizerFast(vocab=str(path))
        # The whole text and, since truncation only cuts at the end, how long it is at each length.
        whole = [tokenizer(text)["input_ids"] for text in TEXTS]
        cut = [[tokenizer(text, truncation=True, max_length=n)["input_ids"] for text in TEXTS] for n in LENGTHS]
        for n, rows in zip(LENGTHS, cut):
            for ids, row in zip(whole, rows):
                assert row == (ids if len(ids) <= n else ids[: n - 1] + ids[-1:]), (n, row)
        out[name] = whole
        unknown = sum(ids.count(tokenizer.unk_token_id) for ids in whole)
        print(f"{name}: {len(tokenizer)} pieces, {sum(map(len, whole))} ids, {unknown} unknown")
    text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in out.items())
    (HERE / "text.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
