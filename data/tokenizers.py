"""Tokenizers: characters, trained byte-level BPE and GPT-2's, each a `tiktoken.Encoding` inside.

On disk a tokenizer is a `tokenizer.json` that the `tokenizers` library and transformers read to the same ids.
Numbering: the ordinary tokens 0 … n−1, then `<|endoftext|>` = n, then `<|pad|>` = n+1.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import tiktoken
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trained

from data.console import UserError
from data.jsonl import with_home, write_whole

Kind = Literal["char", "bpe", "gpt2"]

EOS = "<|endoftext|>"
PAD = "<|pad|>"
SPECIALS = (EOS, PAD)

# GPT-2's way of cutting text into pieces before BPE: contractions, words, numbers and punctuation with the
# space before them, and runs of whitespace that leave the last one to the word that follows.
GPT2_PATTERN = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s++$|\s+(?!\S)|\s+"
CHARACTER_PATTERN = r"[\s\S]"
GPT2_RANKS = 50_256
LONGEST_PIECE = 256
"""Bytes of a piece that BPE is trained on. Its trainer takes quadratic time in the longest piece, and DNA, base64 or a
rule of dashes is one piece from end to end. No piece of ordinary text is so long."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back. Two tokenizers are the same when their `sha256` is."""

    kind: Kind
    encoding: tiktoken.Encoding

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text: `<|endoftext|>` within it is spelled out, never the special token.

        Raises UserError where a character tokenizer meets a character that it does not know.
        """
        self.check(text)
        return self.encoding.encode_ordinary(text)

    def check(self, text: str) -> None:
        """Raise UserError for a text that `encode` would refuse."""
        if self.kind == "char" and (unknown := set(text) - self._alphabet):
            named = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in sorted(unknown)[:5])
            raise UserError(
                f"the character tokenizer does not know {named}; remove it from the text, "
                "or train with --tokenizer bpe, which knows every character"
            )

    def decode(self, ids: list[int], keep_special: bool = False) -> str:
        """Text of token ids, without the special ones unless kept; half a UTF-8 character becomes U+FFFD."""
        if not keep_special:
            ids = [id for id in ids if id not in (self.eos_id, self.pad_id)]
        return self.encoding.decode(ids, errors="replace")

    @property
    def eos_id(self) -> int:
        """`<|endoftext|>`, which ends a response."""
        return self.vocab_size - 2

    @property
    def pad_id(self) -> int:
        """`<|pad|>`, which fills a batch and is never learned."""
        return self.vocab_size - 1

    @cached_property
    def vocab_size(self) -> int:
        """Ids are 0 … vocab_size − 1, the two specials included."""
        return self.encoding.n_vocab

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the `tokenizer.json` that `save` writes."""
        return hashlib.sha256(self._tokenizer_json).hexdigest()

    def save(self, folder: str | Path, model_max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `AutoTokenizer` reads them, to `folder`."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": PAD,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        }
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        folder = with_home(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "tokenizer.json", self._tokenizer_json)
        write_whole(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode("utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Rebuild a saved tokenizer. Raises UserError if `tokenizer.json` is missing, broken or not ours."""
        path = with_home(folder) / "tokenizer.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            model, vocab = saved["model"], dict(saved["model"]["vocab"])
            special = {token["content"]: token["id"] for token in saved["added_tokens"]}
            ids, kind_of_model = sorted(vocab.values()), model.get("type")
            ranks = {_token_bytes(token, kind_of_model): id for token, id in vocab.items()}
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); is this a checkpoint?") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a tokenizer file ({error!r}); make the checkpoint again") from error
        n = len(vocab)
        ours = kind_of_model in ("WordLevel", "BPE") and ids == list(range(n)) and special == {EOS: n, PAD: n + 1}
        if not ours:
            raise UserError(f"{path} is not a tokenizer of this project ({EOS}, {PAD} must end it)")
        if kind_of_model == "WordLevel":
            return cls("char", _encoding("char", ranks))
        kind: Kind = "gpt2" if n == GPT2_RANKS and ranks.get(b" gazed") == 50_255 else "bpe"
        return cls(kind, _encoding(kind, ranks))

    @cached_property
    def _alphabet(self) -> frozenset[str]:
        return frozenset(token.decode("utf-8") for token in _ranks(self.encoding))

    @cached_property
    def _tokenizer_json(self) -> bytes:
        # Written by hand and not by the tokenizers library, so that the hash does not depend on its version.
        ranks = _ranks(self.encoding)
        parts = _character_model(ranks) if self.kind == "char" else _byte_level_model(ranks)
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [
            {"id": len(ranks) + i, "content": special, **flags, "special": True} for i, special in enumerate(SPECIALS)
        ]
        head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
        whole = {**head, "normalizer": None, "post_processor": None, **parts}
        return (json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def build_tokenizer(kind: Kind, text: str, vocab_size: int) -> Tokenizer:
    """The tokenizer `kind` for `text`; only `bpe` reads `vocab_size`, and `gpt2` reads neither."""
    if kind == "char":
        return character_tokenizer(text)
    if kind == "bpe":
        return bpe_tokenizer(text, vocab_size)
    if kind == "gpt2":
        return gpt2_tokenizer()
    raise UserError(f"tokenizer {kind!r} does not exist; choose one of {', '.join(get_args(Kind))}")


def character_tokenizer(text: str) -> Tokenizer:
    """One token for each distinct character of `text`, in sorted order, as in the course."""
    # tiktoken looks a whole piece up before it merges bytes, and the pattern makes each character a piece.
    ranks = {char.encode("utf-8"): rank for rank, char in enumerate(sorted(set(text)))}
    return Tokenizer("char", _encoding("char", ranks))


def bpe_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on `text`, with GPT-2's split pattern; deterministic.

    `vocab_size` counts the 256 bytes and the two specials; a text too short for so many merges gives fewer
    tokens. Raises UserError if `vocab_size` has no room for the bytes and the specials.
    """
    smallest = 256 + len(SPECIALS)
    if vocab_size < smallest:
        raise UserError(f"vocab_size {vocab_size} is too small for BPE; give {smallest} or more")
    trained = Trained(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.Split(Regex(rf"[\s\S]{{{LONGEST_PIECE}}}"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([text], trainer)
    vocab = trained.get_vocab(with_added_tokens=False)
    ranks = {bytes(_BYTE_OF_CHAR[char] for char in token): rank for token, rank in vocab.items()}
    return Tokenizer("bpe", _encoding("bpe", ranks))


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's 50,257 tokens and `<|pad|>` = 50,257. Raises UserError where tiktoken cannot get them."""
    try:
        gpt2 = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError is a wrong hash
        raise UserError(
            "GPT-2's vocabulary is not available: there is no network and no cached copy; "
            f"set TIKTOKEN_CACHE_DIR to a tiktoken cache, or use --tokenizer bpe ({type(error).__name__})"
        ) from error
    return Tokenizer("gpt2", _encoding("gpt2", _ranks(gpt2)))


def _encoding(kind: Kind, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
    return tiktoken.Encoding(
        name=f"shakespeare-rlhf-{kind}",
        pat_str=CHARACTER_PATTERN if kind == "char" else GPT2_PATTERN,
        mergeable_ranks=ranks,
        # After the ranks: transformers numbers them so whatever a file says; before them they would collide.
        special_tokens={special: len(ranks) + i for i, special in enumerate(SPECIALS)},
        explicit_n_vocab=len(ranks) + len(SPECIALS),
    )


def _ranks(encoding: tiktoken.Encoding) -> dict[bytes, int]:
    """The ordinary tokens by rank, in the attribute that tiktoken's README extends an encoding by."""
    return encoding._mergeable_ranks


def _character_model(ranks: dict[bytes, int]) -> dict[str, Any]:
    """Each character a word; no unknown token, so a character that is not known is an error, not a guess."""
    split, vocab = {"Regex": CHARACTER_PATTERN}, {token.decode("utf-8"): rank for token, rank in ranks.items()}
    return {
        "pre_tokenizer": {"type": "Split", "pattern": split, "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }


def _byte_level_model(ranks: dict[bytes, int]) -> dict[str, Any]:
    """BPE from ranks. tiktoken merges *any* two neighbours that make a token, the lowest rank first, so every
    such pair is a merge here, in the order of what it makes; and a piece that is a token is taken whole."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    merges = [
        [_to_chars(token[:cut]), _to_chars(token[cut:])]
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    return {
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {_to_chars(token): rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }


def _printable_bytes() -> dict[int, str]:
    """GPT-2's spelling of bytes: a printable byte is its Latin-1 character, the others follow from U+0100."""
    spelled = {byte: chr(byte) for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "}
    others = (byte for byte in range(256) if byte not in spelled)
    return spelled | {byte: chr(256 + i) for i, byte in enumerate(others)}


_CHAR_OF_BYTE = _printable_bytes()
_BYTE_OF_CHAR = {char: byte for byte, char in _CHAR_OF_BYTE.items()}


def _token_bytes(token: str, kind_of_model: str) -> bytes:
    """A token of a `tokenizer.json`, as it is spelled there, in bytes."""
    return bytes(_BYTE_OF_CHAR[char] for char in token) if kind_of_model == "BPE" else token.encode("utf-8")


def _to_chars(token: bytes) -> str:
    return "".join(_CHAR_OF_BYTE[byte] for byte in token)
