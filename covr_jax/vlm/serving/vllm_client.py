"""HTTP client of a vLLM server, for the part of its OpenAI-compatible interface that a run uses. No Torch, no JAX.

/v1/models, /v1/chat/completions, /v1/load_lora_adapter and /v1/unload_lora_adapter. Every fault of the server or of the
way to it is a ``ServerError`` of one line.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from covr_jax.runtime.errors import one_line
from covr_jax.vlm.serving.protocol import PriorError

API_KEY = "COVR_VLLM_API_KEY"  # environment variable with the server's key; it is neither stored nor logged
_CONNECTIONS = 32  # requests at a time; they are kept alive
_CONNECT_S = 10.0  # longest wait for a connection
_SHOWN = 200  # characters of a server's message


class ServerError(PriorError):
    """The server gave no usable reply.

    Attributes:
      away: whether it could not be reached, or said nothing; else this request failed, and others may not.
    """

    def __init__(self, text: str, *, away: bool = False):
        super().__init__(text)
        self.away = away


class VLLMClient:
    """Client of one server. Methods may be called from several threads.

    Args:
      endpoint: 'http://host:port', with or without '/v1'.
      patience_s: longest silence of the server during a request.

    Raises:
      PriorError: if the key cannot be sent.
    """

    def __init__(self, endpoint: str, patience_s: float):
        self.endpoint = endpoint.rstrip("/").removesuffix("/v1")
        self._patience_s = patience_s
        key = os.environ.get(API_KEY, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise PriorError(f"{API_KEY} must hold printable ASCII characters only")
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(patience_s, connect=min(patience_s, _CONNECT_S)),
            limits=httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        )

    def model(self, name: str) -> str:
        """Returns the name under which the server answers with a model.

        Args:
          name: of the model, as ``load_backbone`` takes it.

        Raises:
          ServerError: if the server cannot be reached, refuses the key or serves another model.
        """
        reply = self._json(self._request("GET", "/v1/models"))
        wanted = name.partition("@")[0]
        try:
            cards = {str(card["id"]): card.get("root") for card in reply["data"] if not card.get("parent")}
        except (LookupError, TypeError, AttributeError) as error:
            raise ServerError(f"{self.endpoint} lists no models: it is no vLLM server") from error
        for served, root in cards.items():
            if wanted in (served, root):
                return served
        found = ", ".join(cards) or "no model"
        raise ServerError(
            f"the vLLM server at {self.endpoint} serves {found}, not {wanted}; start it with that model, or with"
            f" --served-model-name {wanted} if it is the same one"
        )

    def load_adapter(self, name: str, directory: Path) -> None:
        """Replaces the adapter of a name, and waits until the server has done so.

        Args:
          name: of the adapter, which requests then give as their model.
          directory: absolute path of the adapter in the server's file system.

        Raises:
          ServerError: if it could not be loaded; unless the server failed halfway, it still has the one of before.
        """
        adapter = {"lora_name": name, "lora_path": str(directory)}
        try:
            self._request("POST", "/v1/load_lora_adapter", adapter | {"load_inplace": True})
            # Servers remember the flag with the adapter, and would read the files again for every batch.
            self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})
            self._request("POST", "/v1/load_lora_adapter", adapter)
        except ServerError as error:
            if error.away:
                raise
            raise ServerError(
                f"{error}; to take {directory} it must see that path and be started with"
                " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a --max-lora-rank that suffices"
            ) from error

    def complete(
        self, body: Callable[[int], dict[str, Any]], count: int, responded: Callable[[], None]
    ) -> tuple[list[str | None], str]:
        """Requests chat completions, many at a time.

        Args:
          body: makes the i-th request; called in threads.
          count: number of requests.
          responded: called after each reply and each error.

        Returns:
          The texts, None where there is none, and the newest error; empty if there was none.
        """
        texts: list[str | None] = [None] * count
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        replies: queue.SimpleQueue[tuple[int, str | Exception, int]] = queue.SimpleQueue()
        for index in range(count):
            waiting.put(index)

        def work() -> None:
            for index in iter(lambda: _next(waiting), None):
                try:
                    replies.put((index, self._complete(body(index)), 0))
                except Exception as error:  # also one of our own must not leave the caller waiting
                    away = isinstance(error, ServerError) and error.away
                    replies.put((index, error, _drain(waiting) if away else 0))  # the others would meet the same

        # Daemons, and not an executor's threads: a server that hangs must not keep the process from ending.
        for _ in range(min(count, _CONNECTIONS)):
            threading.Thread(target=work, name="vllm", daemon=True).start()
        newest, open_requests = "", count
        while open_requests:
            try:
                index, reply, skipped = replies.get(timeout=self._patience_s + _CONNECT_S)
            except queue.Empty:
                _drain(waiting)
                return texts, f"the vLLM server at {self.endpoint} said nothing for {self._patience_s:g} s"
            open_requests -= 1 + skipped
            responded()
            if isinstance(reply, str):
                texts[index] = reply
            else:
                newest = str(reply) if isinstance(reply, ServerError) else f"{type(reply).__name__}: {one_line(reply)}"
        return texts, newest

    def _complete(self, body: dict[str, Any]) -> str:
        reply = self._json(self._request("POST", "/v1/chat/completions", body))
        try:
            text = reply["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise ServerError(f"the vLLM server at {self.endpoint} sent no answer") from error
        return text if isinstance(text, str) else ""

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        try:
            response = self._http.request(method, self.endpoint + path, json=body)
        except (httpx2.ConnectError, httpx2.TimeoutException) as error:
            raise ServerError(
                f"cannot reach the vLLM server at {self.endpoint} ({one_line(error)}); start it as docs/vlm.md says, or"
                " use another --vlm.mode",
                away=True,
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ServerError(f"the vLLM server at {self.endpoint} broke off: {one_line(error)}") from error
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            raise ServerError(f"the vLLM server at {self.endpoint} refuses the key; set {API_KEY} to its --api-key")
        if response.status_code != httpx2.codes.OK:
            status, text = response.status_code, _message(response)
            raise ServerError(f"the vLLM server at {self.endpoint} answers {status} to {path}: {text}")
        return response

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise ServerError(f"the vLLM server at {self.endpoint} sent something else than JSON") from error


def _message(response: httpx2.Response) -> str:
    """Returns what a server says of an error, as one line."""
    try:
        text = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:_SHOWN]


def _next(waiting: queue.SimpleQueue[int]) -> int | None:
    """Takes the next index out of a queue; None where there is none."""
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


def _drain(waiting: queue.SimpleQueue[int]) -> int:
    """Empties a queue; returns how many indices it held."""
    return sum(1 for _ in iter(lambda: _next(waiting), None))
