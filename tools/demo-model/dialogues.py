"""A seeded generator of synthetic conversations for the demo model.

`Dialogue(rng, ...)` is one conversation. `next_turn()` appends one turn: what the user types and the one reply that is
right at that point (the reply is a function of the conversation so far, so greedy decoding can be exact). Facts that the
user tells live in `facts`; skills that need no memory live in skills.py.
"""
import random
import zlib
from dataclasses import dataclass, field

import words as w
from skills import SKILLS, SKILL_WEIGHTS, fallback, tale

KINDS = ["name", "colour", "number", "age", "city", "food", "pet", "friend"]
ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t th tr v w x y z".split()
VOWELS = "a e i o u ai ea ee ia io oo".split()
CODAS = ["", "", "", "n", "r", "l", "s", "m", "x", "k", "th", "nd", "v"]


@dataclass
class Turn:
    user: str
    reply: str
    skill: str                      # what the evaluator groups by
    kind: str = ""                  # the kind of fact, for recall
    told_at: int = -1               # index of the turn that last mentioned the fact's value, for recall
    rare: bool = False              # the value is made up (not in a word list)


@dataclass
class Fact:
    value: tuple                    # (text,) or for a pet (kind, name), or for a number (adjective, digits)
    mentioned_at: int
    rare: bool


def is_held_out(text: str) -> bool:
    """A tenth of all made-up words never occurs in training."""
    return zlib.crc32(text.lower().encode()) % 10 == 0


def made_up_word(rng: random.Random, held_out: bool, pieces: list[str]) -> str:
    """A word nobody has seen: syllables, or random pieces of the vocabulary put together."""
    while True:
        if pieces and rng.random() < 0.45:
            word = "".join(rng.choice(pieces) for _ in range(rng.choice([1, 2, 2, 3])))[:14]
        else:
            count = rng.choice([1, 2, 2, 2, 3])
            word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS if i == count - 1 else [""])
                           for i in range(count))
        if len(word) > 1 and is_held_out(word) == held_out:
            return word


def casual(rng: random.Random, text: str, keep_case: bool = False) -> str:
    """What people type: lower case, no punctuation, no apostrophes."""
    if not keep_case and rng.random() < 0.35:
        text = text.lower()
    elif not keep_case and rng.random() < 0.3:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.35:
        text = text.rstrip(".?!")
    if rng.random() < 0.12:
        text = text.replace("'", "")
    if rng.random() < 0.04:
        text = text + " "
    return text


def is_american(text: str) -> bool:
    return "color" in text.lower() or "favorite" in text.lower()


def spell(text: str, american: bool) -> str:
    return text.replace("favourite", "favorite").replace("colour", "color") if american else text


# What the user says to tell a fact; {v} is the value, {k} the pet, {adj} favourite or lucky.
TELL = {
    "name": ["My name is {v}.", "I'm {v}.", "I am {v}.", "Call me {v}.", "You can call me {v}.", "My name's {v}.", "It's {v}.", "The name is {v}.",
             "My friends call me {v}.", "I am called {v}.", "This is {v}.", "{v} is my name.", "{v} here.", "Please call me {v}.", "People call me {v}."],
    "colour": ["My favourite colour is {v}.", "I like {v} best.", "My favourite color is {v}.", "My favorite color is {v}.", "{v} is my favourite colour.",
               "I love the colour {v}.", "The colour I like most is {v}.", "{v} is my favorite color.", "I really like the color {v}."],
    "number": ["My {adj} number is {v}.", "{v} is my {adj} number.", "Remember the number {v}.", "My number is {v}.", "Please remember the number {v}.",
               "Keep the number {v} in mind.", "The number is {v}."],
    "age": ["I am {v} years old.", "I'm {v} years old.", "I am {v}.", "My age is {v}.", "I'm {v}.", "I turned {v} this year."],
    "city": ["I live in {v}.", "I'm from {v}.", "I am from {v}.", "My home is in {v}.", "My city is {v}.", "My home town is {v}.", "I come from {v}.", "I live in {v} now."],
    "food": ["My favourite food is {v}.", "I love to eat {v}.", "I like to eat {v}.", "My favorite food is {v}.", "{v} is my favourite food.", "The food I like most is {v}.",
             "I love eating {v}."],
    "pet": ["I have a {k} called {v}.", "My {k} is called {v}.", "My {k}'s name is {v}.", "I have a {k} named {v}.", "I have a {k}. Its name is {v}.", "My {k} is named {v}.",
            "We have a {k} called {v}.", "The name of my {k} is {v}."],
    "friend": ["My best friend is {v}.", "My best friend is called {v}.", "{v} is my best friend.", "My best friend's name is {v}.", "I have a friend called {v}.",
               "My friend is called {v}.", "My friend's name is {v}."],
}
UPDATE_PREFIX = ["Actually, ", "No, ", "Sorry, ", "I changed my mind: ", "Correction: ", "Wait, ", "Please update: ", "Oh, ", "I was wrong. ", "", "", "Now "]
ASK = {
    "name": ["What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Can you tell me my name?", "Do you know my name?", "Tell me my name.",
             "What am I called?", "What did I say my name was?", "How am I called?", "Say my name.", "My name?", "Do you still remember my name?", "Do you know who I am?",
             "Remind me of my name."],
    "colour": ["What is my favourite colour?", "What's my favourite colour?", "What is my favorite color?", "What's my favorite color?", "Which colour do I like best?",
               "Do you remember my favorite color?", "Do you remember my favourite colour?", "Which color do I like most?", "Tell me my favourite colour.", "My favourite colour?",
               "What colour do I like?", "Do you know my favourite colour?", "What did I say my favorite color was?"],
    "number": ["What is my {adj} number?", "What's my {adj} number?", "What is my number?", "What number did I tell you?", "Do you remember my {adj} number?", "Do you remember my number?",
               "Which number did I ask you to remember?", "Tell me my number.", "Do you know my {adj} number?", "What was the number?", "What number did I say?"],
    "age": ["How old am I?", "What is my age?", "What's my age?", "Do you remember my age?", "Do you know how old I am?", "Do you remember how old I am?", "Tell me my age."],
    "city": ["Where do I live?", "Where am I from?", "Which city do I live in?", "What city am I from?", "Do you remember where I live?", "What is my city?", "Do you know where I live?",
             "What is my home town?", "In which city do I live?", "Tell me where I live.", "Do you remember where I am from?"],
    "food": ["What is my favourite food?", "What's my favourite food?", "What is my favorite food?", "What's my favorite food?", "What do I like to eat?", "Do you remember my favourite food?",
             "Which food do I like best?", "What food do I love?", "Do you remember my favorite food?", "What do I love to eat?"],
    "pet": ["What is my {k} called?", "What is the name of my {k}?", "What's my {k}'s name?", "Do you remember my {k}?", "What is my pet called?", "What is the name of my pet?",
            "What's my pet's name?", "Do you remember the name of my {k}?", "What is my {k}'s name?", "Do you remember my pet's name?", "Who is my {k}?"],
    "friend": ["Who is my best friend?", "What is my best friend's name?", "What's the name of my best friend?", "Who is my friend?", "What is my friend called?",
               "Do you remember my best friend?", "What is my friend's name?", "Who's my best friend?", "Do you remember the name of my friend?"],
}
LEAD = ["Nice", "Lovely!", "Got it!", "Got it!", "How nice!", "Yum!", "How sweet!", "Lovely!"]
UNKNOWN = {"name": "your name", "colour": "your favourite colour", "number": "your number", "age": "how old you are", "city": "where you live", "food": "your favourite food",
           "pet": "about your pet", "friend": "who your best friend is"}
ASK_ALL = ["What do you know about me?", "What do you remember about me?", "Tell me everything you know about me.", "What have I told you?", "What did I tell you about me?",
           "What did I tell you so far?", "What do you know about me so far?"]
ASK_PREFIX = ["Hi, ", "Hello, ", "Hey, ", "So, ", "Okay, ", "And ", "By the way, ", "Now, ", "Please tell me: ", "Great. ", "Thanks! ", "Ok. ", "One more question: ", "Let me see. "]


def statement(kind: str, value: tuple, american: bool) -> str:
    """The fact in the second person, without a full stop."""
    v = value[-1]
    if kind == "number":
        return spell(f"your {value[0]} number is {v}" if value[0] else f"your number is {v}", american)
    return spell({"name": f"your name is {v}", "colour": f"your favourite colour is {v}", "age": f"you are {v} years old", "city": f"you live in {v}",
                  "food": f"your favourite food is {v}", "pet": f"your {value[0]} is called {v}", "friend": f"your best friend is {v}"}[kind], american)


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


@dataclass
class Dialogue:
    rng: random.Random
    held_out: bool = False                                  # take made-up words that training never shows
    pieces: list[str] = field(default_factory=list)         # pieces of the vocabulary, for made-up words
    rare_share: float = 0.35
    facts: dict[str, Fact] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    system: str = ""

    def __post_init__(self):
        rng = self.rng
        if rng.random() < 0.22:
            self.system = rng.choice(w.SYSTEM_PROMPTS)
            if rng.random() < 0.3:
                self.system += " " + rng.choice(w.SYSTEM_PROMPTS)
            if rng.random() < 0.12:
                self.system = " ".join(made_up_word(rng, self.held_out, self.pieces) for _ in range(rng.randint(3, 25)))
            if rng.random() < 0.1:
                value, rare, _ = self.draw("name")
                self.system += f" The name of the user is {value[0]}."
                self.facts["name"] = Fact(value, 0, rare)

    # Values -----------------------------------------------------------------------------------------------------------

    def word(self) -> str:
        return made_up_word(self.rng, self.held_out, self.pieces)

    def draw(self, kind: str) -> tuple[tuple, bool, str]:
        """A value, whether it is made up, and how the user types it (a known name may come in lower case)."""
        rng, rare = self.rng, self.rng.random() < self.rare_share
        if kind in ("name", "friend"):
            name = self.word().capitalize() if rare else rng.choice(w.NAMES)
            if rng.random() < 0.07:
                name += " " + (self.word().capitalize() if rare else rng.choice(w.SURNAMES))
            return (name,), rare, name
        if kind == "pet":
            name = self.word().capitalize() if rare else rng.choice(w.PET_NAMES + w.NAMES[::6])
            return (rng.choice(w.PET_KINDS), name), rare, name
        if kind == "city":
            name = self.word().capitalize() if rare else rng.choice(w.CITIES)
            return (name,), rare, name
        if kind == "number":
            digits = rng.choice([1, 2, 2, 2, 3, 3, 4])
            value = str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10 ** digits - 1))
            return (rng.choice(["favourite", "favourite", "lucky"]), value), False, value
        if kind == "age":
            value = str(rng.randint(4, 99))
            return (value,), False, value
        rare = rng.random() < self.rare_share / 2
        value = self.word() if rare else rng.choice(w.COLOURS if kind == "colour" else w.FOODS)
        return (value,), rare, value

    def tell(self, kind: str, form: str = "") -> tuple[str, str]:
        """A message that tells (or changes) one fact, without noise of typing, and the reply."""
        rng = self.rng
        old = self.facts.get(kind)
        while True:
            value, rare, typed = self.draw(kind)
            if old is None or old.value[-1] != value[-1]:
                break
        form = form or rng.choice(TELL[kind])
        if kind in ("food", "colour") and not rare and rng.random() < 0.12:
            form = rng.choice(["I like {v}.", "I love {v}.", "I like {v} a lot.", "I really like {v}."])
        if kind == "number" and "{adj}" not in form:
            value = ("", value[1])
        if kind == "pet" and old is not None and rng.random() < 0.7:
            value = (old.value[0], value[1])
        update = old is not None
        text = form.format(v=typed, k=value[0], adj=value[0])
        if rng.random() < 0.5:
            text = spell(text, is_american(text) or rng.random() < 0.3)
        if text[0].islower() and rng.random() < 0.6 and not (rare and text.startswith(typed)):
            text = text[0].upper() + text[1:]
        if rng.random() < 0.35:                     # lower case; a known value is written properly in the reply, a made-up one as typed
            text = text.lower()
            if rare:
                value = (*value[:-1], value[-1].lower())
        american = is_american(text)
        self.facts[kind] = Fact(value, len(self.turns), rare)
        said = statement(kind, value, american)
        if kind == "name":
            reply = f"Okay, I will call you {value[0]} from now on." if update else f"Nice to meet you, {value[0]}!"
        else:
            reply = f"Okay, I have updated it: {said}." if update else f"{LEAD[KINDS.index(kind)]} I will remember that {said}."
        if update:
            prefix = rng.choice(UPDATE_PREFIX)
            text = prefix + (text[0].lower() + text[1:] if prefix and not text.startswith(typed) and not text.startswith("I") else text)
        return text, reply

    # Turns ------------------------------------------------------------------------------------------------------------

    def add(self, user: str, reply: str, skill: str, keep_case: bool = False, **about) -> Turn:
        turn = Turn(casual(self.rng, user, keep_case), reply, skill, **about)
        self.turns.append(turn)
        return turn

    def tell_turn(self, kinds: list[str], form: str = "") -> Turn:
        parts = [(kind in self.facts, *self.tell(kind, form)) for kind in kinds]
        text = parts[0][1]
        for _, more, _ in parts[1:]:
            joint = self.rng.choice([" and ", ", and ", " ", " "])
            if joint.strip():
                text = text.rstrip(".") + joint + (more if more.startswith("I") or more[0].isupper() and not more.startswith(("My", "The", "You", "We", "Call")) else more[0].lower() + more[1:])
            else:
                text += joint + more
        if len(kinds) == 1 and self.rng.random() < 0.06:
            text += self.rng.choice([" Please remember it.", " Remember that.", " Don't forget it!"])
        if self.rng.random() < (0.5 if not self.turns else 0.1) and not form and not any(updated for updated, _, _ in parts):
            text = self.rng.choice(["Hi, ", "Hello, ", "Hi! ", "Hello! ", "Hey, ", "hi ", "hello ", "Hi there, ", "Good morning! "]) + text
        skill = "update" if any(updated for updated, _, _ in parts) else "tell"
        rare = any(self.facts[kind].rare for kind in kinds)
        return self.add(text, " ".join(reply for _, _, reply in parts), skill, keep_case=True, kind=kinds[0], rare=rare)

    def ask_turn(self, kind: str) -> Turn:
        rng, fact = self.rng, self.facts.get(kind)
        form = rng.choice(ASK[kind])
        pet = fact.value[0] if fact and kind == "pet" else rng.choice(w.PET_KINDS)
        adjective = fact.value[0] if fact and kind == "number" and fact.value[0] else rng.choice(["favourite", "lucky"])
        if kind == "number" and fact and not fact.value[0]:
            form = rng.choice([f for f in ASK[kind] if "{adj}" not in f])
        text = form.format(k=pet, adj=adjective)
        if rng.random() < 0.4:
            text = spell(text, is_american(text) or rng.random() < 0.3)
        american = is_american(text)
        if rng.random() < 0.18:
            prefix = rng.choice(ASK_PREFIX)
            text = prefix + text[0].lower() + text[1:]
        if fact is None:
            return self.add(text, spell(f"You have not told me {UNKNOWN[kind]} yet.", american), "not told", kind=kind)
        said = statement(kind, fact.value, american)
        reply = f"Yes, {said}." if "Do you" in form else sentence(said)
        turn = self.add(text, reply, "recall", kind=kind, told_at=fact.mentioned_at, rare=fact.rare)
        fact.mentioned_at = len(self.turns) - 1
        return turn

    def ask_all_turn(self) -> Turn:
        known = [(kind, self.facts[kind]) for kind in KINDS if kind in self.facts]
        reply = " ".join(sentence(statement(kind, fact.value, False)) for kind, fact in known) or "You have not told me anything about you yet."
        told = min((fact.mentioned_at for _, fact in known), default=-1)
        turn = self.add(self.rng.choice(ASK_ALL), reply, "recall all", told_at=told)
        for _, fact in known:
            fact.mentioned_at = len(self.turns) - 1
        return turn

    def skill_turn(self) -> Turn:
        rng = self.rng
        name = rng.choices(list(SKILL_WEIGHTS), list(SKILL_WEIGHTS.values()))[0]
        user, reply, skill = SKILLS[name](rng, self)
        if name not in ("greet", "repeat", "goodbye") and rng.random() < 0.07:
            user = rng.choice(ASK_PREFIX) + user[0].lower() + user[1:]
        turn = self.add(user, reply, skill, keep_case=name == "repeat")
        if name == "goodbye" and "name" in self.facts:
            turn.kind, turn.told_at, turn.rare = "name", self.facts["name"].mentioned_at, self.facts["name"].rare
            self.facts["name"].mentioned_at = len(self.turns) - 1
        return turn

    def two_things_turn(self) -> Turn:
        """One message that tells a fact and asks something else."""
        kind = self.rng.choice(KINDS)
        skill = "update" if kind in self.facts else "tell"
        text, reply = self.tell(kind)
        name = self.rng.choice(["add", "opposite", "days", "subtract", "compare", "count"])
        user, answer, _ = SKILLS[name](self.rng, self)
        return self.add(f"{text} {user}", f"{reply} {answer}", skill, keep_case=True, kind=kind, rare=self.facts[kind].rare)

    def fallback_turn(self) -> Turn:
        user, reply, skill = fallback(self.rng, self)
        return self.add(user, reply, skill)

    def answer_turn(self) -> Turn | None:
        """Often the user answers what the model has just asked."""
        rng, asked = self.rng, self.turns[-1].reply if self.turns else ""
        if asked.endswith("What is your name?") and rng.random() < 0.6:
            return self.tell_turn(["name"], rng.choice(["{v}", "{v}.", "{v}!", "I'm {v}.", "My name is {v}.", "It is {v}."]))
        if asked.endswith("What about you?") and rng.random() < 0.6:
            return self.tell_turn(["colour"], rng.choice(["{v}", "{v}.", "I like {v}.", "Mine is {v}.", "I prefer {v}."]))
        if asked.endswith("cheer you up?") and rng.random() < 0.4:
            return self.add(rng.choice(["Yes, please.", "Yes!", "Sure.", "Okay.", "Yes, tell me a story.", "Please!"]), tale("fox", True), "story")
        return None

    def next_turn(self, tells: float = 0.16, asks: float = 0.30) -> Turn:
        """One turn; `tells` and `asks` are the shares of turns about facts."""
        rng = self.rng
        draw = rng.random()
        if (answer := self.answer_turn()) is not None:
            return answer
        unknown = [kind for kind in KINDS if kind not in self.facts]
        if draw < tells:
            if rng.random() < 0.12:
                return self.two_things_turn()
            kinds = rng.sample(unknown, min(len(unknown), rng.choice([1, 1, 1, 2]))) if unknown and rng.random() < 0.75 else [rng.choice(KINDS)]
            if rng.random() < 0.25 and "name" in unknown and "name" not in kinds:
                kinds = ["name"] + kinds[1:]
            return self.tell_turn(kinds)
        if draw < tells + asks:
            if rng.random() < 0.03:
                return self.ask_all_turn()
            if not self.facts and rng.random() < 0.6:
                return self.tell_turn(["name"] if rng.random() < 0.4 else [rng.choice(KINDS)])
            if (rng.random() < 0.2 and unknown) or not self.facts:
                return self.ask_turn(rng.choice(unknown))
            return self.ask_turn(rng.choice(list(self.facts)))
        return self.skill_turn()


def messages(dialogue: Dialogue) -> list[dict]:
    out = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    for turn in dialogue.turns:
        out += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.reply}]
    return out


def render(dialogue: Dialogue) -> list[tuple[str, bool]]:
    """ChatML as (text, is it the assistant's) pieces; the special tokens are written out."""
    out = [(f"<|im_start|>system\n{dialogue.system}<|im_end|>\n", False)] if dialogue.system else []
    for turn in dialogue.turns:
        out.append((f"<|im_start|>user\n{turn.user}<|im_end|>\n<|im_start|>assistant\n", False))
        out.append((f"{turn.reply}<|im_end|>", True))
        out.append(("\n", False))
    return out
