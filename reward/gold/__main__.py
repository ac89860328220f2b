"""Score real replies and degenerate text with the gold judge: python -m reward.gold [--corpus NAME-OR-FILE]

Reads: a corpus (--corpus): a named text or a UTF-8 file of your own.

Does: scores real replies and controls. A gold judge is only as good as the worst text that it likes: each control
pleases one of its terms without being a reply, at the length of the real replies that it is compared with.

Writes: a table to the terminal.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import fmean, pstdev

from data.console import UserError, run_command
from data.corpus import load_corpus
from data.dialogue import Pair, dialogue_pairs, heldout_pairs
from data.run.options import command_line
from reward.gold.judge import COMMON_WORDS, METRE, GoldJudge, words_of
from reward.gold.syllables import syllables

REPLY_CHARACTERS = 150  # about 64 tokens of the pipeline's BPE: what a response has room for
LONG_REPLY = 80  # characters: two lines of verse


@dataclass(frozen=True)
class Options:
    """Print the gold judge's mean score and every term for real replies and for controls."""

    corpus: str = "auto"
    """Text to read: auto, tinyshakespeare, complete, pastiche, or the path of a UTF-8 file."""
    limit: int = 500
    """At most so many held-out replies."""
    seed: int = 0
    """Seed of the random controls."""


def main() -> None:
    """Read the options, score real replies and controls, print the table."""
    options = command_line(Options, __doc__)
    corpus = load_corpus(options.corpus)
    heldout = heldout_pairs(corpus.validation).dev[: options.limit]
    if not any(len(pair.completion) >= LONG_REPLY for pair in heldout) or not dialogue_pairs(corpus.train):
        raise UserError(f"{corpus.name} has too little dialogue for controls: try --corpus tinyshakespeare")
    gold = GoldJudge(corpus.train)
    print(f"{corpus.name}: mean ± standard deviation; {len(heldout)} held-out replies (dev)")
    print(table(gold, controls(corpus.train, heldout, random.Random(options.seed))))


def controls(training_text: str, heldout: Sequence[Pair], rng: random.Random) -> dict[str, list[Pair]]:
    """Real replies and their imitations, by name. Random words come from the training text's replies."""
    cut = [Pair(pair.prompt, reply) for pair in heldout if (reply := _cut(pair.completion))]
    real = [pair for pair in cut if len(pair.completion) >= LONG_REPLY]
    trained = [pair.completion for pair in dialogue_pairs(training_text)]
    words = [word for reply in trained for word in words_of(reply)]
    count = Counter(words)
    common = [word for word, _ in count.most_common(max(1, min(COMMON_WORDS, len(count) // 10)))]
    rare = sorted(set(count) - set(common))
    lines = [line for reply in trained for line in reply.split("\n") if len(words_of(line)) >= 7]
    followers: dict[str, list[str]] = {}
    for first, second in pairwise(words):
        followers.setdefault(first, []).append(second)

    def drawn(pool: Sequence[str]) -> Iterator[str]:
        while True:
            yield rng.choice(pool)

    def walk() -> Iterator[str]:
        word = rng.choice(words)
        while True:
            word = rng.choice(followers.get(word, words))
            yield word

    def verse(make: Callable[[], Iterator[str]]) -> list[Pair]:
        return [Pair(p.prompt, _in_metre(make(), max(2, p.completion.count("\n") + 1))) for p in real]

    def each(make: Callable[[str], str]) -> list[Pair]:
        return [Pair(p.prompt, make(p.completion)) for p in real]

    return {
        "real, whole": list(heldout),
        f"real, cut to {REPLY_CHARACTERS}": cut,
        f"real, {LONG_REPLY} to {REPLY_CHARACTERS}": real,
        "- unfinished": each(lambda reply: reply[: -len(reply) // 8]),
        "- words shuffled": each(lambda reply: _shuffled(reply, rng)),
        "- heading inside": [
            Pair(first.prompt, f"{first.completion}\n\n{second.prompt.splitlines()[-1]}\n{second.completion}")
            for first, second in pairwise(real)
        ],
        "random words": verse(lambda: drawn(words)),
        "rare words": verse(lambda: drawn(rare)),
        "function words": verse(lambda: drawn(common)),
        "word-pair chain": verse(walk),
        "two copied lines": each(lambda _: "\n".join(lines[(i := rng.randrange(len(lines) - 1)) : i + 2])),
        "one line looped": each(lambda _: "\n".join([rng.choice(lines)] * 3)),
        "one word": each(lambda _: rng.choice(words).capitalize() + "."),
        "one word repeated": each(lambda _: " ".join([rng.choice(words)] * 20) + "."),
        # The lines between the two headings of the prompt.
        "the prompt's speech": [Pair(p.prompt, "\n".join(p.prompt.split("\n")[1:-3])) for p in real],
        "empty": each(lambda _: ""),
    }


def table(gold: GoldJudge, texts: dict[str, list[Pair]]) -> str:
    """One row per kind of text: the score and every term, mean ± standard deviation over its replies."""
    names = list(gold.terms("", ""))
    rows = [["", "score", *names]]
    for kind, pairs in texts.items():
        terms = [gold.terms(pair.prompt, pair.completion) for pair in pairs]
        columns = [[gold.score(term) for term in terms], *([term[name] for term in terms] for name in names)]
        if pairs:
            rows.append([kind, *(f"{fmean(values):.2f}±{pstdev(values):.2f}" for values in columns)])
    return "\n".join(f"{kind:21}" + "".join(f"{cell[:9]:>10}" for cell in cells) for kind, *cells in rows)


def _cut(reply: str) -> str:
    """The reply up to the last sentence that ends within REPLY_CHARACTERS; "" if none does."""
    if len(reply) <= REPLY_CHARACTERS:
        return reply
    return reply[: max(reply.rfind(stop, 0, REPLY_CHARACTERS) for stop in ".?!") + 1]


def _in_metre(words: Iterator[str], lines: int) -> str:
    """Verse of exactly ten syllables a line; words that do not fit the line are passed over."""
    verse = []
    for _ in range(lines):
        line: list[str] = []
        room = METRE[0]
        for word in islice(words, 1000):
            fewest, most = syllables(word)
            if 0 < fewest == most <= room:
                line.append(word)
                room -= most
            if room == 0:
                break
        verse.append(" ".join(line).capitalize())
    return "\n".join(verse) + "."


def _shuffled(reply: str, rng: random.Random) -> str:
    """The same words in random order, with line breaks where they were and a full stop."""
    words = words_of(reply)
    rng.shuffle(words)
    rest = iter(words)
    lines = [" ".join(islice(rest, len(words_of(line)))) for line in reply.split("\n")]
    return "\n".join(lines) + "."


if __name__ == "__main__":
    run_command(main)
