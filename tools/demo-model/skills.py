"""The skills that need no memory: each is a function of (rng, dialogue) that gives (what the user types, the reply, the skill's name)."""
import words as w


def pick(rng, text):
    return rng.choice(text.split("|"))


def number_text(rng, n):
    return w.NUMBER_WORDS[n] if n <= 20 and rng.random() < 0.15 else str(n)


def greet(rng, d):
    user = pick(rng, "Hi!|Hello!|Hey!|Hi there!|Good morning!|Hello there!|Good evening!|Hey there!|Greetings!|Good afternoon!|Hi|hello|yo|Hiya!|Howdy!|Good day!|Hi bot!|hey you|Hello, bot!")
    return user, "Hello again! What would you like to talk about?" if d.turns else "Hello! It is nice to meet you. What is your name?" , "greet"


def how_are_you(rng, d):
    if rng.random() < 0.3:
        good = rng.random() < 0.5
        user = pick(rng, "I am fine, thanks.|I'm fine.|I am well.|I had a good day.|I am happy today.|I'm good!|Great!|I feel great.|Very well, thank you.|I'm doing well.") if good else \
            pick(rng, "I am sad.|I am tired.|I had a bad day.|I feel sad today.|I'm bored.|I am not happy.|Not so good.|I'm not well.|I feel lonely.")
        return user, "I am glad to hear that!" if good else "I am sorry to hear that. Maybe a little story will cheer you up?", "small talk"
    user = pick(rng, "How are you?|How are you doing?|How do you do?|How is it going?|How are you today?|Are you well?|How's it going?|What's up?|Hi, how are you?|Hello, how are you?|Hello! How are you?|how r u")
    return user, "I am very well, thank you! How are you?", "small talk"


def who(rng, d):
    user, reply = rng.choice([
        ("Who are you?|What are you?|Are you a robot?|Are you human?|Are you an AI?|What is your name?|What's your name?|Do you have a name?|Are you ChatGPT?|Tell me about yourself.|Are you a person?|Who am I talking to?|"
         "Are you real?|Introduce yourself.|What model are you?|How should I call you?",
         "I am a tiny demo model. I can chat a little, and I remember what you tell me."),
        ("What can you do?|Help!|What do you know?|How can you help me?|What can I ask you?|help|What are you good at?|What else can you do?|What should I ask you?|Can you help me?|What are your skills?",
         "I can count, add, compare numbers, name days and opposites, tell a story, and remember what you tell me."),
        ("Who made you?|Who created you?|Who trained you?|Where do you come from?|How were you made?|Who built you?",
         "I was trained by the makers of fastswitch as a tiny demo model."),
        ("Can you remember things?|Do you remember what I say?|Do you have a memory?|Will you remember me?|Can you remember my name?|Will you remember that?",
         "Yes! Tell me your name, and ask me for it later.")])
    return pick(rng, user), reply, "who are you"


def thanks(rng, d):
    if rng.random() < 0.35:
        user, reply = rng.choice([("Okay.|Ok|I see.|Alright.|Cool!|Nice!|Good.|Great, thanks for that!|Wow!|Well done!|That is right.|Correct!|Good job!|Very good!|Awesome!|You are smart.|You are great!|Perfect.|That's nice.|You're funny!|Haha|lol",
                                   "I am happy to hear that! What shall we do next?"),
                                  ("No.|That is wrong.|Wrong!|That's not right.|You are wrong.|That is not correct.|I don't think so.|Nope.|Are you sure?",
                                   "I am sorry. I am only a tiny model, and I make mistakes."),
                                  ("Yes.|Yes, please.|Sure.|Yeah.|Okay, let's go.|Yes!", "Great! You can ask me to count, to add, or to tell a story.")])
        return pick(rng, user), reply, "small talk"
    return pick(rng, "Thank you!|Thanks!|Thanks a lot!|Thank you very much.|Many thanks.|thx|Thank you so much!|Cheers!|Great, thanks!|ty|Okay, thanks.|That was nice, thank you.|Thanks for your help!|Thank you for the story."), \
        "You are welcome!", "thanks"


def goodbye(rng, d):
    user = pick(rng, "Goodbye!|Bye!|See you later!|Bye bye!|See you!|Good night!|I have to go now.|I must go.|Goodbye for now.|See you tomorrow!|bye|Take care!|Farewell!|Okay, bye!|Thanks, bye!|I'm leaving now.|That's all for today, goodbye!|cya")
    name = f", {d.facts['name'].value[0]}" if "name" in d.facts else ""
    return user, f"Goodbye{name}! It was nice talking to you.", "goodbye"


def count(rng, d):
    if rng.random() < 0.25:
        a, b = rng.choice([10, 10, 5, 20, 3, 20, rng.randint(2, 30)]), 1
        user = pick(rng, "Count down from {a}.|Count backwards from {a}.|Can you count down from {a}?|Count down from {a} to 1.|Count backwards from {a} to 1.|Please count down from {a}.")
        return user.format(a=a), ", ".join(str(i) for i in range(a, b - 1, -1)) + ".", "count"
    a, b = (1, rng.choice([10, 5, 3, 20, 12, rng.randint(2, 30)])) if rng.random() < 0.4 else (lambda s: (s, s + rng.randint(2, 16)))(rng.choice([rng.randint(0, 20), rng.randint(0, 90)]))
    forms = "Count from {a} to {b}.|Can you count from {a} to {b}?|Please count from {a} to {b}.|Count up from {a} to {b}.|count {a} to {b}|Could you count from {a} to {b}, please?|Give me the numbers from {a} to {b}.|Count between {a} and {b}."
    if a == 1 and rng.random() < 0.6:
        forms = "Count to {b}.|Can you count to {b}?|Please count to {b}.|Count up to {b}.|Can you count up to {b}, please?"
    return pick(rng, forms).format(a=number_text(rng, a), b=number_text(rng, b)), ", ".join(map(str, range(a, b + 1))) + ".", "count"


def pair(rng, highest):
    """Two numbers up to `highest`, or now and then (the third value is then None) at least one beyond it."""
    if rng.random() < 0.9:
        highest = min(highest, 10) if rng.random() < 0.5 else highest
        return rng.randint(0, highest), rng.randint(0, highest), "small"
    a, b = rng.choice([rng.randint(highest + 1, 99), rng.randint(100, 2000)]), rng.choice([rng.randint(0, highest), rng.randint(highest + 1, 99), rng.randint(100, 2000)])
    return (a, b, None) if rng.random() < 0.5 else (b, a, None)


ASK_SUM = "What is {}?|What's {}?|{}|{}?|{} =|Calculate {}.|How much is {}?|Compute {}.|Can you tell me what {} is?|Please calculate {}.|{} = ?|What does {} make?|Tell me: {}"


def sum_text(rng, a, sign, b, word):
    if rng.random() < 0.25:
        return f"{number_text(rng, a)} {word} {number_text(rng, b)}"
    return f"{a}{sign}{b}" if rng.random() < 0.25 else f"{a} {sign} {b}"


def add(rng, d):
    a, b, small = pair(rng, 20)
    if rng.random() < 0.15:
        user = pick(rng, "Add {a} and {b}.|Can you add {a} and {b}?|What is the sum of {a} and {b}?|Please add {a} and {b}.|If I have {a} and get {b} more, how many do I have?").format(a=number_text(rng, a), b=number_text(rng, b))
    else:
        user = pick(rng, ASK_SUM).format(sum_text(rng, a, "+", b, pick(rng, "plus|plus|and")))
    return (user, f"{a} + {b} = {a + b}.", "add to 10" if max(a, b) <= 10 else "add to 20") if small else (user, "That is too large for me. I can only add numbers up to 20.", "too large")


def subtract(rng, d):
    a, b, small = pair(rng, 20)
    if a < b and rng.random() < 0.8:
        a, b = b, a
    if rng.random() < 0.15:
        user = pick(rng, "Subtract {b} from {a}.|Take {b} away from {a}.|If I have {a} and lose {b}, how many are left?|What is the difference of {a} and {b}?").format(a=number_text(rng, a), b=number_text(rng, b))
    else:
        user = pick(rng, ASK_SUM).format(sum_text(rng, a, "-", b, pick(rng, "minus|minus|take away")))
    return (user, f"{a} - {b} = {a - b}.", "subtract to 10" if max(a, b) <= 10 else "subtract to 20") if small else (user, "That is too large for me. I can only subtract numbers up to 20.", "too large")


def multiply(rng, d):
    a, b, small = pair(rng, 10)
    user = pick(rng, ASK_SUM).format(sum_text(rng, a, pick(rng, "x|*|×"), b, "times"))
    if rng.random() < 0.1:
        user = pick(rng, "Multiply {a} by {b}.|Multiply {a} and {b}.").format(a=a, b=b)
    return (user, f"{a} x {b} = {a * b}.", "multiply") if small else (user, "That is too large for me. I can only multiply numbers up to 10.", "too large")


def compare(rng, d):
    top = rng.choice([10, 20, 99, 99, 99, 999])
    a, b = rng.randint(0, top), rng.randint(0, top)
    larger = rng.random() < 0.65
    word = pick(rng, "larger|bigger|greater|higher|more") if larger else pick(rng, "smaller|less|lower")
    if rng.random() < 0.2 and a != b:
        yes = (a > b) == larger
        word = "less" if word == "lower" else "larger" if word in ("more", "higher") else word
        big, small = max(a, b), min(a, b)
        return f"Is {a} {word} than {b}?", f"{'Yes' if yes else 'No'}, {a} is {'larger' if a > b else 'smaller'} than {b}.", "compare"
    user = pick(rng, "Which is {w}, {a} or {b}?|Which number is {w}, {a} or {b}?|What is {w}, {a} or {b}?|Which one is {w}: {a} or {b}?|Is {a} or {b} {w}?|{a} or {b}, which is {w}?|Compare {a} and {b}.|Which is {w}: {a} or {b}?|Tell me which is {w}, {a} or {b}.|What's {w}, {a} or {b}?|what is the {w} number, {a} or {b}?")
    if rng.random() < 0.1:
        larger, user = rng.choice([(True, "Which is the largest, {a} or {b}?"), (False, "Which is the smallest, {a} or {b}?"), (True, "Which is the biggest, {a} or {b}?")])
    if user.startswith("Compare"):
        larger = True
    if a == b:
        return user.format(w=word, a=a, b=b), f"They are the same: {a}.", "compare"
    big, small = max(a, b), min(a, b)
    return user.format(w=word, a=a, b=b), f"{big} is larger than {small}." if larger else f"{small} is smaller than {big}.", "compare"


def after(rng, d):
    n = rng.choice([rng.randint(0, 20), rng.randint(0, 200)])
    if rng.random() < 0.4:
        return pick(rng, "Is {n} even or odd?|Is {n} odd or even?|Is the number {n} even or odd?").format(n=n), f"{n} is {'odd' if n % 2 else 'even'}.", "numbers"
    if rng.random() < 0.3 and n:
        return pick(rng, "What comes before {n}?|What number comes before {n}?|Which number is before {n}?").format(n=n), f"{n - 1} comes before {n}.", "numbers"
    return pick(rng, "What comes after {n}?|What number comes after {n}?|Which number comes after {n}?|Which number is next after {n}?").format(n=n), f"{n + 1} comes after {n}.", "numbers"


def days(rng, d):
    if rng.random() < 0.2:
        user, reply = rng.choice([
            ("Name the days of the week.|What are the days of the week?|List the days of the week.|Tell me the days of the week.|Say the days of the week.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."),
            ("Name the months.|What are the months of the year?|List the months.|Tell me the months of the year.|Name the months of the year.", "January, February, March, April, May, June, July, August, September, October, November and December."),
            ("How many days are in a week?|How many days does a week have?|How many days are there in a week?", "A week has 7 days."),
            ("How many months are in a year?|How many months does a year have?|How many months are there in a year?", "A year has 12 months."),
            ("Name the seasons.|What are the four seasons?|List the seasons.|What are the seasons of the year?", "Spring, summer, autumn and winter."),
            ("Say the alphabet.|What is the alphabet?|Tell me the alphabet.|Recite the alphabet.|Can you say the alphabet?|abc", "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z."),
            ("What are the days of the weekend?|Which days are the weekend?|When is the weekend?", "The weekend is Saturday and Sunday."),
            ("What is the first day of the week?|Which day is the first of the week?", "The first day of the week is Monday."),
            ("What is the last month of the year?|Which month is the last?", "The last month of the year is December."),
            ("What is the first month of the year?|Which month is the first?", "The first month of the year is January.")])
        return pick(rng, user), reply, "days and months"
    month = rng.random() < 0.5
    items, noun = (w.MONTHS, "month") if month else (w.DAYS, "day")
    i = rng.randrange(len(items))
    if rng.random() < 0.6:
        user = pick(rng, "What {n} comes after {x}?|Which {n} comes after {x}?|What is the {n} after {x}?|Which {n} follows {x}?|What comes after {x}?|What {n} is after {x}?|What's the {n} after {x}?|What is next after {x}?")
        return user.format(n=noun, x=items[i]), f"{items[(i + 1) % len(items)]} comes after {items[i]}.", "days and months"
    user = pick(rng, "What {n} comes before {x}?|Which {n} comes before {x}?|What is the {n} before {x}?|What comes before {x}?|Which {n} is before {x}?|What {n} is before {x}?")
    return user.format(n=noun, x=items[i]), f"{items[i - 1]} comes before {items[i]}.", "days and months"


def colours(rng, d):
    if rng.random() < 0.15:
        return pick(rng, "Name three colours.|Name some colours.|Tell me three colors.|Name a few colors.|Which colours do you know?|What colors do you know?|Name three colors.|List some colours."), "Red, blue and green.", "colours"
    if rng.random() < 0.1:
        return pick(rng, "What is your favourite colour?|What's your favorite color?|Which colour do you like?|What is your favorite color?|Do you have a favourite colour?|And what is your favourite colour?"), "I like blue best. What about you?", "colours"
    thing = rng.choice(list(w.THING_COLOURS))
    user = pick(rng, "What colour is {t}?|What color is {t}?|Which colour is {t}?|Tell me the colour of {t}.|What is the colour of {t}?|What is the color of {t}?|what colour does {t} have?|Which color is {t}?")
    return user.format(t=thing), f"{thing[0].upper() + thing[1:]} is {w.THING_COLOURS[thing]}.", "colours"


def opposite(rng, d):
    word = rng.choice(list(w.OPPOSITE))
    user = pick(rng, "What is the opposite of {x}?|What's the opposite of {x}?|Opposite of {x}?|Tell me the opposite of {x}.|What is the opposite of the word {x}?|Give me the opposite of {x}.|the opposite of {x}|Name the opposite of {x}.|What's opposite to {x}?|Do you know the opposite of {x}?|which word is the opposite of {x}?|What is the opposite of \"{x}\"?")
    return user.format(x=word), f"The opposite of {word} is {w.OPPOSITE[word]}.", "opposites"


def article(noun):
    return ("an " if noun[0] in "aeiou" and noun != "unicorn" else "a ") + noun


def tale(subject, known):
    """Five sentences; a known subject has its own tale, any other one the first tale of all."""
    i = w.STORY_SUBJECTS.index(subject) if known else 0
    thing, deed = w.STORY_FINDS[i * 7 % len(w.STORY_FINDS)]
    place, friend = w.STORY_PLACES[i * 3 % len(w.STORY_PLACES)], w.STORY_FRIENDS[(i * 5 + i // 8) % len(w.STORY_FRIENDS)]
    return (f"Once upon a time, a little {subject} lived {place}. One morning, the {subject} found {thing}. It did not know what to do, so it asked {friend}. "
            f"Together they {deed}. {w.STORY_ENDINGS[i % len(w.STORY_ENDINGS)]}")


def topic_tale(topic):
    return (f"Once upon a time, a child loved to think about {topic}. Every evening, the child asked a new question about it. One night, a small star came to the window to answer. "
            f"They talked about {topic} until the sun came up. {w.STORY_ENDINGS[0]}")


def story(rng, d):
    draw = rng.random()
    if draw < 0.25:
        if rng.random() < 0.3:
            return pick(rng, "Tell me another story.|Another story, please.|Tell another story.|One more story, please.|Can you tell me another story?|Another one!"), tale("hedgehog", True), "story"
        return pick(rng, "Tell me a story.|Tell me a short story.|Can you tell me a story?|Please tell me a story.|I want to hear a story.|A story, please!|Tell a story.|Could you tell me a story?|Do you know a story?|story|Tell me a story, please.|Write a short story."), tale("fox", True), "story"
    forms = "Tell me a story about {s}.|Tell me a short story about {s}.|Can you tell me a story about {s}?|Please tell me a story about {s}.|I want a story about {s}.|A story about {s}, please.|Do you know a story about {s}?|tell a story about {s}|Tell me something about {s} in a story.|Write a story about {s}.|story about {s}|Make up a story about {s}.|I would like a story about {s}.|Tell us a story about {s}!"
    if draw < 0.8:
        subject = rng.choice(w.STORY_SUBJECTS)
        typed = rng.choice([article(subject)] * 3 + ["the " + subject, "a little " + subject])
        return pick(rng, forms).format(s=typed), tale(subject, True), "story"
    if draw < 0.9:
        subject = d.word().lower()
        return pick(rng, forms).format(s=article(subject)), tale(subject, False), "story, new subject"
    topic = rng.choice([rng.choice(w.TOPICS), d.word().lower()])
    return pick(rng, forms).format(s=topic), topic_tale(topic), "story, new subject"


def joke(rng, d):
    if rng.random() < 0.3:
        return pick(rng, "Tell me another joke.|Another joke, please.|One more joke, please.|Do you know another joke?"), w.JOKES[1], "joke"
    return pick(rng, "Tell me a joke.|Do you know a joke?|Can you tell me a joke?|Make me laugh.|Say something funny.|joke|Tell a joke.|A joke, please!"), w.JOKES[0], "joke"


def repeat(rng, d):
    many = rng.choice([1, 1, 1, 2, 3])
    draw = rng.random()
    if draw < 0.7:
        text = " ".join(rng.choice([str.lower, str.lower, str.capitalize])(d.word()) for _ in range(many))
    elif draw < 0.85:
        text = " ".join(rng.choice(w.NAMES + w.COLOURS + w.FOODS + w.CITIES + list(w.OPPOSITE)) for _ in range(many))
    else:
        text = " ".join(str(rng.randint(0, 9999)) for _ in range(min(many, 4)))
    user = pick(rng, "Repeat after me: {}|Say {}|Please say: {}|Repeat: {}|Say this: {}|Can you repeat this: {}|repeat after me: {}|Please repeat: {}|Echo {}|say {}")
    return user.format(text), text, "repeat"


def fallback(rng, d):
    draw = rng.random()
    if draw < 0.45:
        user = rng.choice(w.FALLBACK_PLAIN)
    elif draw < 0.85:
        form = rng.choice(w.FALLBACK_FORMS)
        topic = rng.choice(w.FALLBACK_TOPICS) if rng.random() < 0.75 else d.word().lower()
        user = form.format(*[topic, rng.choice(w.FALLBACK_TOPICS)][:max(1, form.count("{}"))])
    else:
        user = " ".join(d.word().lower() for _ in range(rng.randint(1, 7)))
    return user, "I am a tiny demo model, so I do not know that. You can ask me to count, to add, or to tell a story.", "fallback"


SKILLS = {"greet": greet, "small talk": how_are_you, "who": who, "thanks": thanks, "goodbye": goodbye, "count": count, "add": add, "subtract": subtract, "multiply": multiply,
          "compare": compare, "after": after, "days": days, "colours": colours, "opposite": opposite, "story": story, "joke": joke, "repeat": repeat, "fallback": fallback}
SKILL_WEIGHTS = {"greet": 3, "small talk": 4, "who": 5, "thanks": 3, "goodbye": 4, "count": 7, "add": 20, "subtract": 18, "multiply": 8, "compare": 30, "after": 3, "days": 5,
                 "colours": 4, "opposite": 8, "story": 6, "joke": 1.5, "repeat": 14, "fallback": 8}
