import os

import pytest

from data.console import UserError
from data.corpus import load_corpus
from data.dialogue import (
    Pair,
    Speech,
    count_words,
    dialogue_pairs,
    encode_completion,
    encode_prompt,
    heldout_pairs,
    prompt_of,
    speeches,
    typed_speech,
)
from data.directions.direction import Direction
from data.directions.table import SPECS
from data.tokenizers import bpe_tokenizer, character_tokenizer

PLAY = """and so the tail of a speech that began before the cut.

MILLER:
The wheel stands still.
Who stopped the stream?

First Baker:
Not I.

[They look at the sluice]

MILLER:
Then who?

SEXTON:

MILLER:
This first line is far too long to be the heading of any speaker:
and so this is one speech.
"""


def numbered_play(n: int) -> str:
    return "\n\n".join(f"{'AB'[i % 2]}:\nLine number {i}." for i in range(n + 1))


def test_speeches_are_what_has_a_heading_and_lines():
    assert speeches(PLAY) == [
        Speech("MILLER", "The wheel stands still.\nWho stopped the stream?"),
        Speech("First Baker", "Not I."),
        Speech("MILLER", "Then who?"),
        Speech(
            "MILLER",
            "This first line is far too long to be the heading of any speaker:\nand so this is one speech.",
        ),
    ]


def test_a_long_line_with_a_colon_is_no_heading():
    assert speeches("This line ends in a colon and has many words:\nbut nobody says it.") == []
    assert speeches(f"{'N' * 39}:\nA heading of forty characters.")[0].speaker == "N" * 39
    assert speeches(f"{'N' * 40}:\nA heading of forty-one.") == []
    assert speeches(":\nNobody speaks.") == []


def test_directions_belong_to_the_heading_and_not_to_the_speaker():
    heading = "KATHARINA, asking, in two lines, beginning with Now"
    text = f"PETRUCHIO, telling:\nCome.\n\n{heading}:\nNow, is it\nso?"
    said = speeches(text)
    assert [speech.speaker for speech in said] == ["PETRUCHIO", "KATHARINA"]
    assert [[str(each) for each in speech.directions] for speech in said] == [
        ["telling"],
        ["asking", "in two lines", "beginning with Now"],
    ]
    assert "\n\n".join(map(str, said)) == text
    assert dialogue_pairs(text) == [Pair(f"PETRUCHIO, telling:\nCome.\n\n{heading}:\n", "Now, is it\nso?")]
    assert speeches(text, ()) == [Speech("PETRUCHIO, telling", "Come.")]  # by no table the other is prose


def test_a_pair_is_a_cue_with_the_next_heading_and_its_reply():
    assert dialogue_pairs(PLAY) == [
        Pair("MILLER:\nThe wheel stands still.\nWho stopped the stream?\n\nFirst Baker:\n", "Not I.")
    ]


def test_prompt_and_completion_together_are_the_text():
    text = numbered_play(3)
    cue, reply = text.split("\n\n")[1:3]
    pair = dialogue_pairs(text)[1]
    assert pair.prompt + pair.completion == f"{cue}\n\n{reply}"


def test_blank_lines_may_be_many_or_hold_spaces():
    assert dialogue_pairs("\n\nA: \nOne.\n \n\t\n\nB:\nTwo.  \n\n\n") == [Pair("A:\nOne.\n\nB:\n", "Two.")]


@pytest.mark.parametrize("text", ["", "\n\n", "no play at all", "A:\nOnly one speech."])
def test_text_without_dialogue_has_no_pairs(text):
    assert dialogue_pairs(text) == []
    assert heldout_pairs(text) == ([], [])


@pytest.mark.parametrize(("n", "n_test"), [(10, 6), (639, 383), (640, 512), (900, 540)])
def test_heldout_pairs_are_disjoint_by_prompt_and_complete(n, n_test):
    text = numbered_play(n)
    dev, test = heldout_pairs(text)
    assert (len(dev), len(test)) == (n - n_test, n_test)
    assert {pair.prompt for pair in dev}.isdisjoint(pair.prompt for pair in test)
    assert sorted(dev + test) == sorted(dialogue_pairs(text))


def test_a_prompt_that_returns_is_held_out_once():
    text = "\n\n".join(["A:\nWell?", "B:\nYes."] * 40)
    dev, test = heldout_pairs(text)
    assert len(dev) + len(test) == len({pair.prompt for pair in dialogue_pairs(text)}) == 2


def test_heldout_pairs_depend_on_the_seed_alone():
    text = numbered_play(50)
    assert heldout_pairs(text) == heldout_pairs(text, seed=0)
    assert heldout_pairs(text, seed=1).test != heldout_pairs(text, seed=2).test


@pytest.mark.skipif("TINYSHAKESPEARE_PATH" not in os.environ, reason="needs TINYSHAKESPEARE_PATH")
def test_the_real_text_gives_enough_pairs():
    corpus = load_corpus("tinyshakespeare")
    dev, test = heldout_pairs(corpus.validation)
    assert len(dialogue_pairs(corpus.train)) > 6_000
    assert len(test) >= 512
    assert len(dev) >= 300


def test_a_long_prompt_loses_its_beginning():
    tokenizer = character_tokenizer("abcdefgh")
    assert encode_prompt(tokenizer, "abcdefgh", 3) == tokenizer.encode("fgh")
    assert encode_prompt(tokenizer, "abc", 3) == tokenizer.encode("abc")
    assert encode_prompt(tokenizer, "abc", 0) == []


@pytest.mark.parametrize(
    ("length", "kept"),
    [
        (30, "One. “Two?” Three 3.5 ends"),
        (27, "One. “Two?” Three 3.5 ends"),
        (26, "One. “Two?”"),
        (12, "One. “Two?”"),
        (11, "One."),
        (5, "One."),
        (4, None),
        (0, None),
    ],
)
def test_a_long_completion_is_cut_at_a_sentence_and_ends(length, kept):
    completion = "One. “Two?” Three 3.5 ends"
    tokenizer = character_tokenizer(completion)
    encoded = encode_completion(tokenizer, completion, length)
    if kept is None:
        assert encoded is None
    else:
        assert encoded == ([*tokenizer.encode(kept), tokenizer.eos_id], kept != completion)


def test_completions_of_a_trained_tokenizer_fit_and_end():
    text = numbered_play(200)
    tokenizer = bpe_tokenizer(text, 300)
    long = " ".join(pair.completion for pair in dialogue_pairs(text))
    for length in (8, 64, 200):
        encoded = encode_completion(tokenizer, long, length)
        assert encoded is not None
        ids = encoded.ids
        assert encoded.cut
        assert len(ids) <= length
        assert ids[-1] == tokenizer.eos_id
        assert ids.count(tokenizer.eos_id) == 1
        kept = tokenizer.decode(ids)
        assert long.startswith(kept + " ")
        assert kept.endswith(".")


def test_a_prompt_is_what_was_said_and_who_is_to_answer():
    said = [Speech("ANNA", "Who is there?"), Speech("BEN", "A friend,\nand no thief.")]
    assert prompt_of(said[1:], "ANNA") == "BEN:\nA friend,\nand no thief.\n\nANNA:\n"
    assert prompt_of(said, "CARL") == "ANNA:\nWho is there?\n\nBEN:\nA friend,\nand no thief.\n\nCARL:\n"
    text = "\n\n".join(map(str, [*said, Speech("ANNA", "Come in.")]))
    assert [pair.prompt for pair in dialogue_pairs(text)] == [
        prompt_of([each], who) for each, who in zip(said, ["BEN", "ANNA"], strict=True)
    ]


@pytest.mark.parametrize(
    ("speaker", "text", "read"),
    [
        ("ANNA", "Who is there?", Speech("ANNA", "Who is there?")),
        (" ANNA: \n", " one \r\n\n  \ntwo ", Speech("ANNA", "one\ntwo")),
        ("A\nB: C", "x\u2028y", Speech("A B C", "x\ny")),
        ("x" * 99, "half \ud800", Speech("x" * 39, "half ?")),
        ("ANNA,asking ,  in two lines:", "So?", Speech("ANNA", "So?", (Direction(SPECS[0]), Direction(SPECS[4])))),
        ("x" * 99 + ", asking", "So?", Speech("x" * 39, "So?", (Direction(SPECS[0]),))),
        ("ANNA, weeping", "So.", Speech("ANNA, weeping", "So.")),
    ],
)
def test_what_is_typed_becomes_one_speech(speaker, text, read):
    assert typed_speech(speaker, text) == read
    assert speeches(str(read)) == [read]


@pytest.mark.parametrize(("speaker", "text"), [("", "x"), (":", "x"), ("A", " \n "), (", asking", "x")])
def test_an_empty_speech_is_refused(speaker, text):
    with pytest.raises(UserError, match="is empty"):
        typed_speech(speaker, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("Ay, my lord.", 3),
        ("None -- of that; it's well-kept.", 6),
        ("学而时习之\uff0c不亦说乎。", 9),
        ("はい、そうです。", 6),
        ("ใช่", 3),
        ("나는 집에 간다", 3),
        ("他说 yes, 3 次。", 5),
    ],
)
def test_words_of_scripts_without_spaces_are_their_characters(text, words):
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("好。你在说什么呢\uff1f我不知道。", "好。你在说什么呢\uff1f"),
        ("「好。」他说\uff0c我不知道", "「好。」"),
        ("हाँ। वह घर गया है।", "हाँ।"),
    ],
)
def test_sentences_of_other_scripts_end_too(completion, kept):
    tokenizer = character_tokenizer(completion)
    cut = encode_completion(tokenizer, completion, len(completion) - 2)
    assert cut is not None
    assert (tokenizer.decode(cut.ids), cut.cut) == (kept, True)
