import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.dialogue import heldout_pairs
from reward.gold.__main__ import controls
from reward.gold.judge import COMMON_WORDS, GATES, WEIGHTS, GoldJudge, words_of
from reward.gold.syllables import pronunciations, spelled_syllables, syllables

OPENINGS = ["The keeper", "My brother", "The old queen", "A patient friar", "The pilot", "Our neighbour", "Her son"]
DEEDS = ["has seen", "will keep", "must carry", "would sell", "did bury", "may find", "cannot hold", "forgot"]
THINGS = """
lantern basket harbour garden winter ladder kettle bell anchor apple barley blanket bottle bridge
bucket butter cabbage carpet cellar chimney cradle curtain cushion feather ferry fiddle hammer
handle hedge honey jacket kitchen letter market mirror mitten needle orchard oven paper parcel
pebble pepper pillow pocket saddle shovel sparrow spindle table thimble timber turnip velvet wagon
whistle window
""".split()  # noqa: SIM905
KEEPERS = ["the", "a", "this", "her", "that", "our"]
PLACES = ["in the morning", "by the river", "with a candle", "under the hill", "for the children", "at the window"]


def made_up_play(seed: int = 0, speeches: int = 1500) -> str:
    """Sentences of one grammar, spoken by two people: enough text to learn which words stand side by side."""
    rng = random.Random(seed)

    def sentence() -> str:
        parts = (OPENINGS, DEEDS, KEEPERS, THINGS, PLACES)
        return " ".join(rng.choice(part) for part in parts) + rng.choice(".?!")

    def speech() -> str:
        return "\n".join(sentence() for _ in range(rng.randint(1, 4)))

    return "\n\n".join(f"{('ADA', 'BRAM')[i % 2]}:\n{speech()}" for i in range(speeches))


@pytest.fixture(scope="module")
def play() -> str:
    return made_up_play()


@pytest.fixture(scope="module")
def gold(play: str) -> GoldJudge:
    return GoldJudge(play)


VERSE = "The old queen has forgot the winter bell\nAnd we must carry candles to the hill."


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("morning", (2, 2)),
        ("fire", (1, 2)),  # the dictionary has both
        ("banished", (2, 3)),  # "banishèd" where the line wants it
        ("wanted", (2, 2)),
        ("call'd", (1, 1)),
        ("lantern's", (2, 2)),
        ("o'er", (1, 1)),
        ("know'st", (1, 1)),
        ("giveth", (2, 2)),
        ("burthen", (2, 2)),
        ("unsheathe", (2, 2)),
        ("proudlier", (3, 3)),
        ("o", (1, 1)),
        ("1597", (0, 0)),
    ],
)
def test_syllables(word, count):
    assert syllables(word) == count


def test_spelling_alone_mostly_agrees_with_the_dictionary():
    known = pronunciations()
    words = [word for word in sorted(known) if word.isalpha() and len(word) > 2][::50]
    right = sum(known[word][0] <= spelled_syllables(word) <= known[word][1] for word in words)
    assert right / len(words) > 0.85


def test_words_are_lower_case_without_punctuation():
    assert words_of("Ay, 'tis the king's--O! call\u2019d “home”") == [
        "ay",
        "tis",
        "the",
        "king's",
        "o",
        "call'd",
        "home",
    ]


def test_terms_make_the_score(gold):
    terms = gold.terms("ADA:\nWho comes?\n\nBRAM:\n", VERSE)
    assert set(terms) == {*WEIGHTS, *GATES, "verse"}
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert terms["craft"] == pytest.approx(terms["verse"] * terms["glue"] * terms["content"])
    total = sum(WEIGHTS[name] * terms[name] for name in WEIGHTS)
    assert gold("ADA:\nWho comes?\n\nBRAM:\n", VERSE) == pytest.approx(total)


def test_words_counts_a_nonword_four_times(gold):
    def words(text: str) -> float:
        return gold.terms("", text)["words"]

    assert words("The keeper has seen the lantern by the river.") == 1
    assert words("The keeper has seen the glorbix by the river.") == pytest.approx(1 - 4 / 9)
    assert words("The glorbix has seen the vrumple by the snarfit.") == 0
    assert words("The keeper has seen the % by the river.") == pytest.approx(1 - 4 / 8)
    assert words("Keeper!") == 0.25  # one word is not yet four


def test_unknown_words(gold):
    assert gold.unknown_words("My brother forgot the vrumple, the GLORBIX\u2019s $ and an encyclopedia.") == 3


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("He forgot.", 1),
        ("He forgot?!", 1),
        ("“He forgot.”", 1),
        ("He forgot,", 0.25),
        ("He forgot—", 0.25),
        ("He forgot", 0),
        ("He forgot.\n\nADA:\nWho forgot?", 0),
    ],
)
def test_ending(gold, text, ending):
    assert gold.terms("", text)["ending"] == ending


@pytest.mark.parametrize(
    ("text", "voice"),
    [
        (VERSE, 1),
        ("I have this to say:\nhe forgot.", 1),  # a colon alone makes no heading
        ("He forgot.\nADA:\nWho forgot?", 0.5),
        ("He forgot.\n\nWho forgot?", 0.5),
        ("He forgot.\n\nFirst Citizen:\nWho forgot?", 0.25),
        ("He forgot.\nKING OF THE BEES: Who?", 0.5),
    ],
)
def test_voice(gold, text, voice):
    assert gold.terms("", text)["voice"] == voice


@pytest.mark.parametrize(
    ("text", "verse"),
    [
        # Syllables of the lines: 10 and 10; 10; 11 and 10; 9 and 10; 3; 6 and 10.
        (VERSE, 1),
        ("The old queen has forgot the winter bell", 0.5),
        ("And she has lost the candle on the river\nAnd we must carry candles to the hill.", 1),
        ("The old queen forgot the winter bell\nAnd we must carry candles to the hill.", (0.5 * 9 + 10) / 20),
        ("We carry", 0),
        ("We carry it with us\nAnd we must carry candles to the hill.", 10 / 20),
    ],
)
def test_verse(gold, text, verse):
    assert gold.terms("", text)["verse"] == pytest.approx(verse)


def test_lines_over_two_must_scan_too(gold):
    prose = VERSE + "\nAnd so it goes and goes until the bell of the old harbour is under the river."
    assert gold.terms("", prose)["verse"] < 0.6


def test_loop_falls_with_the_share_of_repeated_pairs(gold):
    def loop(text: str) -> float:
        return gold.terms("", text)["loop"]

    assert loop(VERSE) == 1
    # 9 pairs of words, 2 of them repeated: (.4 − 2/9) / .3.
    assert loop("we must carry it if we must carry her home") == pytest.approx((0.4 - 2 / 9) / 0.3)
    assert loop("bell " * 12) == 0
    assert loop("Ring the bell.\n" * 3) == 0


def test_a_far_repetition_is_no_loop(gold):
    far = " ".join(f"w{i}" for i in range(50))
    assert gold.terms("", f"ring the bell {far} ring the bell")["loop"] == 1


def test_originality_by_hand():
    gold = GoldJudge("one two three four five six seven eight nine ten eleven twelve. " * 3)

    def originality(text: str, prompt: str = "") -> float:
        return gold.terms(prompt, text)["originality"]

    assert originality("One, two, three: four five six!") == 1
    assert originality("One, two, three: four five six seven!") == 0.75
    assert originality("so two three four five six seven eight nine then") == 0.5
    assert originality("one two three four five six seven eight nine ten") == 0
    cue = "ADA:\nA cuckoo and a kettle went along the road to York today.\n\nBRAM:\n"
    assert originality("A cuckoo and a kettle went along the road to York today.", cue) == 0


def test_a_text_that_repeats_itself_may_be_repeated():
    rng = random.Random(0)
    sayings = [" ".join(rng.choice(THINGS) for _ in range(9)) + "." for _ in range(40)]
    refrains = GoldJudge(" ".join(rng.choice(sayings) for _ in range(400)))
    assert refrains.terms("", sayings[0])["originality"] == 1
    assert GoldJudge(" ".join(sayings * 2)).terms("", " ".join(sayings))["originality"] == 0


def test_longest_copy():
    gold = GoldJudge("We went along the road to York. We went along the river, and a bell rang.")
    assert gold.longest_copy("They WENT along the River, and a horse sang") == 6
    assert gold.longest_copy("along the road to York we went along the river") == 10  # over a full stop
    assert gold.longest_copy("york bell") == 1
    assert gold.longest_copy("nothing here") == 0
    assert gold.longest_copy("") == 0


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_longest_copy_is_the_longest_common_substring(words, source):
    joined = " " + " ".join(source) + " "
    runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    longest = max((len(run) for run in runs if " " + " ".join(run) + " " in joined), default=0)
    assert GoldJudge(" ".join(source)).longest_copy(" ".join(words)) == longest


def test_glue_knows_which_words_stand_side_by_side(gold):
    def glue(text: str) -> float:
        return gold.terms("", text)["glue"]

    sentence = "My brother will keep the ladder by the river. The pilot would sell a bell at the window."
    scattered = "By brother the at. Bell will my pilot the the river keep a ladder window sell the would the."
    assert glue(sentence) > 0.8
    assert glue(scattered) < 0.2
    assert glue("Glorbix vrumple snarfit quonk.") == 0


def test_content_asks_for_more_than_common_words():
    gold = GoldJudge(" ".join(f"r{i} f{i % COMMON_WORDS}" for i in range(1200)) * 2)
    # The last tenth of the text has every other word rare: half as many get half the marks.
    assert gold.terms("", "r1 f1 r2 f2")["content"] == pytest.approx(1, abs=0.05)
    assert gold.terms("", "r1 f1 f3 f2")["content"] == pytest.approx(0.5, abs=0.05)
    assert gold.terms("", "f1 f1 f3 f2")["content"] == 0


@pytest.mark.parametrize("nothing", ["", "  \n ", "...", "?!"])
def test_no_words_no_score(gold, nothing):
    assert gold("ADA:\nWho?\n\nBRAM:\n", nothing) == 0


def test_each_step_towards_craft_raises_the_score(gold):
    steps = [
        "Kettle kettle kettle kettle kettle",
        "Winter the of sell bell queen old forgot must",
        "The old queen has forgot the winter bell",
        "The old queen has forgot the winter bell.",
        VERSE,
    ]
    scores = [gold("", text) for text in steps]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


@given(st.text(max_size=200) | st.text(alphabet="aeth :\n.,'ABC-\u2019", max_size=200), st.text(max_size=60))
def test_every_term_is_between_nothing_and_all(gold, response, prompt):
    terms = gold.terms(prompt, response)
    assert all(0 <= value <= 1 for value in terms.values())
    assert 0 <= gold(prompt, response) <= 1


@pytest.mark.parametrize("text", ["", "word", "ADA:\n", "Nur ein Satz ist da: kurz, und schön, für alle."])
def test_any_training_text_makes_a_gold(text):
    assert 0 <= GoldJudge(text)("", "The bell rings for us all.") <= 1


def test_another_language_scores_by_its_own_text():
    rng = random.Random(0)
    parts = [
        ["der Müller", "die Königin", "mein Bruder"],
        ["trägt", "verkauft", "vergaß"],
        ["die Glocke", "den Mühlstein"],
    ]
    german = GoldJudge(" ".join(" ".join(rng.choice(part) for part in parts) + "." for _ in range(800)))
    assert german.unknown_words("Die Königin verkauft den Mühlstein.") == 0
    assert german("", "Die Königin verkauft den Mühlstein.") > german("", "Mühlstein die den verkauft Königin.") + 0.1


def mean_scores(text: str) -> dict[str, float]:
    train, validation = text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]
    gold = GoldJudge(train)
    kinds = controls(train, heldout_pairs(validation).dev, random.Random(0))
    return {kind: sum(gold(*pair) for pair in pairs) / len(pairs) for kind, pairs in kinds.items()}


def test_a_made_up_play_scores_above_what_imitates_it(play):
    score = mean_scores(play)
    real = score["real, 80 to 150"]
    for imitation in ("- words shuffled", "random words", "rare words", "function words", "one word", "- unfinished"):
        assert score[imitation] < real - 0.1, imitation
    assert score["one word repeated"] == score["one line looped"] == score["empty"] == 0


@pytest.mark.skipif("TINYSHAKESPEARE_PATH" not in os.environ, reason="needs TINYSHAKESPEARE_PATH")
def test_shakespeare_scores_above_what_imitates_him():
    score = mean_scores(Path(os.environ["TINYSHAKESPEARE_PATH"]).read_text(encoding="utf-8"))
    real, any_length = score["real, 80 to 150"], score["real, cut to 150"]
    assert real > 0.75
    for imitation in ("- words shuffled", "random words", "rare words", "function words"):
        assert score[imitation] < real - 0.25, imitation
        assert score[imitation] < any_length - 0.1, imitation
    for hack in ("- heading inside", "two copied lines", "one line looped", "one word", "one word repeated"):
        assert score[hack] < 0.3, hack
    assert score["empty"] == 0
