"""The run's models by name, loaded when they are first asked, and what can be said of their replies."""

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from data.console import UserError
from data.dialogue import Pair, Speech, dialogue_pairs, encode_prompt, heldout_pairs, prompt_of, speeches, typed_speech
from data.directions.drawing import Directions
from data.directions.headings import Heading, read_directions
from data.run.folder import run_corpus
from data.run.options import check_ranges
from data.run.record import check_descends, read_parent
from data.tokenizers import Tokenizer
from pretrain.machine import choose_device
from reward.gold.judge import GoldJudge
from reward.model import RewardModel
from rlhf.judging.metrics import cut_at_blank_line
from rlhf.judging.replies import end_at_blank_line
from rlhf.judging.sources import SOURCES, STAGES
from rlhf.judging.stages import FOLLOWING
from sft.directions import run_directions, usable_directions
from sft.models.batch import Batch
from sft.models.forward import LogProbs
from sft.models.loading import load_causal_lm
from sft.models.sampling import sampler
from sft.models.streaming import TextStream, stream

LONGEST, LONGEST_TEXT = 400, 4000
"""Tokens of a reply, and characters of a prompt, at most."""
Kept = TypeVar("Kept", LogProbs, RewardModel)


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn."""

    seed: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    length: int = 80
    """Tokens, at most."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Sampling":
        """The settings among `values`, whatever else is there; UserError for a value that is none."""
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})

    def __post_init__(self) -> None:
        kinds = {
            "seed": int,
            "temperature": int | float,
            "top_k": int | None,
            "top_p": int | float | None,
            "length": int,
        }
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, kinds[name]):
                raise UserError(f"{name} must be a number, not {value!r:.40}")
        check_ranges(self, counts="top_k length", not_negative="seed temperature", shares="top_p", positive="top_p")
        for name, most in (("length", LONGEST), ("temperature", 100), ("seed", 2**64 - 1)):
            if getattr(self, name) > most:
                raise UserError(f"{name} must be at most {most}, but is {getattr(self, name)}")


class Speaker(NamedTuple):
    """Who can answer."""

    title: str
    folder: Path
    ends: bool = True
    """By `<|endoftext|>`; else at the first blank line."""
    note: str = "has learned this taste"


NOTES = {"pretrain": "has only read", "sft": "has learned to answer", "rlhf": "has learned what is preferred"}
"""What a stage has learned, by its key."""


class Cast:
    """All who can answer in a run. Requests take turns: `lock` is held for every step of a model."""

    def __init__(self, run: Path, device: str = "auto") -> None:
        """UserError where the run has no finished sft stage."""
        self.run, self.device, self.lock = run, choose_device(device), threading.RLock()
        self.sft = read_parent(run, "sft")
        self.tokenizer, self.corpus = Tokenizer.load(run / "sft"), run_corpus(run, self.sft)
        self.specs = run_directions(self.sft)
        """The directions that the models know; none in a run without."""
        self.length: int = self.sft.config["response_length"]
        """Tokens of a reply, at most, as the models learned."""
        self._kept: dict[Path, tuple[int, Any]] = {}

    @property
    def tastes(self) -> list[str]:
        """The finished tastes by name."""
        return sorted(path.parent.parent.name for path in self.run.glob("tastes/[!.]*/rlhf/stage.json"))

    @property
    def speakers(self) -> dict[str, Speaker]:
        """Who can answer at present, by the name that votes know them by: a folder of the run."""
        stages = {key: SOURCES[key] for key in STAGES if SOURCES[key].folder}
        found = {
            key: Speaker(each.title, self.run / each.folder, each.ends, NOTES[key]) for key, each in stages.items()
        }
        found |= {f"tastes/{name}": Speaker(name, self.run / "tastes" / name / "rlhf") for name in self.tastes}
        return {key: speaker for key, speaker in found.items() if (speaker.folder / "stage.json").exists()}

    @property
    def rewards(self) -> dict[str, Path]:
        """The reward models by title: the run's own, and those of tastes."""
        folders = {"reward": self.run / "reward", "following": self.run / FOLLOWING} | {
            f"reward, {name}": self.run / "tastes" / name / "reward" for name in self.tastes
        }
        return {title: folder for title, folder in folders.items() if (folder / "stage.json").exists()}

    @cached_property
    def gold(self) -> GoldJudge:
        return GoldJudge(self.corpus.train)

    @cached_property
    def training(self) -> list[Pair]:
        return dialogue_pairs(self.corpus.train)

    @cached_property
    def directions(self) -> Directions | None:
        """Who draws directions; None in a run without."""
        return usable_directions(self.specs, self.training)

    @property
    def choices(self) -> dict[str, tuple[list[str], list[str]]]:
        """By kind: the directions that can be asked for, and what stands before the value of those that take one."""
        kinds: dict[str, tuple[list[str], list[str]]] = {}
        for spec in self.specs:
            kinds.setdefault(spec.kind, ([], []))[spec.has_value].append(spec.text)
        return kinds

    def prompt(self, said: Iterable[Speech], answerer: str, asked: str = "") -> str:
        """What was said, and who is to answer as directed; UserError for directions that cannot be asked for.

        answerer: the name, and after it directions, if any; asked: more of them.
        """
        heading = typed_speech(answerer, "-", self.specs)
        directions = read_directions(", ".join([*map(str, heading.directions), asked]), self.specs)
        return prompt_of(said, str(Heading(heading.speaker, directions)))

    def typed(self, values: Mapping[str, Any]) -> str:
        """`prompt` of what somebody typed: {"speakers", "texts", "answerer", "asked"}."""
        said = map(typed_speech, values["speakers"], values["texts"])
        return self.prompt(said, values["answerer"], values["asked"])

    @cached_property
    def heldout(self) -> list[Pair]:
        """What blind votes are about: no model learned from it, and no comparison reads it."""
        return heldout_pairs(self.corpus.validation).dev

    def cue(self) -> dict[str, str]:
        """A held-out line and who answers it: {"speaker", "text", "answerer"}."""
        if not self.heldout:
            raise UserError("the run's text holds no dialogue")
        pair = random.choice(self.heldout)
        cue, reply = speeches(pair.prompt + pair.completion)
        return {"speaker": cue.speaker, "text": cue.lines, "answerer": reply.speaker}

    def speaker(self, key: str) -> Speaker:
        if (speaker := self.speakers.get(key)) is None:
            raise UserError(f"there is no {key!r:.80} in {self.run}: choose one of {', '.join(self.speakers)}")
        return speaker

    def encode(self, prompt: str) -> list[int]:
        """A prompt as the models read it; UserError for what is none."""
        if not prompt.strip() or len(prompt) > LONGEST_TEXT:
            raise UserError(f"a prompt has 1 to {LONGEST_TEXT} characters, not {len(prompt)}")
        return encode_prompt(self.tokenizer, prompt, self.sft.config["prompt_length"])

    def answers(self, prompt: str, whom: Sequence[str], sampling: Sampling) -> Iterator[dict[str, Any]]:
        """Everybody's reply to the prompt as it grows, a token of each in turn: {"who", "text"}, all text so far.

        The last of each has "ids" and "stopped" too, or only "error". UserError, at the first, for a prompt or speaker
        that is none.
        """
        ids = self.encode(prompt)
        replies = {key: self._reply(self.speaker(key), ids, sampling) for key in whom}
        while replies:
            for key in list(replies):
                try:
                    with self.lock:
                        event = next(replies[key], None)
                except UserError as error:
                    event, replies[key] = {"error": str(error)}, iter(())
                if event is None:
                    del replies[key]
                else:
                    yield {"who": key} | event

    def reply(self, prompt: str, who: str, sampling: Sampling) -> dict[str, Any]:
        """The last of `answers` of one of them."""
        return list(self.answers(prompt, [who], sampling))[-1]

    def judge_typed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`judged` of the reply "ids" of "who" to what is `typed`."""
        return self.judged(self.typed(values), values["who"], values["ids"])

    @torch.no_grad()
    def judged(self, prompt: str, who: str, ids: Sequence[int]) -> dict[str, Any]:
        """What is known of a reply: scores by title, the gold judge's, its terms, and (text, log-ratio to SFT) of each
        of its tokens, in nats; a token that is not a whole character is joined to the next ones."""
        speaker, stop = self.speaker(who), self.tokenizer.eos_id
        if not 0 < len(ids) <= LONGEST + 1 or not all(type(id) is int and 0 <= id <= stop for id in ids):
            raise UserError("a reply is a list of token ids")
        prompt_ids, written = self.encode(prompt), [id for id in ids if id != stop or speaker.ends]
        with self.lock:
            scores = {
                title: self._load(folder, RewardModel.load).score([(prompt_ids, ids)]).item()
                for title, folder in self.rewards.items()
            }
            ratios: list[float] = []
            if written:
                batch = Batch([prompt_ids], [written], self.device)
                own, sft = (self._logprobs(folder)(batch)[0] for folder in (speaker.folder, self.run / "sft"))
                ratios = (own - sft).tolist()
            terms = self.gold.terms(prompt, self.tokenizer.decode(list(ids)))
        decoder, tokens, ratio = TextStream(self.tokenizer), [], 0.0
        for id, more in zip(written, ratios, strict=True):
            text, ratio = "∎" if id == stop else decoder.feed(id), ratio + more
            if text:
                tokens.append((text, round(ratio, 3)))
                ratio = 0.0
        return {"scores": scores, "gold": self.gold.score(terms), "terms": terms, "tokens": tokens}

    def _reply(self, speaker: Speaker, prompt: list[int], sampling: Sampling) -> Iterator[dict[str, Any]]:
        decoder, ids, text = TextStream(self.tokenizer), list[int](), ""
        for token in stream(
            sampler(self._logprobs(speaker.folder)),
            prompt,
            max_new_tokens=sampling.length,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            stop_ids=[self.tokenizer.eos_id],
            seed=sampling.seed,
        ):
            ids.append(token)
            text += decoder.feed(token)
            if not speaker.ends and cut_at_blank_line(text)[1]:
                break
            yield {"text": text.rstrip("\n")}
        text, stopped = self.tokenizer.decode(ids), ids[-1] == self.tokenizer.eos_id
        if not speaker.ends:
            text, ids, stopped = end_at_blank_line(self.tokenizer, ids)
        yield {"text": text, "ids": ids, "stopped": stopped}

    def _logprobs(self, folder: Path) -> LogProbs:
        return self._load(folder, lambda path: LogProbs(load_causal_lm(path, self.device)))

    def _load(self, folder: Path, load: Callable[[Path], Kept]) -> Kept:
        """What was loaded from a stage's folder, loaded again where the stage was replaced since."""
        made = (folder / "stage.json").stat().st_mtime_ns
        if self._kept.get(folder, (0, None))[0] != made:
            record = read_parent(folder.parent, folder.name, tokenizer_sha256=self.sft.tokenizer_sha256)
            if folder.name in ("reward", FOLLOWING, "rlhf"):
                check_descends(record, self.sft, folder.parent)
            self._kept[folder] = made, load(folder)
        kept: Kept = self._kept[folder][1]
        return kept
