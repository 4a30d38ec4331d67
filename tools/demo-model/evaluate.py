"""Measures an exported demo model on held-out conversations, by skill, kind of fact and distance; or plays a script.

    python evaluate.py --model models/demo --conversations 120
    python evaluate.py --model models/demo --play newcomers.txt

A reply is right when greedy decoding gives it exactly. Given the right history that is the same as: every token of it is
the likeliest one after the tokens before it, so that one forward pass judges a whole conversation. `--chats` replays
conversations of ten turns token by token on the model's own replies.
"""
import argparse
import pathlib
import random

import torch
from tokenizers import Tokenizer

from dialogues import Dialogue, Turn
from export import load
from rows import Rows
from tokenizer import word_pieces

HELD_OUT_SEED = 20_000_003
END = 2


class Cache:
    """Keys and values of one conversation, by layer."""

    def __init__(self):
        self.kept, self.length = {}, 0

    def append(self, layer, k, v):
        if layer in self.kept:
            k, v = torch.cat([self.kept[layer][0], k], 2), torch.cat([self.kept[layer][1], v], 2)
        self.kept[layer] = (k, v)
        return k, v


class Chat:
    """One conversation by greedy decoding, on the model's own replies."""

    def __init__(self, model, tokenizer, system: str = ""):
        self.model, self.tokenizer, self.cache = model, tokenizer, Cache()
        self.pending = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""

    def feed(self, ids: list[int]) -> torch.Tensor:
        past, new = self.cache.length, len(ids)
        mask = torch.ones(new, past + new, dtype=torch.bool).tril(past)
        positions = torch.arange(past, past + new)[None]
        logits = self.model(torch.tensor([ids]), positions=positions, cache=self.cache, mask=mask)
        self.cache.length += new
        return logits[0, -1]

    @torch.no_grad()
    def say(self, text: str, limit: int = 200) -> str:
        prompt = self.pending + f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        logits, out = self.feed(self.tokenizer.encode(prompt, add_special_tokens=False).ids), []
        while len(out) < limit and (token := int(logits.argmax())) != END:
            out.append(token)
            logits = self.feed([token])
        self.pending = "<|im_end|>\n"
        return self.tokenizer.decode(out)


def bucket(value: int, edges: list[int]) -> str:
    low = max(e for e in edges if e <= value)
    above = [e for e in edges if e > value]
    return f"{low:>5} to {above[0] - 1}" if above else f"{low:>5} or more"


class Tally(dict):
    def count(self, group: str, key: str, right: bool) -> None:
        entry = self.setdefault(group, {}).setdefault(key, [0, 0])
        entry[0] += right
        entry[1] += 1

    def show(self) -> None:
        for group, entries in self.items():
            print(f"\n| {group} | right | of | share |\n|---|---:|---:|---:|")
            for key, (right, of) in sorted(entries.items()):
                print(f"| {key} | {right} | {of} | {right / of:.3f} |")


def judge(tally: Tally, turn: Turn, index: int, tokens_since: int, right: bool) -> None:
    tally.count("skill", turn.skill, right)
    if turn.skill in ("tell", "update"):
        tally.count("echo of a fact", f"{turn.kind}, {'made-up' if turn.rare else 'known'}", right)
    if turn.skill == "recall":
        tally.count("recall by kind", f"{turn.kind}, {'made-up' if turn.rare else 'known'}", right)
        tally.count("recall by tokens since the last mention", bucket(tokens_since, [0, 50, 200, 500, 1000]), right)
        tally.count("recall by turns since the last mention", bucket(index - turn.told_at, [0, 2, 6, 12, 24]), right)
    if turn.skill == "not told":
        tally.count("not told by kind", turn.kind, right)


@torch.no_grad()
def measure(model, tokenizer, conversations: int, length: int, show_wrong: int) -> Tally:
    source, tally, wrong = Rows(tokenizer, HELD_OUT_SEED, held_out=True), Tally(), []
    for _ in range(conversations):
        row = source.row(length)
        ids = row.ids[:length]
        likeliest = model(torch.tensor([ids]))[0].argmax(-1).tolist()
        for index, (turn, (begin, end)) in enumerate(zip(row.dialogue.turns, row.replies)):
            if end > len(ids):
                break
            right = likeliest[begin - 1:end - 1] == ids[begin:end]
            judge(tally, turn, index, begin - row.replies[max(turn.told_at, 0)][0], right)
            if not right:
                said = tokenizer.decode(likeliest[begin - 1:end - 1])
                wrong.append(f"[{turn.skill} {turn.kind}] {turn.user!r}\n    expected {turn.reply!r}\n    said     {said!r}")
    for text in random.Random(1).sample(wrong, min(show_wrong, len(wrong))):
        print(text)
    return tally


def ten_turns(model, tokenizer, chats: int) -> None:
    """Tell two facts, do six other things, ask for both: all on the model's own replies."""
    rng, pieces, tally = random.Random(HELD_OUT_SEED + 1), word_pieces(tokenizer), Tally()
    for _ in range(chats):
        dialogue = Dialogue(rng, held_out=True, pieces=pieces, rare_share=0.3)
        kinds = rng.sample(["name", "colour", "number", "city", "food", "pet", "friend", "age"], 2)
        for kind in kinds:
            dialogue.tell_turn([kind])
        for _ in range(6):
            dialogue.next_turn(0, 0)
        for kind in kinds:
            dialogue.ask_turn(kind)
        chat = Chat(model, tokenizer, dialogue.system)
        rights = [chat.say(turn.user) == turn.reply for turn in dialogue.turns]
        tally.count("ten-turn chats on its own history", "every reply right", all(rights))
        tally.count("ten-turn chats on its own history", "both recalls right", all(rights[-2:]))
    tally.show()


def play(model, tokenizer, path: pathlib.Path) -> None:
    """A file of conversations: one message a line, a blank line between conversations, `system:` for a system message."""
    for block in path.read_text().strip().split("\n\n"):
        lines = block.split("\n")
        system = lines.pop(0).removeprefix("system:").strip() if lines[0].startswith("system:") else ""
        chat = Chat(model, tokenizer, system)
        print("---" + (f" system: {system}" if system else ""))
        for line in lines:
            print(f"> {line}\n  {chat.say(line)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/demo"))
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--length", type=int, default=1536)
    parser.add_argument("--chats", type=int, default=0)
    parser.add_argument("--wrong", type=int, default=0, help="show this many wrong replies")
    parser.add_argument("--play", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load(arguments.model), Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    if arguments.play:
        play(model, tokenizer, arguments.play)
        return
    measure(model, tokenizer, arguments.conversations, arguments.length, arguments.wrong).show()
    if arguments.chats:
        ten_turns(model, tokenizer, arguments.chats)


if __name__ == "__main__":
    main()
