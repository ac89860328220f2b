"""A reward that is computed by a service, in another process or on another machine."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import torch
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from data.console import UserError
from rlhf.ppo.rewards.base import PolicyTokens, Reward, RewardRecipe
from rlhf.ppo.rewards.function import FunctionReward

BUSY = (429, 500, 502, 503, 504)
"""Answers after which a service is asked again."""


class HttpReward(RewardRecipe):
    """A service that scores texts.

    It is sent `POST url` with JSON {"prompts": […], "responses": […], COLUMN: […], …}, all of one length, and answers
    with a JSON list of as many finite numbers; or with {"scores": […], NAME: […], …}, of which all but the scores are
    metrics that are logged. Each process of a launch asks for its own share of the responses.
    """

    def __init__(
        self,
        url: str,
        *,
        columns: Sequence[str] = (),
        batch_size: int = 64,
        timeout: float = 60.0,
        retries: int = 5,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """columns: of the prompts' data, sent along. batch_size: responses per request. timeout: seconds until an
        answer must begin. retries: further attempts where nobody answers in time, or the answer is 429 or a server's
        error; after pauses of 0, 1, 2, 4, … seconds. headers: of every request, such as an authorization.
        """
        if not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise UserError(f"the address of the reward is {url!r}: give one that begins with http:// or https://")
        if isinstance(columns, str) or {"prompts", "responses"} & {*columns}:
            raise UserError(f"columns is {columns!r}: give a list of names, prompts and responses not among them")
        if not (isinstance(batch_size, int) and batch_size >= 1):
            raise UserError(f"batch_size is {batch_size!r}: it must be a whole number of at least 1")
        if not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
            raise UserError(f"timeout is {timeout!r}: it must be a number of seconds above 0")
        if not (isinstance(retries, int) and retries >= 0):
            raise UserError(f"retries is {retries!r}: it must be a whole number of 0 or more")
        self.url, self.columns, self.batch_size, self.timeout = url, tuple(columns), batch_size, timeout
        again = Retry(retries, backoff_factor=0.5, status_forcelist=BUSY, allowed_methods=None, raise_on_status=False)
        self.session = requests.Session()
        self.session.headers.update(headers or {})
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=again))

    def build(self, policy: PolicyTokens, batch_rows: int, device: torch.device) -> tuple[Reward, None]:
        return FunctionReward(self._ask, policy, device, self.columns, f"the reward at {self.url}"), None

    def _ask(self, prompts: list[str], responses: list[str], **columns: list[Any]) -> Any:
        """(scores, metrics) of any number of responses, `batch_size` per request."""
        rows = {**columns, "prompts": prompts, "responses": responses}
        found: dict[str, list[float]] = {}
        for start in range(0, len(responses), self.batch_size):
            batch = {name: values[start : start + self.batch_size] for name, values in rows.items()}
            answer = self._post(batch)
            if found and answer.keys() != found.keys():
                raise UserError(
                    f"the reward at {self.url} answered with {', '.join(answer)} after {', '.join(found)}: give the "
                    "same metrics each time"
                )
            for name, values in answer.items():
                found.setdefault(name, []).extend(values)
        return found.pop("scores", []), found

    def _post(self, batch: dict[str, Any]) -> dict[str, list[float]]:
        """Scores and metrics of one request; UserError where there is no answer of this kind."""
        try:
            answer = self.session.post(self.url, json=batch, timeout=self.timeout, allow_redirects=False)
        except (TypeError, requests.exceptions.InvalidJSONError) as error:
            raise UserError(f"the columns cannot be sent to {self.url} as JSON ({error}): leave them out") from error
        except requests.RequestException as error:
            reason = getattr(error.args[0] if error.args else None, "reason", error)  # of urllib3's last attempt
            raise UserError(
                f"the reward at {self.url} does not answer ({type(reason).__name__}): see whether it runs, and start "
                "again"
            ) from error
        if answer.status_code != requests.codes.ok:
            raise UserError(
                f"the reward at {self.url} answered {answer.status_code} {answer.reason} ({answer.text[:100]!r}): it "
                "must answer 200 and scores"
            )
        try:
            given = answer.json()
        except requests.exceptions.JSONDecodeError:
            given = answer.text
        named = given if isinstance(given, dict) else {"scores": given}
        count = len(batch["responses"])
        for name, values in {"scores": None, **named}.items():
            if not (isinstance(values, list) and len(values) == count and all(map(_is_number, values))):
                raise UserError(
                    f"the reward at {self.url} answered {values!r:.80} as {name} for {count} responses: it must be a "
                    "list of one finite number for each"
                )
        return named


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
