"""Rankings of the play's replies: their labels are the rule's, and both sorts of replies are alike."""

import random
from collections import Counter

import pytest

from data.dialogue import Pair, dialogue_pairs
from data.directions.drawing import Directions
from data.directions.headings import directions_of, split_prompt
from data.directions.specs import Direction, Spec, load_specs
from data.directions.table import HELD_OUT_COMBINATIONS, HELD_OUT_WORDS
from data.pastiche import pastiche
from data.tokenizers import Tokenizer, bpe_tokenizer
from reward.following.rankings import MAIN_WEIGHT, PlayRankings, draw_directions, follows, play_rankings
from reward.rankings import Ranking

LENGTHS = (40, 32)
PLAY = pastiche(characters=60_000).text
PAIRS = dialogue_pairs(PLAY)
SPECS = [spec for spec in load_specs("built-in") if spec.trained]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe_tokenizer(PLAY, 400)


@pytest.fixture(scope="module")
def directions() -> Directions:
    return Directions(SPECS, [pair.completion for pair in PAIRS])


def maker(directions: Directions, tokenizer: Tokenizer, short_prompt: int | None = None, seed: int = 1) -> PlayRankings:
    return PlayRankings(directions, [pair.completion for pair in PAIRS], tokenizer, LENGTHS, seed, short_prompt)


@pytest.fixture(scope="module")
def rankings(directions: Directions, tokenizer: Tokenizer) -> list[Ranking]:
    return play_rankings(maker(directions, tokenizer), PAIRS, 240, 6)


def test_what_follows_stands_above_what_does_not(rankings: list[Ranking], tokenizer: Tokenizer) -> None:
    assert len(rankings) == 240
    for ranking in rankings:
        asked = directions_of(ranking.prompt, SPECS)
        above, below = ranking.ranking
        assert asked
        assert sorted(above + below) == list(range(len(ranking.completions)))
        assert all(follows(asked, ranking.completions[index]) for index in above)
        assert not any(follows(asked, ranking.completions[index]) for index in below)
        assert ranking.pairs()


def test_what_is_judged_is_what_the_model_reads(rankings: list[Ranking], tokenizer: Tokenizer) -> None:
    for ranking in rankings:
        assert tokenizer.decode(ranking.prompt_ids) == ranking.prompt[-len(tokenizer.decode(ranking.prompt_ids)) :]
        for text, stopped, ids in zip(ranking.completions, ranking.stopped, ranking.completion_ids, strict=True):
            assert tokenizer.decode(ids) == text
            assert 0 < len(ids) <= LENGTHS[1]
            assert (ids[-1] == tokenizer.eos_id) == stopped
    unfinished = [not stopped for ranking in rankings for stopped in ranking.stopped]
    assert 0.02 < sum(unfinished) / len(unfinished) < 0.3


def test_neither_sort_is_told_by_its_place_its_number_or_its_length(rankings: list[Ranking]) -> None:
    """Else a model would learn that, and not to read."""
    above = [len(ranking.ranking[0]) / len(ranking.completions) for ranking in rankings]
    assert 0.25 < sum(above) / len(above) < 0.6
    first = [0 in ranking.ranking[0] for ranking in rankings]
    assert first.count(True) == pytest.approx(sum(above), rel=0.2)
    longer = [
        len(ranking.completion_ids[a]) > len(ranking.completion_ids[b])
        for ranking in rankings
        for a, b in ranking.pairs()
    ]
    assert 0.3 < sum(longer) / len(longer) < 0.7


def test_the_next_prompt_asks_the_same_replies_for_something_else(rankings: list[Ranking]) -> None:
    for first, second in zip(rankings[0::2], rankings[1::2], strict=True):
        assert first.completion_ids == second.completion_ids
        here, there = (directions_of(ranking.prompt, SPECS) for ranking in (first, second))
        assert [each.kind for each in here] == [each.kind for each in there]
        assert sum(a != b for a, b in zip(here, there, strict=True)) == 1
    changed = [a.ranking != b.ranking for a, b in zip(rankings[0::2], rankings[1::2], strict=True)]
    assert sum(changed) / len(changed) > 0.95


def test_nothing_is_asked_that_is_held_out_and_the_main_kinds_most(
    directions: Directions, rankings: list[Ranking]
) -> None:
    rng = random.Random(0)
    drawn = [draw_directions(directions, rng, "ANNE") for _ in range(2000)]
    counts = Counter(map(len, drawn))
    assert set(counts) == {1, 2, 3}
    assert counts[1] > counts[2] > counts[3] > 100
    kinds = Counter(direction.kind for asked in drawn for direction in asked)
    assert set(kinds) == {spec.kind for spec in SPECS}
    single = Counter(each[0].kind for each in drawn if len(each) == 1)
    main = sum(single[kind] for kind in directions.main_kinds)
    assert main / single.total() == pytest.approx(2 * MAIN_WEIGHT / (2 * MAIN_WEIGHT + 3), abs=0.03)
    for asked in [*drawn, *(directions_of(ranking.prompt, SPECS) for ranking in rankings)]:
        texts = {str(direction) for direction in asked}
        assert len({direction.kind for direction in asked}) == len(asked)
        assert not any(combination <= texts for combination in HELD_OUT_COMBINATIONS)
        assert not {direction.value for direction in asked} & HELD_OUT_WORDS


def test_a_short_prompt_keeps_its_heading(directions: Directions, tokenizer: Tokenizer) -> None:
    short = play_rankings(maker(directions, tokenizer, short_prompt=4), PAIRS, 60, 4)
    lengths = [len(ranking.prompt_ids) for ranking in short]
    assert sum(length < 24 for length in lengths) > 20
    assert max(lengths) == LENGTHS[0]
    for ranking in short:
        read, heading = tokenizer.decode(ranking.prompt_ids), f"{split_prompt(ranking.prompt, SPECS)[1]}:\n"
        assert read.endswith(heading) or (heading.endswith(read) and len(ranking.prompt_ids) == LENGTHS[0])


def test_the_seed_decides(directions: Directions, tokenizer: Tokenizer, rankings: list[Ranking]) -> None:
    assert play_rankings(maker(directions, tokenizer), PAIRS, 20, 6) == rankings[:20]
    assert play_rankings(maker(directions, tokenizer, seed=2), PAIRS, 20, 6) != rankings[:20]


def test_a_direction_that_no_reply_of_both_sorts_is_found_for_has_no_ranking(tokenizer: Tokenizer) -> None:
    always = Spec("any", "anyhow", lambda reply: True, lambda reply: 1.0, lambda reply: "")
    found = PlayRankings(Directions([always], ["Well."]), ["Well.", "Nay."], tokenizer, LENGTHS, 1)
    assert found.twins("A:\n", [Direction(always)], 4, random.Random(0)) == []
    assert play_rankings(found, [Pair("A:\nHow?\n\nB:\n", "")], 5, 4) == []


def test_a_table_of_ones_own_is_learned_from(tokenizer: Tokenizer) -> None:
    """With a value that hardly a reply has by chance: it is put into some."""

    def has(reply: str, word: str) -> bool:
        return word in reply.split()

    own = Spec("naming", "naming {}", has, lambda reply, word: float(has(reply, word)), lambda reply: None)
    table = Directions([own], [])
    table.values["naming {}"].update(["harpsichord"])
    found = play_rankings(maker(table, tokenizer), PAIRS, 20, 6)
    assert len(found) == 20
    for ranking in found:
        assert ", naming harpsichord:\n" in ranking.prompt
        assert all("harpsichord" in ranking.completions[index].split() for index in ranking.ranking[0])
    assert sum(len(ranking.ranking[0]) for ranking in found) > 30
