"""Describe a corpus; write its text or its dialogue pairs to files: python -m data [--corpus NAME-OR-FILE]

Reads: a corpus (--corpus): a named text or a UTF-8 file of your own.

Does: counts characters, words, speeches and prompt–reply pairs.

Writes: the counts to the terminal; with --write the text to a file, with --pairs `sft.jsonl` and `prompts.jsonl` to a
folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data.console import UserError, is_main_process, run_command
from data.corpus import Corpus, load_corpus
from data.dialogue import dialogue_pairs, heldout_pairs, speeches
from data.jsonl import write_jsonl, write_whole
from data.run.options import command_line


@dataclass(frozen=True)
class Options:
    """Describe a corpus; write its text or its prompt–reply pairs."""

    corpus: str = "auto"
    """Text to read: auto, tinyshakespeare, complete, pastiche, or the path of a UTF-8 file."""
    write: Path | None = None
    """Write the text to this file."""
    pairs: Path | None = None
    """Write sft.jsonl (the training text's pairs) and prompts.jsonl (held-out dev prompts) to this folder."""
    overwrite: bool = False
    """Replace files that exist."""


def main() -> None:
    """Read the options, describe the corpus, write what was asked for."""
    options = command_line(Options, __doc__)
    targets = [options.write] if options.write else []
    if options.pairs:
        targets += [options.pairs / "sft.jsonl", options.pairs / "prompts.jsonl"]
    for target in targets:
        if target.exists() and not options.overwrite:
            raise UserError(f"{target} exists; choose another place or add --overwrite")
    corpus = load_corpus(options.corpus)
    if not is_main_process():
        return
    print(describe(corpus))
    if options.write:
        _writable(options.write.parent)
        write_whole(options.write, corpus.text.encode("utf-8"))
    if options.pairs:
        train, dev = dialogue_pairs(corpus.train), heldout_pairs(corpus.validation).dev
        if not train or not dev:
            raise UserError(
                f"{corpus.name} has no dialogue to pair: write each speech as SPEAKER: on a line, "
                "its lines below, and a blank line between speeches"
            )
        _writable(options.pairs)
        write_jsonl(options.pairs / "sft.jsonl", (pair._asdict() for pair in train))
        write_jsonl(options.pairs / "prompts.jsonl", ({"prompt": pair.prompt} for pair in dev))


def describe(corpus: Corpus) -> str:
    """One fact per line, named."""
    text, train, validation = corpus.text, corpus.train, corpus.validation
    dev, test = heldout_pairs(validation)
    words = set(re.findall(r"[^\W\d_]+", text.lower()))
    facts = {
        "corpus": corpus.name,
        "SHA-256": corpus.sha256,
        "characters": f"{len(text):,} ({len(train):,} train, {len(validation):,} validation)",
        "distinct characters": f"{len(set(text)):,}",
        "distinct words": f"{len(words):,}",
        "speeches": f"{len(speeches(text)):,}",
        "pairs": f"{len(dialogue_pairs(train)):,} train, {len(dev):,} dev, {len(test):,} test",
    }
    if corpus.entropy_bits_per_char is not None:
        facts["entropy of its grammar"] = f"{corpus.entropy_bits_per_char:.3f} bits per character"
    if corpus.notice:
        facts["notice"] = corpus.notice
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a folder; choose another place") from error


if __name__ == "__main__":
    run_command(main)
