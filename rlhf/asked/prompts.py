"""The prompts that alignment trains on: some ask for something, the others are as the play has them."""

import random
from collections.abc import Sequence

from data.directions.drawing import Directions
from data.directions.headings import directed, last_speaker, split_prompt

PASSES = 3
"""Times that every prompt is in the mixture, each time with requests of its own."""
HOW_MANY = (0.9, 0.1)
"""Probability that a directed prompt asks for 1 or 2 directions."""
MAIN_SHARE = 0.9
"""Share of the first requests that are of the main kinds."""
MAIN_WEIGHTS = {"lines": 2}
"""How often a main kind is asked for, where that is not once: four numbers take longer to learn than three marks."""


def mixed_prompts(prompts: Sequence[str], table: Directions, share: float, seed: int) -> list[str]:
    """Every prompt three times, each time directed with the probability `share`, in a random order.

    A prompt without a heading never is."""
    rng = random.Random(f"mixed prompts {seed}")
    mixed = [
        draw_directed(prompt, table, rng) if split_prompt(prompt, ())[1] and rng.random() < share else prompt
        for _ in range(PASSES)
        for prompt in prompts
    ]
    rng.shuffle(mixed)
    return mixed


def draw_directed(prompt: str, table: Directions, rng: random.Random) -> str:
    """The prompt with one or two requests, the main kinds much more often than the others, and of each what replies
    seldom do unasked more often than the rest: it takes longer to learn."""
    main, kinds = table.main_kinds, [*table.kinds()]
    others = [kind for kind in kinds if kind not in main]
    first = rng.choice(others or main)
    if not others or rng.random() < MAIN_SHARE:
        first = rng.choices(main, [MAIN_WEIGHTS.get(kind, 1) for kind in main])[0]
    more = [kind for kind in main if kind != first]
    second = [rng.choice(more)] if more and rng.choices((1, 2), HOW_MANY)[0] == 2 else []
    return directed(prompt, table.draw_several([first, *second], rng, last_speaker(prompt), rarer=True))
