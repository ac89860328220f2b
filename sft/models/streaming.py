"""One reply as it is written: the tokens one at a time, and the text that they make so far."""

import codecs
from collections.abc import Collection, Iterator, Sequence

import torch

from data.tokenizers import Tokenizer
from pretrain.machine import seeded
from pretrain.sampling import CachedModel, sample_tokens


@torch.inference_mode()
def stream(
    model: CachedModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    seed: int = 0,
) -> Iterator[int]:
    """The continuation of one prompt token by token: what `pretrain.sampling.generate` gives for it with `noise_of`.

    The random numbers depend on `seed` alone, so several models draw with the same ones. ValueError for an empty
    prompt, at the first token.
    """
    if len(prompt) == 0:
        raise ValueError("a prompt must hold at least one token")
    noise = noise_of(seed, max_new_tokens)
    if model.device.type != "cpu":  # which may not have float64
        noise = noise.float().to(model.device)
    ids = list(prompt)[-model.context_length :]
    room = min(model.context_length, len(ids) + max_new_tokens)
    fresh, first, position, cache = ids, 0, 0, model.new_cache(1, room)
    for place in range(max_new_tokens):
        if len(ids) - first > room:  # the context is full: start again from its later half, as `generate` does
            first = len(ids) - room // 2 - 1
            fresh, position, cache = ids[first:], 0, model.new_cache(1, room)
        positions = torch.arange(position, position + len(fresh), device=model.device)[None]
        logits = model.step(torch.tensor([fresh], device=model.device), positions, None, cache)
        token = int(sample_tokens(logits, temperature, top_k, top_p, None, noise[:, place]))
        position += len(fresh)
        fresh = [token]
        ids.append(token)
        yield token
        if token in stop_ids:
            return


def noise_of(seed: int, tokens: int) -> torch.Tensor:
    """What decides the draws of one reply, (1, `tokens`), float64 in [0, 1), the same on every device."""
    return torch.rand(1, tokens, dtype=torch.float64, generator=seeded(seed))


class TextStream:
    """Token ids to text as they come: a character is given out when its last byte is there, never half of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes; none for a special token."""
        if token in (self.tokenizer.eos_id, self.tokenizer.pad_id):
            return ""
        return self._decoder.decode(self.tokenizer.encoding.decode_single_token_bytes(token))

    def end(self) -> str:
        """U+FFFD where the text ends within a character, as `Tokenizer.decode` has it; nothing otherwise."""
        return self._decoder.decode(b"", final=True)
