"""A small English syllable counter: rules for spelling plus a table of exceptions."""

import re

# Words that the rules get wrong, with their true number of syllables.
EXCEPTIONS = {
    word: count
    for count, words in {
        1: "hour hours called curled tired fires whole",
        2: "being every evening quiet somewhere likely careful poem poems chaos scarecrow"
        " fireflies neon hundred naked lion",
        3: "quietly reappear violin piano radio idea",
    }.items()
    for word in words.split()
}


def count_word(word: str) -> int:
    """Number of syllables of one lower-case or capitalised word; 0 for text without letters."""
    word = re.sub(r"[^a-z]", "", word.lower().replace("'s", "s"))
    if not word:
        return 0
    if word in EXCEPTIONS:
        return EXCEPTIONS[word]
    count = len(re.findall(r"[aeiouy]+", word))
    if re.search(r"[^aeiouyl]e$", word) or re.search(r"[aeiouy]le$", word):
        count -= 1
    if re.search(r"[^aeiouytd]ed$", word) and not re.search(r"[^aeiouy]led$", word):
        count -= 1
    if re.search(r"[^aeiouysxzcg]es$", word) and not re.search(r"(sh|ch|[^aeiouy]l)es$", word):
        count -= 1
    return max(count, 1)


def count_line(line: str) -> int:
    """Number of syllables of a line of text; a capital-only word counts letter by letter."""
    total = 0
    for word in re.findall(r"[A-Za-z']+", line.replace("-", " ")):
        if word.isupper() and len(word) > 1:
            total += sum(3 if letter == "W" else 1 for letter in word)
        else:
            total += count_word(word)
    return total
