"""Sample K responses to every prompt from a policy, and have them ranked; or K that differ, for people to rank.

Every batch of prompts has random numbers of its own, seeded by its place, so the outcome is the same
however many processes share the work.
"""

import random
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from accelerate.utils import gather_object

from data.dialogue import Pair, encode_completion, encode_prompt
from data.run.progress import progress_bar
from data.tokenizers import Tokenizer
from pretrain.machine import one_thread_each, process_state, seeded
from pretrain.sampling import CachedModel, generate
from reward.config import RankingOptions
from reward.labeller import ScoreFunction, rank
from reward.rankings import Ranking

NEAR = 0.8
"""Replies are near-duplicates from this share of common words and marks on: one word in five may differ."""
REDRAWS = 4
"""How often a reply that is a near-duplicate of another is drawn again."""

_WORDS_AND_MARKS = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def choose_prompts(pairs: Sequence[Pair], count: int, seed: int, excluded: frozenset[str]) -> list[Pair]:
    """At most `count` pairs in a seeded order, each prompt once and none of `excluded`."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        if pair.prompt not in excluded:
            first.setdefault(pair.prompt, pair)
    chosen = list(first.values())
    random.Random(seed).shuffle(chosen)
    return chosen[:count]


def collect_rankings(
    policy: CachedModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    config: RankingOptions,
    score: ScoreFunction,
    policy_name: str,
    seed: int,
    play_score: ScoreFunction | None = None,
) -> list[Ranking]:
    """One ranking of `config.responses` responses for every prompt, in the order of `pairs`.

    With a `play_score` the play's own reply, a pair's completion if it has one (cut at a sentence's end to what
    fits), is one more candidate, the last, and scored by it. Under `accelerate launch` the processes share the work and
    all return everything.
    """
    state, (prompt_length, response_length) = process_state(policy.device), config.lengths
    annotator, noise = config.labelling
    prompts = [encode_prompt(tokenizer, pair.prompt, prompt_length) for pair in pairs]
    # Prompts of one length waste no padding.
    order = sorted(range(len(pairs)), key=lambda index: len(prompts[index]))
    together = max(1, config.sample_batch_size // config.responses)
    batches = [order[start : start + together] for start in range(0, len(order), together)]

    def ranked_batch(number: int) -> list[tuple[int, Ranking]]:
        generator = seeded(seed * 1_000_003 + number, policy.device)
        drawn = generate(
            policy,
            [prompts[index] for index in batches[number] for _ in range(config.responses)],
            max_new_tokens=response_length,
            temperature=config.temperature,
            stop_ids=[tokenizer.eos_id],
            generator=generator,
        )
        ranked = []
        for place, index in enumerate(batches[number]):
            responses = drawn[place * config.responses : (place + 1) * config.responses]
            prompt = pairs[index].prompt
            texts = [tokenizer.decode(ids) for ids in responses]
            scores = [score(prompt, text) for text in texts]
            own = pairs[index].completion
            if play_score and own and (reply := encode_completion(tokenizer, own, response_length)):
                responses.append(reply.ids)
                texts.append(tokenizer.decode(reply.ids))
                scores.append(play_score(prompt, texts[-1]))
            ranking = Ranking(
                prompt=prompt,
                completions=texts,
                stopped=[ids[-1] == tokenizer.eos_id for ids in responses],
                ranking=rank(scores, noise, random.Random(f"{seed} {index}"), texts),
                annotator=annotator,
                policy=policy_name,
                seed=seed,
                prompt_ids=prompts[index],
                completion_ids=responses,
                scores=scores,
            )
            ranked.append((index, ranking))
        return ranked

    numbers = range(state.process_index, len(batches), state.num_processes)
    mine: list[tuple[int, Ranking]] = []
    with progress_bar("sample", len(pairs)) as bar, one_thread_each(policy.device) as workers:
        for ranked in workers.map(ranked_batch, numbers):
            mine += ranked
            bar.advance(len(ranked) * state.num_processes)
    everyone = gather_object(mine) if state.num_processes > 1 else mine
    return [ranking for _, ranking in sorted(everyone, key=lambda item: item[0])]


def near_duplicates(first: str, second: str) -> bool:
    """Whether two replies are the same but for case, white space, and one in five of their words and marks."""
    a, b = (_WORDS_AND_MARKS.findall(text.lower()) for text in (first, second))
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= NEAR


def draw_distinct(
    policy: CachedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[list[list[int]]]:
    """For every prompt `count` replies, as token ids, of which no two are near-duplicates.

    Near-duplicates are drawn again, at most `REDRAWS` times; after that a prompt has the fewer replies that differ,
    at least one. A reply ends with its end token, or after `max_new_tokens`.
    """
    replies: list[list[list[int]]] = [[] for _ in prompts]
    texts: list[list[str]] = [[] for _ in prompts]
    for _ in range(1 + REDRAWS):
        wanted = [number for number, found in enumerate(replies) for _ in range(count - len(found))]
        if not wanted:
            break
        drawn = generate(
            policy,
            [prompts[number] for number in wanted],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            stop_ids=[tokenizer.eos_id],
            generator=generator,
        )
        for number, ids in zip(wanted, drawn, strict=True):
            text = tokenizer.decode(ids)
            if not any(near_duplicates(text, other) for other in texts[number]):
                replies[number].append(ids)
                texts[number].append(text)
    return replies
