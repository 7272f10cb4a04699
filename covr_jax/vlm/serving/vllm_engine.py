"""An engine that is fine-tuned in this process and answers on a vLLM server, which loads each new adapter.

N samples, H W image, C = 3 channels for each of the frames of a sample, A action.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import math
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from covr_jax.types import Prior
from covr_jax.vlm.decode import parse_all
from covr_jax.vlm.prompts import chat_messages
from covr_jax.vlm.serving.protocol import SERVER_COUNTERS, Engine, PriorError, Question, Report
from covr_jax.vlm.serving.vllm_client import VLLMClient

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from covr_jax.vlm.serving.protocol import Actions, Frames, Weights

_PUSH_AGAIN_S = 60.0  # pause before an adapter that the server did not take is offered again


class TunedEngine(Engine, Protocol):
    """An engine of this process whose question can be asked elsewhere, such as ``engine.VLMEngine``."""

    @property
    def question(self) -> Question:
        """What is asked with every sample."""
        ...


class VLLMEngine:
    """One VLM that is fine-tuned here and answers there; see ``protocol.Engine``.

    Every frame of a query is a request of its own. A frame without an answer has an invalid prior; a query without any
    answer, and an adapter that cannot be brought to the server when it is loaded, are a ``PriorError``. After a round
    whose adapter the server does not take, the one of before answers, and the new one is offered again now and then.

    Args:
      build: makes the engine that is fine-tuned; called after the server has answered.
      name: of its model.
      endpoint: address of the server.
      patience_s: longest silence of the server during a request.
      store: directory for the adapter that the server reads; it must see it under the same path.

    Attributes:
      counters: those of the engine that is fine-tuned, unanswered (frames that the server gave no answer to) and
        push_failures (adapters that it did not take).
      working: called after each answer and each fault of the server, and by the engine that is fine-tuned.

    Raises:
      PriorError: if the server cannot be reached, refuses the key, serves another model or takes no adapters.
      RuntimeError: from ``build``.
      ValueError: from ``build``.
    """

    def __init__(self, build: Callable[[], TunedEngine], name: str, endpoint: str, patience_s: float, store: Path):
        self._client = VLLMClient(endpoint, patience_s)
        self._base = self._client.model(name)
        self._trainer = trainer = build()
        self._question = trainer.question
        self.name, self.prompt, self.parameter_count = trainer.name, trainer.prompt, trainer.parameter_count
        self.counters = trainer.counters
        self.counters.update(dict.fromkeys(SERVER_COUNTERS, 0))
        self._store = Path(store).absolute()
        digest = hashlib.sha256(str(self._store).encode()).hexdigest()[:12]
        self._adapter = f"covr-{digest}"  # runs that share a server differ in it
        self._served = ""  # name of the directory of the adapter that the server has
        self._push_again = math.inf  # time from which the newest adapter is offered again
        self._adapter_enabled = True
        self._push()

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights in the memory of this process."""
        return self._trainer.memory_bytes

    @property
    def working(self) -> Callable[[], None] | None:
        """See ``protocol.Engine``."""
        return self._trainer.working

    @working.setter
    def working(self, call: Callable[[], None] | None) -> None:
        """Sets it."""
        self._trainer.working = call

    def query(self, frames: Frames) -> Prior:
        """Returns the priors a_v of N samples.

        Args:
          frames: u8[N,H,W,C].

        Returns:
          NumPy arrays: action f32[N,A] in [-1, 1] (zeros where not valid), valid bool[N].

        Raises:
          PriorError: if the server answers none of them.
        """
        started = time.perf_counter()
        if time.monotonic() >= self._push_again:
            with contextlib.suppress(PriorError):  # counted; the adapter of before answers
                self._push()
        texts, error = self._ask(frames)
        answered = len(texts) - texts.count(None)
        if texts and not answered:
            raise PriorError(error)
        action, valid = parse_all(["" if text is None else text for text in texts], self._question.action_dim)
        self.counters["latency_s"] = time.perf_counter() - started
        self.counters["query_s"] += self.counters["latency_s"]
        self.counters["queries"] += 1
        self.counters["frames"] += answered
        self.counters["parse_failures"] += answered - int(valid.sum())
        return Prior(action, valid)

    def answer(self, frames: Frames) -> list[str]:
        """Returns the answers as text, one per sample; empty where there is none. The text is untrusted."""
        return ["" if text is None else text for text in self._ask(frames)[0]]

    def finetune(
        self, frames: Frames, actions: Actions, weights: Weights, progress: Report | None = None
    ) -> dict[str, Any]:
        """Runs one round in this process and brings the adapter to the server.

        Args:
          frames: u8[N,H,W,C].
          actions: f32[N,A].
          weights: f32[N], w_b of Eq. 6.
          progress: called as (step, number of steps, loss).

        Returns:
          The result of the engine that is fine-tuned; push_error is added if the server did not take the adapter.
        """
        record = self._trainer.finetune(frames, actions, weights, progress)
        try:
            self._push()
        except PriorError as error:
            return record | {"push_error": str(error)}
        return record

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[VLLMEngine]:
        """Context in which the untuned model answers."""
        before, self._adapter_enabled = self._adapter_enabled, False
        try:
            yield self
        finally:
            self._adapter_enabled = before

    def save_adapter(self, directory: Path) -> None:
        """Writes the newest adapter to a directory."""
        self._trainer.save_adapter(directory)

    def load_adapter(self, directory: Path) -> None:
        """Reads what ``save_adapter`` wrote and brings it to the server.

        Raises:
          PriorError: if the server does not take it.
          RuntimeError: if it cannot be read.
        """
        self._trainer.load_adapter(directory)
        self._push()

    def _push(self) -> None:
        """Writes the newest adapter to a directory of its own, since the server may read that of before again."""
        self._tidy()
        name = secrets.token_hex(8)
        self._push_again = math.inf
        try:
            self._trainer.save_adapter(self._store / name)
            self._client.load_adapter(self._adapter, self._store / name)
        except PriorError:
            self.counters["push_failures"] += 1
            self._push_again = time.monotonic() + _PUSH_AGAIN_S
            self._say_working()
            raise
        self._served = name
        self._tidy()

    def _tidy(self) -> None:
        """Deletes all adapters but the one that the server has."""
        for other in self._store.glob("*"):
            if other.name != self._served:
                shutil.rmtree(other, ignore_errors=True)

    def _ask(self, frames: Frames) -> tuple[list[str | None], str]:
        """Returns the server's answers, None where there is none, and its newest error."""
        array = np.asarray(frames)
        texts, error = self._client.complete(lambda index: self._request(array[index]), len(array), self._say_working)
        self.counters["unanswered"] += texts.count(None)
        return texts, error

    def _say_working(self) -> None:
        if self.working is not None:
            self.working()

    def _request(self, frames: UInt8[np.ndarray, "H W C"]) -> dict[str, Any]:
        """Body of the request about one sample."""
        question = self._question
        images = [
            {"type": "image_url", "image_url": {"url": png_url(frame, question.image_size)}}
            for frame in np.split(frames, frames.shape[-1] // 3, -1)
        ]
        body: dict[str, Any] = {
            "model": self._adapter if self._adapter_enabled else self._base,
            "messages": chat_messages(question.prompt, images, system_role=question.system_role),
            "temperature": 0,
            "max_tokens": question.max_tokens,
            "repetition_penalty": 1.0,  # checkpoints set 1.05, which penalises the second zero of 0.00
        }
        if question.pattern is not None:
            body["structured_outputs"] = {"regex": question.pattern}
        if self._adapter_enabled:  # the server finds what it remembers of a prompt by the adapter's name, which stays
            body["cache_salt"] = self._served
        return body


def png_url(frame: UInt8[np.ndarray, "H W 3"], size: int | None) -> str:
    """Returns a frame as a data URL, without loss.

    Args:
      frame: pixels.
      size: height = width to which the frame is resized, by Pillow as ``models.images.resize`` does, up to one level;
        None: as it is.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame))
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
