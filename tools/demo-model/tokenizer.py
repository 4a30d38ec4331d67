"""Trains the tokenizer of the demo model and writes its files: byte-level BPE, one digit per token, ChatML.

    python tokenizer.py --out models/demo
"""
import argparse
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import words as w
from dialogues import Dialogue

VOCABULARY = 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
                 "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def corpus(seed: int = 7):
    rng = random.Random(seed)
    for _ in range(5000):
        dialogue = Dialogue(rng, rare_share=0.1)
        for _ in range(14):
            dialogue.next_turn()
        yield dialogue.system
        for turn in dialogue.turns:
            yield turn.user
            yield turn.reply
    for _ in range(90):
        for name in w.NAMES + w.CITIES + w.PET_NAMES:
            yield f"is {name}, {name}! {name}. {name.lower()}"
        for word in w.FOODS + w.COLOURS + list(w.OPPOSITE) + w.STORY_SUBJECTS + w.TOPICS:
            yield f"is {word}. {word}"


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def word_pieces(tokenizer: Tokenizer) -> list[str]:
    """The lower-case pieces of the vocabulary of two to five letters, to make up words of."""
    pieces = (token.lstrip("Ġ") for token in tokenizer.get_vocab())
    return sorted({p for p in pieces if 2 <= len(p) <= 5 and p.isascii() and p.isalpha() and p.islower()})


def write(tokenizer: Tokenizer, out: pathlib.Path, positions: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "additional_special_tokens": SPECIAL[1:], "clean_up_tokenization_spaces": False,
        "model_max_length": positions, "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {str(i): {"content": t, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
                                 for i, t in enumerate(SPECIAL)}}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("models/demo"))
    parser.add_argument("--positions", type=int, default=1536)
    arguments = parser.parse_args()
    tokenizer = train()
    for text in ["Hi!", "naïve Zoë 你好 🦊 \t\r\n  x", "\x00\x7f ÿ", "3 + 45=48", "print('a  b')"]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text, text
    write(tokenizer, arguments.out, arguments.positions)
    lengths = [len(tokenizer.encode(" " + n).ids) for n in w.NAMES]
    lower = [len(tokenizer.encode(" " + n.lower()).ids) for n in w.NAMES]
    print(f"vocabulary {tokenizer.get_vocab_size()}, names of one token {lengths.count(1)}, two {lengths.count(2)}, more {len([x for x in lengths if x > 2])}; "
          f"in lower case {lower.count(1)}, {lower.count(2)}, {len([x for x in lower if x > 2])}")


if __name__ == "__main__":
    main()
