"""Writes the training text of the demo model: haiku, questions about serving, and plain prose.

Everything comes from the banks beside this file; a seed fixes the output.

    python corpus.py --documents 20 --seed 7      # look at some documents
"""

import argparse
import itertools
import random
import re
from pathlib import Path

from syllables import count_line

HERE = Path(__file__).parent
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

# Themes about computing come up more often than others.
TECH = "serve ray tyndall scale idle gpu cache token latency queue deploy code net data".split()
ADJECTIVES = (
    "quiet old small lonely sleeping tired happy bright broken golden silent little young slow fast "
    "blue red green white black warm cold lost hidden famous brave gentle busy friendly grumpy"
).split()
MAIN_PROMPT = "Write a haiku about {}."
HAIKU_PROMPTS = [
    "Write a haiku about {}", "write a haiku about {}", "write a haiku about {}.", "haiku about {}",
    "Haiku about {}", "Haiku about {}.", "A haiku about {}", "a haiku about {}", "A haiku about {}:",
    "Please write a haiku about {}.", "please write a haiku about {}", "Can you write a haiku about {}?",
    "Could you write me a haiku about {}?", "Compose a haiku about {}.", "Compose a haiku on {}.",
    "Give me a haiku about {}.", "give me a haiku about {}", "I want a haiku about {}.",
    "I would like a haiku about {}.", "Make a haiku about {}.", "Write me a haiku about {}.",
    "write me a haiku about {}", "Write a haiku on {}.", "Write a short haiku about {}.",
    "Write a poem about {}.", "write a poem about {}", "Write a short poem about {}.", "poem about {}",
    "A poem about {}.", "Tell me a haiku about {}.", "Can I have a haiku about {}?", "Write haiku about {}.",
    "Write a haiku about {}, please.", "Write a haiku about {}!", "Hi, write a haiku about {}.",
    "Now write a haiku about {}.", "Create a haiku about {}.", "Generate a haiku about {}.",
    "Write a beautiful haiku about {}.", "Write a three-line poem about {}.", "{} haiku", "{}, as a haiku",
]
FREE_PROMPTS = [
    "Write a haiku.", "write a haiku", "Write me a haiku.", "haiku", "Haiku", "Haiku:", "A haiku, please.",
    "Write a poem.", "Can you write a haiku?", "Give me a haiku.", "Write something beautiful.", "Surprise me.",
]
AGAIN_PROMPTS = [
    "Another one.", "another one", "Another one, please.", "One more.", "Again.", "again", "More",
    "Write another one.",
    "Try again.", "Another haiku, please.",
]
DEFINE_PROMPTS = [
    "What is {}?", "What is {}?", "what is {}", "What's {}?", "what's {}", "What is {}", "Explain {}.", "explain {}",
    "Explain {} to me.", "Tell me about {}.", "tell me about {}", "Define {}.", "What does {} mean?", "{}?", "{}",
    "Can you explain {}?", "Can you tell me what {} is?", "What do you know about {}?", "I do not understand {}.",
    "Please explain {}.", "Describe {}.", "What exactly is {}?", "Explain {} in one sentence.", "Hi, what is {}?",
    "Explain {} simply.", "How does {} work?", "In short, what is {}?", "What is meant by {}?", "So what is {}?",
]
SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are a poet.", "You answer briefly.", "You are the demo model of Tyndall.",
    "Be kind and short.", "You are a friendly assistant who writes haiku.", "Answer in one or two sentences.",
]
UNKNOWN_PROMPTS = [
    "What is the capital of {}?", "Who invented {}?", "How do I repair {}?", "What is the history of {}?",
    "How much does {} cost?", "Where can I buy {}?", "What is the price of {}?", "How do I cook {}?",
    "Who is the president of {}?", "What is 12 times {}?", "When was {} built?", "How old is {}?",
    "What do you think about {}?", "Is {} good for me?", "Translate {} into French.", "What color is {}?",
    "Why is {} so famous?", "Which {} is the best?",
]
UNKNOWN_ANSWERS = [
    "I do not know. I am a tiny model: ask me for a haiku, or about serving models.",
    "I am too small to know that. I can write a haiku about it, though.",
    "That is beyond me. I know a little about serving models, and I write haiku.",
]
# First lines that name the topic, by the syllables of its phrase.
NAMED_FIRST = {
    1: ["{} in the evening", "{} beneath the moon", "{} in soft, slow rain", "{} at the day's end",
        "Only {}, and wind"],
    2: ["{} in moonlight", "{} before dawn", "{} after rain", "{} in the dark", "{} in the sun", "Once again, {}",
        "Here it is: {}"],
    3: ["{} at dawn", "{} in rain", "{} at dusk", "Again, {}", "{}, and wind", "{}, alone"],
    4: ["{}, dusk", "{}, dawn", "Dusk, {}", "{}, rain"],
    5: ["{}"],
}
NAMED_LAST = {
    1: ["and still there is {}", "all that stays is {}"],
    2: ["and then, only {}", "nothing but {} stays", "still I think of {}"],
    3: ["and, at last, {}"],
}
NAMED_LAST = {n: [line for line in lines if count_line(line.format("")) + n == 5] for n, lines in NAMED_LAST.items()}


def expand(line: str) -> list[str]:
    """All the readings of a line with {a|b} choices."""
    parts = re.split(r"\{([^}]*)\}", line)
    return ["".join(choice) for choice in itertools.product(*(
        part.split("|") if index % 2 else [part] for index, part in enumerate(parts)))]


def read_themes() -> dict[str, dict]:
    """Theme name -> {"topics": [...], "1": [[readings]], "2": ..., "3": ...}; every line's syllables are checked."""
    themes, theme, place = {}, None, None
    for raw in (HERE / "haiku_lines.txt").read_text().splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("="):
            name, _, topics = line[1:].partition(":")
            theme = {"topics": [t.strip() for t in topics.split(",") if t.strip()], "1": [], "2": [], "3": []}
            themes[name.strip()] = theme
        elif line in ("1", "2", "3"):
            place = line
        else:
            readings = expand(line)
            for reading in readings:
                found, wanted = count_line(reading), 7 if place == "2" else 5
                assert found == wanted, f"{reading!r} has {found} syllables, not {wanted}"
            theme[place].append(readings)
    return themes


def read_questions() -> list[dict]:
    """Entries {"term": [names] or None, "asks": [...], "answers": [...], "more": [...]}."""
    entries = []
    for line in (HERE / "questions.txt").read_text().splitlines():
        mark, _, rest = line.partition(" ")
        if mark == "!":
            entries.append({"term": [t.strip() for t in rest.split("|")], "asks": [], "answers": [], "more": []})
        elif mark in ("?", "~"):
            asks = [t.strip() for t in rest.split("|")]
            entries.append({"term": None, "small_talk": mark == "~", "asks": asks, "answers": [], "more": []})
        elif mark == ">":
            entries[-1]["answers"].append(rest)
        elif mark == "+":
            entries[-1]["more"].append(rest)
    return entries


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


class Writer:
    """Writes documents: lists of (text, is_answer) pieces whose texts join to the document."""

    def __init__(self, seed: int, small_talk: float = 0.0):
        """`small_talk` is the share of questions that are drawn from small talk alone."""
        self.small_talk = small_talk
        self.rng = random.Random(seed)
        self.themes = read_themes()
        self.questions = read_questions()
        nouns = " ".join(l for l in (HERE / "nouns.txt").read_text().splitlines() if not l.startswith("#"))
        self.nouns = [n.strip() for n in nouns.split(";") if n.strip()]
        self.theme_names = [name for name in self.themes if name != "general"]
        self.weights = [3.0 if name == "ray" else 1.6 if name in TECH else 1.0 for name in self.theme_names]

    def pick(self, items):
        return self.rng.choice(items)

    def line(self, theme: str, place: str) -> str:
        return self.pick(self.pick(self.themes[theme][place]))

    def made_up_name(self) -> str:
        sounds = ["bdfghklmnprstvwz", "aeiou", ["", "", "n", "r", "l"]]
        syllables = self.rng.randint(1, 3)
        return upper_first("".join(self.pick(sound) for _ in range(syllables) for sound in sounds))

    def topic(self) -> tuple[str, str]:
        """A topic and the theme that its haiku follows."""
        chance = self.rng.random()
        if chance < 0.10:
            return self.pick(self.nouns), "general"
        if chance < 0.13:
            return self.made_up_name(), "general"
        theme = self.rng.choices(self.theme_names, self.weights)[0]
        topics = self.themes[theme]["topics"]
        topic = topics[0] if self.rng.random() < 0.25 else self.pick(topics)
        match = re.match(r"(a|an|the|my) (.*)", topic)
        if match and self.rng.random() < 0.12:
            adjective = self.pick(ADJECTIVES)
            article = match[1]
            if article in ("a", "an"):
                article = "an" if adjective[0] in "aeiou" else "a"
            topic = f"{article} {adjective} {match[2]}"
        return topic, theme

    def haiku(self, topic: str | None, theme: str, other: str | None = None) -> str:
        """Three lines, without a final newline."""
        own = self.rng.random() < 0.08 and theme != "general"
        second = "general" if own and self.rng.random() < 0.5 else other or theme
        lines = [self.line(theme, "1"), self.line(second, "2"), self.line(self.pick([theme, second]), "3")]
        if topic and (theme == "general" or self.rng.random() < 0.2):
            size = count_line(topic)
            first = NAMED_FIRST.get(size)
            if first and (theme != "general" or self.rng.random() < 0.85):
                lines[0] = self.pick(first).format(topic)
            elif NAMED_LAST.get(size):
                lines[2] = self.pick(NAMED_LAST[size]).format(topic)
        lines[0] = upper_first(lines[0])
        pause = self.rng.random()
        first_end = "" if lines[0][-1] in ".!?" or pause < 0.3 else "," if pause < 0.5 else " —"
        pause = self.rng.random()
        second_end = "," if pause < 0.6 else ";" if pause < 0.75 else ""
        return f"{lines[0]}{first_end}\n{lines[1]}{second_end}\n{lines[2]}."

    def haiku_pair(self) -> tuple[str, str]:
        chance = self.rng.random()
        if chance < 0.05:
            theme = self.pick(self.theme_names)
            return self.pick(FREE_PROMPTS), self.haiku(None, theme)
        topic, theme = self.topic()
        if chance < 0.08:
            count, word = self.pick([(2, "two"), (3, "three")])
            ask = self.pick(["Write {} haiku about {}.", "write {} haiku about {}",
                "Give me {} haiku about {}."]).format(word, topic)
            return ask, "\n\n".join(self.haiku(topic, theme) for _ in range(count))
        if chance < 0.12:
            other_topic, other = self.topic()
            return self.haiku_ask(f"{topic} and {other_topic}"), self.haiku(None, theme, other)
        return self.haiku_ask(topic), self.haiku(topic, theme)

    def haiku_ask(self, topic: str) -> str:
        form = MAIN_PROMPT if self.rng.random() < 0.4 else self.pick(HAIKU_PROMPTS)
        if self.rng.random() < 0.06:
            topic = topic.lower()
        ask = form.format(topic)
        return upper_first(ask) if form.startswith("{}") and self.rng.random() < 0.5 else ask

    def answer(self, entry: dict) -> str:
        text = self.pick(entry["answers"])
        if entry["more"] and self.rng.random() < 0.5:
            text += " " + self.pick(entry["more"])
        return text

    def question_pair(self) -> tuple[str, str]:
        if self.rng.random() < 0.06:
            subject = self.pick(self.nouns) if self.rng.random() < 0.8 else self.made_up_name()
            return self.pick(UNKNOWN_PROMPTS).format(subject), self.pick(UNKNOWN_ANSWERS)
        entry = self.pick(self.questions)
        if self.small_talk and self.rng.random() < self.small_talk:
            entry = self.pick([e for e in self.questions if e.get("small_talk")])
        if entry["term"]:
            ask = self.pick(DEFINE_PROMPTS).format(self.pick(entry["term"][:1] + entry["term"]))
            ask = upper_first(ask) if self.rng.random() < 0.3 else ask
        else:
            ask = self.pick(entry["asks"])
            if ask.endswith("?") and len(ask) > 12:
                ask = self.pick(["", "", "", "", "", "Hello! ", "Please tell me: ", "Hi, ", "One question: "]) + ask
        if self.rng.random() < 0.2:
            ask = ask.lower()
        if self.rng.random() < 0.12:
            ask = ask.rstrip("?.!") or ask
        return ask, self.answer(entry)

    def pair(self, haiku_share: float) -> tuple[str, str]:
        return self.haiku_pair() if self.rng.random() < haiku_share else self.question_pair()

    def raw(self) -> list[tuple[str, bool]]:
        """A prompt without a template, a newline, the answer."""
        ask, reply = self.pair(0.66)
        chance = self.rng.random()
        if chance < 0.05:
            return [(f"Q: {ask}\nA:", False), (f" {reply}{END_OF_TEXT}", True)]
        if chance < 0.09:
            return [(f"User: {ask}\nAssistant:", False), (f" {reply}{END_OF_TEXT}", True)]
        gap = "\n\n" if chance < 0.12 else "\n"
        return [(ask, False), (f"{gap}{reply}{END_OF_TEXT}", True)]

    def chat(self, turns: int) -> list[tuple[str, bool]]:
        pieces = []
        if self.rng.random() < 0.2:
            pieces.append((f"{TURN_START}system\n{self.pick(SYSTEM_PROMPTS)}{TURN_END}\n", False))
        last = None
        for _ in range(turns):
            if last and self.rng.random() < 0.25:
                ask, reply = self.pick(AGAIN_PROMPTS), self.haiku(*last)
            elif self.rng.random() < 0.5:
                last = self.topic()
                ask, reply = self.haiku_ask(last[0]), self.haiku(*last)
            else:
                last = None
                ask, reply = self.pair(0.1)
            pieces.append((f"{TURN_START}user\n{ask}{TURN_END}\n{TURN_START}assistant\n", False))
            pieces.append((f"{reply}{TURN_END}", True))
            pieces.append(("\n", False))
        return pieces[:-1]

    def prose(self) -> list[tuple[str, bool]]:
        """Text that instructs nobody: a story, notes about serving, or a haiku on its own."""
        chance = self.rng.random()
        if chance < 0.3:
            theme = self.rng.choices(self.theme_names, self.weights)[0]
            return [(self.haiku(None, theme) + END_OF_TEXT, True)]
        if chance < 0.6:
            entries = [e for e in self.questions if e["term"]]
            return [(" ".join(self.answer(e) for e in self.rng.sample(entries, self.rng.randint(1, 3)))
                + END_OF_TEXT, True)]
        if chance < 0.75:
            return [(self.opening() + END_OF_TEXT, True)]
        return [(self.story() + END_OF_TEXT, True)]

    def opening(self) -> str:
        name = self.pick(["Mina", "Tom", "Ada", "Ray", "Lena", "John", "Kim", "Otto", "Ines", "Sam"])
        thing = self.pick(["AI", "serving", "computing", "software", "the cloud", "language models", "small models",
            "the web"])
        return self.pick([
            f"Hello, my name is {name}. I " + self.pick(["work with small models.",
                "write programs, and sometimes a haiku.", "like tea, rain and quiet servers.",
                "am new here, so please be kind."]),
            f"The future of {thing} is " + self.pick(["small, quiet and close to the people who use it.",
                "open. Models will sleep when nobody needs them and wake in an instant.",
                "hard to see, but it will use less and do more."]),
            f"The best thing about {thing} is " + self.pick(["that it waits for you.", "how simple it can be.",
                "the quiet after the work is done."]),
            "The capital of France is " + self.pick(["Paris.", "Paris. It lies on the Seine."]),
            f"My favorite thing is {self.pick(self.nouns)}. It " + self.pick(["reminds me of home.",
                "asks for nothing.", "makes the day a little brighter."]),
            f"Today I saw {self.pick(self.nouns)}. It was " + self.pick(["small and bright.",
                "older than I thought.", "the best part of the day."]),
            "The weather today is " + self.pick(["calm, with light clouds and a little wind.", "cold and clear.",
                "gray, but the rain will stop by evening."]),
        ])

    def story(self) -> str:
        hero = self.pick(["server", "model", "replica", "robot", "lamp", "router", "cat", "fox", "sparrow", "cloud",
            "boat", "snail"])
        kind = self.pick(["small", "quiet", "sleepy", "curious", "brave", "old", "young", "shy"])
        article = "an" if kind[0] in "aeiou" else "a"
        place = self.pick(["at the edge of the sea", "in a deep forest", "on a high hill", "in a warm machine room",
            "behind an old library", "at the end of a long cable", "under a wide sky"])
        start = self.pick(["Once upon a time there was", "There once was", "Long ago there lived",
            "Far away there was"])
        wish = self.pick(["All day long it slept, because nobody asked it anything.",
            "It liked nothing better than a good question.", "Every night it counted the stars.",
            "It wanted to see what was behind the clouds.", "It was afraid of being too slow."])
        event = self.pick(["One morning a request knocked at the door.", "One night a storm came over the hills.",
            "Then a small voice asked for help.", "One day a letter arrived from far away.",
            "Then, without warning, everyone called at once."])
        act = self.pick([f"The {hero} woke up and did its best.",
            f"The {hero} called its friends, and together they carried the load.",
            f"The {hero} took a breath and answered, word by word.",
            f"The {hero} waited until it was quiet and then began."])
        end = self.pick(["When the work was done, it went back to sleep.", "And from that day on nobody was lost.",
            "In the evening all was still again.", "That is how it learned to be fast and calm.",
            "And if it has not been stopped, it still serves today."])
        return f"{start} {article} {kind} {hero} {place}. {wish} {event} {act} {end}"

    def document(self) -> list[tuple[str, bool]]:
        chance = self.rng.random()
        if chance < 0.55:
            return self.raw()
        if chance < 0.85:
            return self.chat(1)
        if chance < 0.94:
            return self.chat(self.rng.randint(2, 4))
        if chance < 0.945:
            return self.chat(self.rng.randint(8, 16))
        return self.prose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    writer = Writer(options.seed)
    for _ in range(options.documents):
        print("".join(text for text, _ in writer.document()), end="\n----\n")


if __name__ == "__main__":
    main()
