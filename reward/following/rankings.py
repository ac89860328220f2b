"""Rankings whose labels are certain and cost nothing: replies of the play under directions that some of them follow.

A reply of the play is taken in part, some are changed (another mark at the end, a line broken in two, a word put in,
the end cut off), and the rule says of each whether it follows. So the same replies stand above others under one
direction and below them under the next, and what is above differs from what is below by little but what was asked.
"""

import random
import re
from collections.abc import Callable, Iterable, Sequence

from data.dialogue import Pair, encode_completion, encode_prompt
from data.directions.drawing import Directions
from data.directions.headings import directed, last_speaker
from data.directions.specs import Direction, inferred
from data.tokenizers import Tokenizer
from reward.rankings import Ranking

PLAY = "play"
"""The name of the policy that the replies are of."""
MAIN_WEIGHT = 20
"""The main kinds are asked for so many times as often as each of the others."""
HOW_MANY = (0.65, 0.25, 0.1)
"""Probability that a prompt asks for 1, 2 or 3 directions at once."""
LINES = (0.35, 0.25, 0.2, 0.15, 0.05)
"""Probability that 1, 2, … lines of a reply are taken, where it has so many."""
FOLLOWING = 0.75
"""Share of the replies made for a direction that follow it. Half of a prompt's replies are made for its twin's."""
WHOLE_PROMPTS = 0.2
"""Share of the prompts that keep their cue as far as it fits."""
SHORT_LINES = 0.6
"""Share of the replies whose lines lose what is between their ends: less to read, the same lesson."""
UNFINISHED = 0.08
"""Share of the replies that end without the end token, as one that reaches the longest length does."""
_MARKS = "?!.,;:-"
_ENDS = re.compile(r"[^\w]*\Z")

Edit = Callable[[str, random.Random], str]


def draw_directions(directions: Directions, rng: random.Random, spoken_to: str = "") -> tuple[Direction, ...]:
    """One to three requests, none that nothing learns from."""
    kinds = [*directions.kinds()]
    count = min(len(kinds), rng.choices((1, 2, 3), HOW_MANY)[0])
    # Weighted sampling without replacement (Efraimidis and Spirakis 2006).
    keys = {kind: rng.random() ** (1 / (MAIN_WEIGHT if kind in directions.main_kinds else 1)) for kind in kinds}
    return directions.draw_several(sorted(kinds, key=keys.__getitem__)[-count:], rng, spoken_to)


def follows(directions: Iterable[Direction], reply: str) -> bool:
    """Whether a reply does all that it was told."""
    return all(direction.followed(reply) for direction in directions)


class PlayRankings:
    """Makes rankings of the replies of a text."""

    def __init__(
        self,
        directions: Directions,
        replies: Sequence[str],
        tokenizer: Tokenizer,
        lengths: tuple[int, int],
        seed: int,
        short_prompt: int | None = None,
    ) -> None:
        """directions: only rows that are learned from. lengths: of the longest prompt and response, in tokens.

        short_prompt: tokens of most prompts, more where their heading has more; None: of all as many as fit.
        """
        self.directions, self.tokenizer, self.lengths, self.seed = directions, tokenizer, lengths, seed
        self.short_prompt = short_prompt
        rng = random.Random(f"{seed} pieces")
        pieces = [piece for reply in replies if (piece := _piece(reply, rng))]
        self.pieces = [piece for piece in pieces if len(tokenizer.encode(piece)) < lengths[1]] or pieces
        self.longest = max(map(len, self.pieces))
        self.by_direction: dict[str, list[str]] = {}
        """Where a direction has a value, what a drawn reply hardly ever has: the pieces that follow it."""
        for spec in directions.specs:
            for piece in self.pieces if spec.has_value else ():
                if found := inferred(spec, piece):
                    self.by_direction.setdefault(str(found), []).append(piece)

    def twins(self, prompt: str, asked: Sequence[Direction], count: int, rng: random.Random) -> list[Ranking]:
        """Rankings of the same `count` replies to a prompt that asks for this and to one that asks for something else.

        The other one has another direction of one kind. No rankings where one of them would say nothing, since no reply
        follows, or every one does.
        """
        twin = self._twin(asked, rng)
        texts: dict[str, None] = {}
        for each in (asked, twin) if twin else (asked,):
            share = count // 2 if twin else count
            above = round(share * FOLLOWING) if twin else share // 2
            texts |= dict.fromkeys(self._replies(each, above, share - above, rng))
        replies = [self._encode(text, rng) for text in rng.sample([*texts], len(texts))]
        length = self._prompt_length(rng)
        made = [self._ranking(prompt, each, replies, length) for each in (asked, twin) if each]
        return made if all(ranking.pairs() for ranking in made) else []

    def _twin(self, asked: Sequence[Direction], rng: random.Random) -> tuple[Direction, ...] | None:
        """The same requests with another in the place of one of them; None where there is no other."""
        place = rng.randrange(len(asked))
        for _ in range(20):
            if (other := self.directions.draw_other(asked[place], rng)) is None:
                break
            if self.directions.may_be_learned(twin := (*asked[:place], other, *asked[place + 1 :])):
                return twin
        return None

    def _ranking(
        self, prompt: str, asked: Sequence[Direction], replies: list[list[int]], prompt_length: int
    ) -> Ranking:
        texts = [self.tokenizer.decode(ids) for ids in replies]
        good = [follows(asked, text) for text in texts]
        sides = [[i for i, each in enumerate(good) if each is side] for side in (True, False)]
        prompt = directed(prompt, asked)
        heading = self.tokenizer.encode(prompt[prompt.rstrip("\n").rfind("\n") + 1 :])
        return Ranking(
            prompt=prompt,
            completions=texts,
            stopped=[ids[-1] == self.tokenizer.eos_id for ids in replies],
            ranking=[side for side in sides if side],
            annotator="directions",
            policy=PLAY,
            seed=self.seed,
            prompt_ids=encode_prompt(self.tokenizer, prompt, min(self.lengths[0], max(prompt_length, len(heading)))),
            completion_ids=replies,
        )

    def _replies(self, asked: Sequence[Direction], above: int, below: int, rng: random.Random) -> list[str]:
        """Some replies that follow and some that do not; more of one sort where there are too few of the other."""
        found = self._candidates(asked, above, below, rng)
        sides = ([text for text, good in found.items() if good], [text for text, good in found.items() if not good])
        wanted = above + below
        above = min(len(sides[0]), max(above, wanted - len(sides[1])))
        return rng.sample(sides[0], above) + rng.sample(sides[1], min(len(sides[1]), wanted - above))

    def _candidates(self, asked: Sequence[Direction], above: int, below: int, rng: random.Random) -> dict[str, bool]:
        """Replies, and whether each follows what is asked; at least so many that do and that do not, if they are found.

        They begin with replies drawn at random; those that follow most of what is asked are then changed.
        """
        met: dict[str, int] = {}
        count = above + below
        drawn = rng.choices(self.pieces, k=2 * count)
        for direction in asked:
            drawn += rng.choices(self.by_direction.get(str(direction)) or self.pieces, k=count)
        for _ in range(16 * count):
            for text in drawn:
                met[text] = sum(direction.followed(text) for direction in asked)
            good = sum(number == len(asked) for number in met.values())
            if len(met) >= 4 * count and good >= above and len(met) - good >= below:
                break
            best = max(met.values())
            text = rng.choice([text for text, number in met.items() if number == best or rng.random() < 0.2])
            missing = [each.value for each in asked if each.value and not each.followed(text)]
            edit = _put(rng.choice(missing)) if missing and rng.random() < 0.5 else rng.choice(EDITS)
            drawn = [changed] if 0 < len(changed := edit(text, rng).strip()) <= self.longest else []
        return {text: number == len(asked) for text, number in met.items()}

    def _prompt_length(self, rng: random.Random) -> int:
        whole = rng.random() < WHOLE_PROMPTS
        return self.lengths[0] if whole or self.short_prompt is None else self.short_prompt

    def _encode(self, text: str, rng: random.Random) -> list[int]:
        """Token ids; of some replies without the end, and cut anywhere."""
        completion = encode_completion(self.tokenizer, text, self.lengths[1])
        ids = completion.ids if completion else self.tokenizer.encode(text)[: self.lengths[1]]
        return ids[: rng.randint(1, len(ids) - 1)] if len(ids) > 1 and rng.random() < UNFINISHED else ids


def _piece(reply: str, rng: random.Random) -> str:
    """Some lines of a reply, some of them with no more than a few words at both ends of each line."""
    lines = reply.split("\n")
    count = min(len(lines), rng.choices(range(1, len(LINES) + 1), LINES)[0])
    first = rng.randint(0, len(lines) - count)
    lines = lines[first : first + count]
    return "\n".join(map(_ends_of(rng), lines) if rng.random() < SHORT_LINES else lines).strip()


def _ends_of(rng: random.Random) -> Callable[[str], str]:
    def ends(line: str) -> str:
        words, before, after = line.split(), rng.randint(0, 2), rng.randint(1, 2)
        return " ".join(words if len(words) <= before + after else words[:before] + words[-after:])

    return ends


def _end_otherwise(text: str, rng: random.Random) -> str:
    return _ENDS.sub("", text, count=1) + rng.choice(_MARKS[:3] * 3 + _MARKS + " ")


def _mark_within(text: str, rng: random.Random) -> str:
    return _at_random(text, r"[?!.,;:]", rng, lambda _: rng.choice(_MARKS))


def _join_lines(text: str, rng: random.Random) -> str:
    return _at_random(text, r"\n", rng, lambda _: " ")


def _break_line(text: str, rng: random.Random) -> str:
    return _at_random(text, r" ", rng, lambda _: "\n")


def _cut_off(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    return " ".join(words[: rng.randint(1, len(words))])


def _say_again(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    return "\n".join([*lines[: place + 1], *lines[place:]])


def _put(value: str) -> Edit:
    """A value at the beginning of a text, within it or at its end."""

    def put(text: str, rng: random.Random) -> str:
        words = text.split(" ")
        place = rng.choice([0, rng.randint(0, len(words)), len(words)])
        before = words[:place]
        return " ".join([*before, value + rng.choice(["", ",", "", "!"]), *words[place:]])

    return put


def _at_random(text: str, pattern: str, rng: random.Random, new: Callable[[str], str]) -> str:
    """The text with one match of a pattern replaced; itself where there is none."""
    matches = [*re.finditer(pattern, text)]
    if not matches:
        return text
    found = rng.choice(matches)
    return text[: found.start()] + new(found[0]) + text[found.end() :]


EDITS: tuple[Edit, ...] = (
    _end_otherwise, _end_otherwise, _end_otherwise, _mark_within, _join_lines, _break_line, _break_line, _cut_off,
    _say_again,
)  # fmt: skip


def play_rankings(maker: PlayRankings, pairs: Sequence[Pair], wanted: int, count: int) -> list[Ranking]:
    """`wanted` rankings of `count` replies to the prompts of `pairs`, in their order and again from the first."""
    found: list[Ranking] = []
    for number in range(3 * wanted):
        if len(found) >= wanted:
            break
        rng = random.Random(f"{maker.seed} {number}")
        prompt = pairs[number % len(pairs)].prompt
        found += maker.twins(prompt, draw_directions(maker.directions, rng, last_speaker(prompt)), count, rng)
    return found[:wanted]
