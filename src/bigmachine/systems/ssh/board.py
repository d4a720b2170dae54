"""The driver's end of the switchboard: its process, and a socket for each host that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.systems.directories import make_directory

if TYPE_CHECKING:
    from bigmachine.systems.ssh.order import Order

_MAX_SAID_BYTES: Final = 2000
_MAX_MESSAGE_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.005
_PREAMBLE: Final = b"bigmachine/1 line".ljust(64, b"\0")
# Where the driver finds its modules; it has no others, and runs nobody's start-up files.
_STUB: Final = (
    "import json, sys; config = json.load(sys.stdin); sys.path[:] = config['sys_path']; "
    "from bigmachine.systems.ssh.switchboard import main; main(config)"
)


class Board:
    """A switchboard's process. Any thread may use it."""

    def __init__(self) -> None:
        self._closing = threading.Lock()
        self._directory, self._lock = make_directory("ssh")
        self._path = ""
        try:
            self._process = self._start()
        except BaseException:
            self._remove()
            raise

    def __repr__(self) -> str:
        return f"<Board {self._path} pid={self._process.pid}>"

    @property
    def gateway(self) -> str:
        """Where hosts are asked for (`rpc.dialer`)."""
        return f"unix:{self._path}"

    @property
    def pid(self) -> int:
        """The switchboard's process."""
        return self._process.pid

    async def is_alive(self) -> bool:
        """Return whether the process serves; its exit status may come later than its end."""
        from bigmachine.rpc.dialer import connect_unix

        try:
            (await connect_unix(self._path)).close()
        except OSError:
            return False
        return self._process.poll() is None

    async def order(self, order: Order) -> LineHolder:
        """Have a host connected to; what becomes of it is told by what is returned.

        Raises:
            ProvisionError: The switchboard is gone.
        """
        from bigmachine.rpc.dialer import connect_unix

        text = json.dumps(order.to_mapping()).encode() + b"\n"
        try:
            sock = await connect_unix(self._path)
            try:
                await asyncio.get_running_loop().sock_sendall(sock, _PREAMBLE + text)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise self.failure(order.host) from error
        return LineHolder(sock)

    def failure(self, host: str) -> ProvisionError:
        """Return that a host cannot be had because the switchboard is gone."""
        said = ""
        with contextlib.suppress(OSError), open(os.path.join(self._directory, "log"), "rb") as log:
            said = log.read()[-_MAX_SAID_BYTES:].decode("utf-8", "replace").strip()
        return ProvisionError(
            f"{host}: the process that speaks SSH is gone (exit status {self._process.poll()})",
            system="ssh",
            requested=1,
            started=0,
            answer=said,
            remedy="start the cluster again; if this comes back, it is a fault of bigmachine",
            temporary=True,
        )

    async def close(self, seconds: float) -> None:
        """Have the process end what it holds, and itself; kill it when that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        with self._closing:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._remove()

    def _start(self) -> subprocess.Popen[bytes]:
        from bigmachine.host.door import listen_unix

        listener, address = listen_unix(self._directory)
        self._path = address.path
        with listener:
            log = os.open(os.path.join(self._directory, "log"), os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _STUB],
                    pass_fds=(listener.fileno(), self._lock),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            finally:
                os.close(log)
            config = {
                "sys_path": _search_path(),
                "socket": listener.fileno(),
                "driver": os.getpid(),
                "directory": self._directory,
            }
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(config).encode())
            return process

    def _remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class LineHolder:
    """The driver's end of one line: as long as it is open, the switchboard holds the host."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""

    async def receive(self) -> Mapping[str, Any] | None:
        """Return the next message; None when there will be none."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._data:
            try:
                more = await loop.sock_recv(self._sock, _MAX_MESSAGE_BYTES)
            except OSError:
                more = b""
            if not more:
                return None
            self._data += more
        line, _, self._data = self._data.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def release(self) -> None:
        """Let the host go, which is ended then. From any thread; it ends `receive`, too."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the host go, where nobody waits in `receive`."""
        self._sock.close()


def _search_path() -> list[str]:
    """Return where bigmachine and asyncssh are found, as this process finds them."""
    from bigmachine.host.entry import package_root

    return list(dict.fromkeys([package_root(), *filter(None, sys.path)]))
