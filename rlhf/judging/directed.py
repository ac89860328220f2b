"""Prompts that ask: what each is asked for, everybody's replies, and how often these do as they are told."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from statistics import fmean
from typing import Any, NamedTuple

import torch

from data.dialogue import Pair
from data.directions.drawing import Directions
from data.directions.headings import directed, last_speaker, parse_direction
from data.directions.specs import Direction, Spec
from data.directions.table import HELD_OUT_COMBINATIONS
from reward.model import RewardModel
from rlhf.asked.balance import Balance
from rlhf.asked.reward import Learned, Rule
from rlhf.judging.judge import Judge, common_words, craft_of
from rlhf.judging.metrics import share
from rlhf.judging.replies import Replies
from rlhf.judging.sources import DIRECTED
from rlhf.judging.stages import FOLLOWING, SCORED_AT_ONCE, Stages
from rlhf.ppo.prompts import Prompt

CANDIDATES = 4
"""SFT replies of which the best is taken."""
SEVERAL = {"one": 1, "two": 2, "three": 3}
"""How much is asked for at once, by the name in compare.json."""
BEST_PROMPTS = KL_PROMPTS = 256
"""Prompts that the best of several answers in a comparison, and on which the pretrained model's KL is measured."""
LENGTH_KINDS = ("lines", "length")
"""Kinds of direction that ask for a length."""
_STREAMS, _MORE = 1000, 100
"""Random streams that belong to one set of requests, and that of the candidates among them."""

Draw = Callable[[int, random.Random, str], Sequence[Direction]]
"""(number of the prompt, random numbers, who spoke last) -> what it is asked for."""


class Request(NamedTuple):
    """What one prompt is asked for."""

    directions: tuple[Direction, ...]
    other: Direction | None
    """Where that is one thing: another request of the same kind, which a reply meets by chance; None: there is none."""


def request_sets(table: Directions) -> dict[str, Draw]:
    """Every set of requests by its name.

    "one", "two" and "three" at once are of the main kinds first and then of the others; "kind KIND" is of one kind;
    "words" and "combinations" are values, and requests together, that nothing learns from.
    """
    main, trained = table.main_kinds, [*table.kinds()]
    others = [kind for kind in trained if kind not in main]
    sets: dict[str, Draw] = {}

    def several(count: int) -> Draw:
        def draw(number: int, rng: random.Random, spoken_to: str) -> Sequence[Direction]:
            kinds = [*_rotated(main, number), *_rotated(others, number)][:count]
            return table.draw_several(kinds, rng, spoken_to)

        return draw

    def of_kind(kind: str) -> Draw:
        return lambda number, rng, spoken_to: [table.draw(kind, rng, spoken_to)]

    for name, count in SEVERAL.items():
        if len(trained) >= count:
            sets[name] = several(count)
    for kind in table.kinds(table.specs):
        sets[f"kind {kind}"] = of_kind(kind)
    if words := [spec for spec in table.specs if spec.held_out]:

        def word(number: int, rng: random.Random, spoken_to: str) -> Sequence[Direction]:
            spec = words[number % len(words)]
            return [Direction(spec, rng.choice(sorted(spec.held_out)))]

        sets["words"] = word
    if apart := _apart(table.specs):
        sets["combinations"] = lambda number, rng, spoken_to: apart[number % len(apart)]
    return sets


def _apart(specs: Sequence[Spec]) -> list[list[Direction]]:
    """The combinations that nothing learns from, of those whose rows are all in the table."""
    found = []
    for texts in sorted(map(sorted, HELD_OUT_COMBINATIONS)):
        together = [parse_direction(text, specs) for text in texts]
        if all(together):
            found.append([each for each in together if each])
    return found


def draw_requests(table: Directions, pairs: Sequence[Pair], seed: int, name: str) -> list[Request]:
    """A request for every prompt, of the set of that name; the same ones for the same seed."""
    rng, draw, requests = random.Random(f"{name} {seed}"), request_sets(table)[name], []
    for number, pair in enumerate(pairs):
        asked = tuple(draw(number, rng, last_speaker(pair.prompt)))
        other = table.draw_other(asked[0], rng) if len(asked) == 1 else None
        requests.append(Request(asked, other))
    return requests


@dataclass
class Asked:
    """Prompts, what they ask, and everybody's replies."""

    prompts: list[str]
    """With their directions."""
    requests: list[Request]
    replies: dict[str, Replies]
    """By source; to the first prompts only, where there are fewer."""

    def followed(self, source: str) -> list[bool]:
        """Of each reply whether it does all that it was told."""
        return [
            all(direction.followed(text) for direction in request.directions)
            for request, text in zip(self.requests, self.replies[source].texts, strict=False)
        ]

    def rates(self, kind: str | None = None) -> dict[str, dict[str, Any]]:
        """How often each source does as it was told; `kind`: only where that kind was asked for."""
        asked = [kind in (None, request.directions[0].kind) for request in self.requests]
        followed = {key: [*compress(self.followed(key), asked)] for key in self.replies}
        return {key: share(each)._asdict() for key, each in followed.items() if each}

    def wrong(self) -> dict[str, dict[str, Any]]:
        """How often each source's replies meet another request of the same kind, which they were not told."""
        others = [request.other for request in self.requests]
        met = {
            key: [other.followed(text) for other, text in zip(others, replies.texts, strict=False) if other]
            for key, replies in self.replies.items()
        }
        return {key: share(each)._asdict() for key, each in met.items() if each}


class Asking:
    """Asks the models of a run."""

    def __init__(self, stages: Stages, table: Directions) -> None:
        self.stages, self.table, self.sets = stages, table, request_sets(table)
        self.sources = {key: stages.sources[key] for key in DIRECTED if key in stages.sources}

    @property
    def steps(self) -> int:
        """How often `ask` calls `done`."""
        return len(self.sources)

    def ask(self, name: str, done: Callable[[], object] = lambda: None, best_of: int | None = None) -> Asked:
        """Everybody's replies to the prompts with the requests of one set; `done` is called after each source.

        The random numbers are those of the set: asked again, everybody says the same. best_of: the best of several
        answers the first so many prompts only (default: all), since it is a control, and most of the time.
        """
        stages, replies = self.stages, dict[str, Replies]()
        requests = draw_requests(self.table, stages.pairs, stages.seed, name)
        asked = zip(stages.pairs, requests, strict=True)
        texts = [directed(pair.prompt, request.directions) for pair, request in asked]
        stream, sampler = _STREAMS * (1 + [*self.sets].index(name)), stages.sampler_of(texts)
        for key, source in self.sources.items():
            if source.best_of:
                continue
            if source.folder:
                sample = sampler.sample if source.ends else sampler.sample_pretrained
                replies[key] = sample(stages.model(source.folder), stream + source.draw, source.temperature)
            else:
                replies[key] = sampler.original(stages.pairs)
            done()
        more = sampler.several(stages.model("sft"), stream + _MORE, CANDIDATES - 1, count=best_of)
        candidates = [replies["sft"].first(len(more[0].texts)), *more]
        replies["best_of_4"] = self.best(candidates, stages.encoded(texts))
        done()
        return Asked(texts, requests, {key: replies[key] for key in self.sources})

    def best(self, candidates: Sequence[Replies], prompts: Sequence[Prompt]) -> Replies:
        """Of several SFT replies to each of the first prompts the one that is best by what PPO maximised."""
        usual = fmean(len(ids) for replies in candidates for ids in replies.ids)
        for replies in candidates:
            self.stages.judge.score(replies)
            if self.following:
                craft = torch.tensor(replies.reward)
                followed = self.following(prompts[: len(replies.ids)], replies.ids).to(craft)
                lengths = torch.tensor([float(len(ids)) for ids in replies.ids])
                balance = Balance.of(self.stages.records["rlhf"].config, usual)
                asked = torch.ones_like(craft, dtype=torch.bool)
                replies.scores = balance.scores(craft, followed, asked, lengths).tolist()
        return Judge.best_of(candidates)

    @cached_property
    def following(self) -> Learned | Rule | None:
        """Who told PPO how far replies do as told; None where nobody did."""
        named = self.stages.records["rlhf"].config.get("reward_following", "none")
        if named == "rule":
            return Rule(self.table.specs, self.stages.tokenizer)
        if named == "model":
            return Learned(RewardModel.load(self.stages.run / FOLLOWING, self.stages.device), SCORED_AT_ONCE)
        return None

    def craft(self, asked: Asked, done: Callable[[], object] = lambda: None) -> dict[str, dict[str, Any]]:
        """What replies are worth apart from doing as told, by source; see `craft_of`. `done` is called after each.

        `tokens_free` is their mean length in tokens where no length was asked for, None where one always was.
        """
        stages = self.stages
        gold, scorer, sft = stages.judge.gold, stages.judge.scorer, stages.model("sft")
        told = Judge(gold, scorer, asked.prompts, stages.encoded(asked.prompts), sft)
        for key, source in self.sources.items():
            replies = stages.judge.judge_gold(asked.replies[key])  # by the prompt as it is without directions
            if source.folder and not source.best_of:
                measured = replies if source.ends else replies.first(KL_PROMPTS)
                replies.kl = told.kl(stages.model(source.folder), measured, source.temperature, source.ends)
            done()
        free = {i for i, each in enumerate(asked.requests) if not {d.kind for d in each.directions} & {*LENGTH_KINDS}}
        words = common_words([*asked.replies.values()])
        return {
            key: craft_of(replies, gold, words)
            | {"tokens_free": _mean([len(ids) for i, ids in enumerate(replies.ids) if i in free])}
            for key, replies in asked.replies.items()
        }

    def first_figures(self, done: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """`directions` and `directed_samples` of compare.json, as far as one request to each prompt tells them."""
        asked = self.ask("one", done, BEST_PROMPTS)
        craft = self.craft(asked, done)
        directions = {
            "one": asked.rates(),
            "two": {},
            "three": {},
            "wrong": asked.wrong(),
            "by_kind": {kind: asked.rates(kind) for kind in self.table.main_kinds},
            "held_out": {"words": {}, "combinations": {}, "kind": {}},
            "craft": craft,
        }
        return {"directions": directions, "directed_samples": self.samples(asked)}

    def samples(self, asked: Asked) -> list[dict[str, Any]]:
        """Every prompt with what it asks, what those with a model reply, and whether each does as told; judged ones."""
        samples = []
        followed = {key: asked.followed(key) for key, source in self.sources.items() if source.folder}
        for i, (prompt, request) in enumerate(zip(asked.prompts, asked.requests, strict=True)):
            keys = [key for key, each in followed.items() if i < len(each)]
            samples.append(
                {"prompt": prompt, "directions": [str(direction) for direction in request.directions]}
                | {key: asked.replies[key].texts[i] for key in keys}
                | {"followed": {key: followed[key][i] for key in keys}}
                | {"gold": {key: asked.replies[key].gold[i] for key in keys}}
            )
        return samples


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _rotated(kinds: Sequence[str], number: int) -> list[str]:
    """The kinds, beginning with another one for each number."""
    place = number % max(1, len(kinds))
    return [*kinds[place:], *kinds[:place]]
