"""Conversations as rows of token ids: what the trainer learns from and what the evaluator asks."""
import random
from dataclasses import dataclass

from tokenizers import Tokenizer

from dialogues import KINDS, Dialogue, render
from tokenizer import word_pieces

HARD, HARD_SKILLS = 2.5, {"add", "subtract", "multiply", "compare", "count", "tell", "recall all"}


@dataclass
class Row:
    dialogue: Dialogue
    ids: list[int]
    weights: list[float]            # what the loss counts: 1 or more for what the assistant says, less for the user
    replies: list[tuple[int, int]]  # where each reply begins and ends in ids, the end of turn included


class Rows:
    """An endless seeded source of conversations of a given length in tokens."""

    def __init__(self, tokenizer: Tokenizer, seed: int, held_out: bool = False):
        self.tokenizer, self.rng, self.pieces, self.held_out = tokenizer, random.Random(seed), word_pieces(tokenizer), held_out

    def append(self, row: Row, first_turn: int, user_weight: float) -> None:
        """Encodes what was said since `first_turn`."""
        pieces = render(row.dialogue)
        if first_turn:
            pieces = pieces[-3 * (len(row.dialogue.turns) - first_turn):]
        skills = iter(turn.skill.split(" to ")[0] for turn in row.dialogue.turns[first_turn:])
        for (_, reply), encoding in zip(pieces, self.tokenizer.encode_batch_fast([text for text, _ in pieces], add_special_tokens=False)):
            if reply:
                row.replies.append((len(row.ids), len(row.ids) + len(encoding.ids)))
            row.ids += encoding.ids
            row.weights += [(HARD if next(skills) in HARD_SKILLS else 1.0) if reply else user_weight] * len(encoding.ids)

    def row(self, length: int, user_weight: float = 0.0) -> Row:
        """One conversation of at least length + 1 tokens; nearly half tell early and ask at the very end."""
        rng, done = self.rng, 0
        dialogue = Dialogue(rng, held_out=self.held_out, pieces=self.pieces)
        row, far = Row(dialogue, [], [], []), rng.random() < 0.45
        while len(row.ids) < length + 1:
            share, tells, asks = len(row.ids) / length, 0.16, 0.30
            if far and not dialogue.turns:
                dialogue.tell_turn(rng.sample(KINDS, rng.choice([1, 2])))
                if rng.random() < 0.5:
                    dialogue.tell_turn([rng.choice(KINDS)])
            elif far:
                tells, asks = (0.5, 0.0) if share < 0.15 else (0.02, 0.0) if share < 0.7 and rng.random() < 0.97 else (0.05, 0.65)
            dialogue.next_turn(tells, asks)
            self.append(row, done, user_weight)
            done = len(dialogue.turns)
        return row
