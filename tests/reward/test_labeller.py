import math
import random
from itertools import permutations

import pytest

from data.console import UserError
from reward.labeller import accuracy_ceiling, load_score_function, pair_agreement, rank, ranking_to_pairs


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_every_pair_is_ordered_as_bradley_and_terry_say():
    scores, temperature, draws = [0.3, 0.5, 0.55, 0.1], 0.2, 20_000
    rng = random.Random(0)
    before = [[0] * 4 for _ in range(4)]
    for _ in range(draws):
        order = [group[0] for group in rank(scores, temperature, rng)]
        for place, upper in enumerate(order):
            for lower in order[place + 1 :]:
                before[upper][lower] += 1
    for i, j in permutations(range(4), 2):
        expected = sigmoid((scores[i] - scores[j]) / temperature)
        # five standard errors of a share of 20,000 draws
        assert before[i][j] / draws == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(draws))


def test_whole_rankings_follow_plackett_and_luce():
    rng, draws = random.Random(1), 20_000
    weights = [math.exp(s / 0.5) for s in (0.0, 0.4, 0.2)]
    best_first = sum(rank([0.0, 0.4, 0.2], 0.5, rng) == [[1], [2], [0]] for _ in range(draws))
    expected = weights[1] / sum(weights) * weights[2] / (weights[0] + weights[2])
    assert best_first / draws == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(draws))


def test_identical_texts_share_one_place_and_one_draw():
    rng = random.Random(0)
    texts = ["ay", "no", "ay", "well"]
    first = 0
    for _ in range(20_000):
        ranking = rank([0.5, 0.5, 0.5, 0.5], 0.1, rng, texts)
        assert sorted(ranking) == [[0, 2], [1], [3]]
        first += ranking[0] == [0, 2]
    # Saying it twice does not make it likelier to win: one of three, not two of four.
    assert first / 20_000 == pytest.approx(1 / 3, abs=0.018)


def test_temperature_zero_is_the_exact_order_with_equals_tied():
    assert rank([0.2, 0.9, 0.2, 0.5], 0, random.Random(0)) == [[1], [3], [0, 2]]
    assert rank([0.2, 0.9, 0.9], 0, random.Random(0), ["a", "b", "a"]) == [[1], [0, 2]]


def test_the_same_seed_ranks_the_same_and_another_does_not():
    def many(seed: int) -> list[list[list[int]]]:
        rng = random.Random(seed)
        return [rank([0.1, 0.2, 0.3], 0.5, rng) for _ in range(20)]

    assert many(7) == many(7)
    assert many(7) != many(8)


@pytest.mark.parametrize(
    ("scores", "temperature", "texts"),
    [([0.1, 0.2], -1.0, None), ([0.1, math.nan], 0.1, None), ([0.1, 0.2], 0.1, ["only one"])],
)
def test_impossible_arguments_are_refused(scores, temperature, texts):
    with pytest.raises(ValueError, match=r"negative|finite|texts"):
        rank(scores, temperature, random.Random(0), texts)


def test_accuracy_ceiling_by_hand():
    # Margins of log 3 and log 9 temperatures: the labeller agrees with the scores in 3/4 and 9/10.
    pairs = [(0.1 * math.log(3), 0.0), (0.0, 0.1 * math.log(9))]
    assert accuracy_ceiling(pairs, 0.1) == pytest.approx((0.75 + 0.9) / 2)
    assert accuracy_ceiling([(0.4, 0.4)], 0.1) == 0.5
    assert accuracy_ceiling([(0.4, 0.4), (0.1, 0.2)], 0) == 0.75
    with pytest.raises(ValueError, match="no pairs"):
        accuracy_ceiling([], 0.1)


def test_knowing_the_scores_reaches_the_ceiling_and_not_more():
    rng, scores, draws = random.Random(3), [0.0, 0.1, 0.25], 20_000
    right = total = 0
    for _ in range(draws):
        for better, worse in ranking_to_pairs("cue", ["a", "b", "c"], rank(scores, 0.1, rng)):
            right += scores[better] > scores[worse]
            total += 1
    ceiling = accuracy_ceiling([(0.0, 0.1), (0.0, 0.25), (0.1, 0.25)], 0.1)
    assert right / total == pytest.approx(ceiling, abs=0.01)


def test_a_ranking_makes_all_its_pairs_but_none_of_equals():
    completions = ["a", "b", "c", "d"]
    assert ranking_to_pairs("cue", completions, [[2], [0, 3], [1]]) == [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]
    assert ranking_to_pairs("cue", ["a", "a", "b"], [[0], [1], [2]]) == [(0, 2), (1, 2)]


def test_what_a_partial_ranking_does_not_place_makes_no_pair():
    completions = ["a", "b", "c", "d"]
    assert ranking_to_pairs("cue", completions, [[3], [0, 1]]) == [(3, 0), (3, 1)]
    assert ranking_to_pairs("cue", completions, [[2]]) == ranking_to_pairs("cue", completions, []) == []
    assert ranking_to_pairs("cue", completions, [[0, 1, 2, 3]]) == []


@pytest.mark.parametrize("ranking", [[[0], [1], [1, 2]], [[0, 0], [1]], [[0], [1], [3]], [[-1], [0]]])
def test_a_ranking_names_its_completions_at_most_once(ranking):
    with pytest.raises(UserError, match=r"ROMEO.*at most once"):
        ranking_to_pairs("ROMEO:\n", ["a", "b", "c"], ranking)


@pytest.fixture
def taste(tmp_path, monkeypatch):
    (tmp_path / "own_taste.py").write_text(
        "import numpy\n"
        "limit = 3\n"
        "def longest(prompt, response): return len(response) - len(prompt)\n"
        "def exact(prompt, response): return numpy.float32(0.5)\n"
        "def wordy(prompt, response): return 'good'\n"
        "def lost(prompt, response): return float('nan')\n"
        "def sure(prompt, response): return True\n"
    )
    (tmp_path / "own_broken.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("taste")
def test_a_function_of_ones_own_scores():
    value = load_score_function("own_taste:longest")("who", "it is I")
    assert value == 4.0
    assert type(value) is float
    assert load_score_function("own_taste:exact")("a", "b") == 0.5


@pytest.mark.usefixtures("taste")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_taste", "module:callable"),
        (":longest", "module:callable"),
        ("own_taste:", "module:callable"),
        ("own_missing:longest", "no module 'own_missing'"),
        ("own_broken:longest", "no module 'a_library_nobody_has'"),
        ("own_taste:shortest", "shortest"),
        ("own_taste:limit", "int cannot be called"),
    ],
)
def test_a_function_that_cannot_be_had_is_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        load_score_function(spec)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("taste")
@pytest.mark.parametrize("name", ["wordy", "lost", "sure"])
def test_a_function_must_return_a_finite_number(name):
    with pytest.raises(UserError, match="finite float"):
        load_score_function(f"own_taste:{name}")("a", "b")


def test_agreement_of_two_rankings_counts_pairs() -> None:
    same = [[2], [0, 1], [3]]
    assert pair_agreement([]) == (0, 0)
    assert pair_agreement([(same, same)]) == (6, 6)
    assert pair_agreement([([[0], [1]], [[1], [0]])]) == (0, 1)
    assert pair_agreement([([[0], [1]], [[0, 1]])]) == (0.5, 1)
    assert pair_agreement([([[0], [1], [2]], [[2], [0]]), (same, [[0], [1]])]) == (0.5, 2)
    assert pair_agreement([(same, []), (same, [[1]])]) == (0, 0)
