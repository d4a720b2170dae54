"""gRPC: a process for each worker, raw bytes as messages, over Unix sockets."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from benchmarks.contestants.base import Contestant, Echo, MethodKind, Unsupported
from benchmarks.payloads import PayloadKind

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Grpc(Contestant):
    """Servers with a thread pool, and one on an event loop for async methods."""

    name = "grpc"
    statement = "import grpc"
    distribution = "grpcio"
    max_workers = 64

    def start(self, workers: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-grpc-"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.channels: list[grpc.Channel] = []
        for i in range(workers):
            self._serve(f"plain{i}")
        self.calls = [self._connect(f"plain{i}") for i in range(workers)]
        for answer in [
            call.future(pickle.dumps(("ping", (0,))), wait_for_ready=True) for call in self.calls
        ]:
            answer.result(60)
        self.async_call: Any = None

    def stop(self) -> None:
        for channel in self.channels:
            channel.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)
        shutil.rmtree(self.directory)

    def _serve(self, name: str) -> None:
        command = [sys.executable, "-m", "benchmarks.contestants.with_grpc", self._target(name)]
        self.processes.append(subprocess.Popen(command))

    def _connect(self, name: str) -> Any:
        channel = grpc.insecure_channel(self._target(name), OPTIONS)
        self.channels.append(channel)
        return channel.unary_unary("/Echo/call")

    def _target(self, name: str) -> str:
        return f"unix:{self.directory}/{name}"

    def _call(self, kind: MethodKind) -> Any:
        if kind == "plain":
            return self.calls[0]
        if self.async_call is None:
            self._serve("async")
            self.async_call = self._connect("async")
            self.async_call(pickle.dumps(("ping", (0,))), wait_for_ready=True)
        return self.async_call

    def ping(self, value: int, kind: MethodKind) -> int:
        answer: int = pickle.loads(self._call(kind)(pickle.dumps(("ping", (value,)))))
        return answer

    async def open_loop(self) -> None:
        self._call("async")
        self.loop_channels = {
            kind: grpc.aio.insecure_channel(self._target(name), OPTIONS)
            for kind, name in (("async", "async"), ("plain", "plain0"))
        }
        self.loop_calls = {k: c.unary_unary("/Echo/call") for k, c in self.loop_channels.items()}

    async def close_loop(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self.loop_channels.values()))

    async def aping(self, value: int, kind: MethodKind) -> int:
        answer: int = pickle.loads(await self.loop_calls[kind](pickle.dumps(("ping", (value,)))))
        return answer

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        if kind != "bytes":
            raise Unsupported  # its messages are bytes
        self.calls[0](pickle.dumps(("prepare", (kind, size_bytes))))

    def send(self, payload: Any) -> int:
        if not isinstance(payload, bytes):
            raise Unsupported
        answer: int = pickle.loads(self.calls[0](payload))
        return answer

    def receive(self) -> Any:
        return self.calls[0](pickle.dumps(("give", ())))

    def spin(self, seconds: float) -> Callable[[], object]:
        result: Callable[[], object] = (
            self.calls[0].future(pickle.dumps(("spin", (seconds,)))).result
        )
        return result

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Gives every request to one function."""

    def __init__(self, behaviour: Callable[..., Any]) -> None:
        self.handler = grpc.unary_unary_rpc_method_handler(behaviour)

    def service(self, handler_call_details: Any) -> Any:
        return self.handler


def answer(echo: Echo, request: bytes) -> bytes:
    """Carry out one request: a small pickled call, or a large argument as it is."""
    if len(request) > 1 << 16:
        return pickle.dumps(len(request))
    method, arguments = pickle.loads(request)
    result = getattr(echo, method)(*arguments)
    return result if isinstance(result, bytes) else pickle.dumps(result)


def serve_plain(target: str) -> None:
    """Serve on threads."""
    echo = Echo()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((Handler(lambda request, _: answer(echo, request)),))
    server.add_insecure_port(target)
    server.start()
    server.wait_for_termination()


async def serve_async(target: str) -> None:
    """Serve on an event loop."""
    echo = Echo()

    async def behaviour(request: bytes, _: object) -> bytes:
        return answer(echo, request)

    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Handler(behaviour),))
    server.add_insecure_port(target)
    await server.start()
    await server.wait_for_termination()


def main(arguments: Sequence[str]) -> None:
    """Serve at a target until terminated."""
    (target,) = arguments
    if target.endswith("async"):
        asyncio.run(serve_async(target))
    else:
        serve_plain(target)


if __name__ == "__main__":
    main(sys.argv[1:])
