"""An OpenAI-compatible endpoint for a trained adapter: python -m deploy.serve [folder or experiment] [--port 8000]

A thin application over stages/inference.py, not transformers' own server on a merged model: persona, template, names,
history and guards are then exactly those of training and evaluation, the folder of the adapter is all it needs, and
the base model answers beside her. For many users on a GPU, --print-vllm prints the command of an engine made for that.
"""

import argparse
import asyncio
import hmac
import ipaddress
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse
except ModuleNotFoundError as error:  # `make env` alone leaves them out
    sys.exit(f"error: expected the packages of requirements-serve.txt, found no {error.name}\nhint: make serve-env")

from deploy.adapters import DEFAULT, find_adapter
from deploy.engine import Ask, Ending, Engine, Overloaded
from deploy.page import page
from deploy.vllm import prepare
from deploy.wire import ChatRequest, RequestError, chunk, completion, head, models, read_request, to_ask, usage
from stages.cli import run
from stages.inference import load_character
from stages.records import InputError

Card = Mapping[str, Any]
Spoken = AsyncIterator[str | Ending]
Speak = Callable[[Ask], Spoken]

LIMIT = 1 << 20  # bytes of a request
LOOPBACK = "127.0.0.1"
KEY = "SERVE_API_KEY"


def make_app(card: Card, speak: Speak, key: str | None = None) -> FastAPI:
    """The application: her page at /, her voice at /v1. Without a key it answers this machine alone."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their pages would load scripts from elsewhere
    started = int(time.time())

    @app.exception_handler(RequestError)
    async def refuse(_request: Request, error: RequestError) -> Response:
        return JSONResponse(error.body(), error.status)

    @app.get("/")
    async def show() -> Response:
        return page()

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        admit(request, key)
        return {"object": "list", "data": models(card, started)}

    @app.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> dict[str, Any]:
        admit(request, key)
        found = [model for model in models(card, started) if model["id"] == name]
        if not found:
            raise RequestError(404, f"no model {name!r} here", "model_not_found")
        return found[0]

    @app.post("/v1/chat/completions")
    async def answer(request: Request) -> Response:
        admit(request, key)
        asked = read_request(await read_body(request))
        spoken = speak(to_ask(asked, card))
        said = await unless_gone(request, next_piece(spoken) if asked.stream else whole(spoken, asked))
        if said is None:
            return Response()
        if asked.stream:
            return StreamingResponse(events(said, spoken, asked), media_type="text/event-stream")
        return JSONResponse(said)

    return app


# --- who may ask


def admit(request: Request, key: str | None) -> None:
    """With a key: whoever has it. Without: this machine, and no web page but ours (it could be any site's script)."""
    if key is not None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise RequestError(401, "expected the API key as `Authorization: Bearer …`", "invalid_api_key")
        return
    if not is_loopback(host := asked_host(request)):
        raise RequestError(403, f"expected a loopback address, got {host!r}", "forbidden_host")
    origin = request.headers.get("origin")
    if origin and origin != f"{request.url.scheme}://{request.url.netloc}":
        raise RequestError(403, f"expected a request from this address, got one from {origin}", "forbidden_origin")


def asked_host(request: Request) -> str:
    """The host that the client named; `request.url` falls back to the server's own where it cannot be read."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def read_body(request: Request) -> bytes:
    """The body; more than LIMIT bytes are refused before they are read."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LIMIT:
            raise RequestError(413, f"expected at most {LIMIT:,} bytes", "request_too_large")
    return bytes(body)


# --- answers


async def next_piece(spoken: Spoken) -> str | Ending:
    """The next piece. What is wrong with a request shows at the first, before a response begins."""
    try:
        return await anext(spoken)
    except InputError as error:
        raise RequestError(400, str(error), "context_length_exceeded") from error
    except Overloaded as error:
        raise RequestError(503, str(error), "overloaded") from error
    except Exception as error:
        raise RequestError(500, f"{type(error).__name__}: {error}", "failed") from error


async def whole(spoken: Spoken, asked: ChatRequest) -> dict[str, Any]:
    """All of the reply as one object."""
    text = ""
    while not isinstance(piece := await next_piece(spoken), Ending):
        text += piece
    return completion(text, piece, asked.model)


async def events(first: str | Ending, spoken: Spoken, asked: ChatRequest) -> AsyncIterator[str]:
    """The reply as server-sent events."""
    top = head("chat.completion.chunk", asked.model)
    yield event(chunk(top, {"role": "assistant", "content": ""}))
    piece = first
    try:
        while not isinstance(piece, Ending):
            yield event(chunk(top, {"content": piece}))
            piece = await next_piece(spoken)
        yield event(chunk(top, {}, piece.reason))
        if asked.stream_options.include_usage:
            yield event({**top, "choices": [], "usage": usage(piece)})
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield event(error.body())
    finally:
        await spoken.aclose()


def event(value: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def unless_gone(request: Request, reply: Any) -> Any:
    """The reply, or its first piece; None when the client has left before that."""
    writing = asyncio.ensure_future(reply)
    watching = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({writing, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await writing if writing.done() else None
    finally:
        writing.cancel()
        watching.cancel()


async def gone(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- the command


def listen(host: str, port: int, key: str | None) -> socket.socket:
    """A socket at the address; raises InputError if it is taken, open to others without a key, or the key unfit."""
    if not is_loopback(host) and not key:
        raise InputError(
            f"expected an API key for {host}, which others can reach, got none\n"
            f"hint: --api-key WORD or {KEY}=WORD, or stay on {LOOPBACK}"
        )
    if key and not (key.isascii() and key.isprintable()):
        raise InputError(
            "--api-key: expected printable ASCII characters, for no other fits an HTTP header, got others\n"
            'hint: --api-key "$(openssl rand -hex 8)"'
        )
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"{host}:{port}: {error.strerror}\nhint: --port {port + 1}") from error


def address(host: str, port: int) -> str:
    """The URL of a listening server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(folder: Path, host: str, port: int, key: str | None, announce: Callable[[str, Card], str]) -> None:
    """Load the adapter and answer until interrupted."""
    listening = listen(host, port, key)
    print(f"loading {folder} …", file=sys.stderr)
    character = load_character(folder)
    app = make_app(character.card, Engine(character).speak, key)
    print(announce(address(host, listening.getsockname()[1]), character.card), flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


def parse(description: str, *, vllm: bool = False) -> argparse.Namespace:
    """The options that serve and web share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("adapter", nargs="?", default=DEFAULT, help="a folder, or the name of an experiment")
    parser.add_argument("--host", default=LOOPBACK, help="another one than loopback needs a key")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--api-key", default=os.environ.get(KEY) or None, help=f"default: ${KEY}")
    if vllm:
        parser.add_argument("--print-vllm", action="store_true", help="print the command for vLLM on a GPU, and end")
    return parser.parse_args()


def main() -> None:
    options = parse(__doc__.splitlines()[0], vllm=True)
    folder = find_adapter(options.adapter)
    if options.print_vllm:
        print(prepare(folder, options.host, options.port, options.api_key))
        return

    def announce(url: str, card: Card) -> str:
        return f"{card['character']} answers at {url}/v1 (model {card['character']!r}), her page at {url}/"

    serve(folder, options.host, options.port, options.api_key, announce)


if __name__ == "__main__":
    run(main)
