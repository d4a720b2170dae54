"""The driver's side of a host's first moments: it has the boot file start a supervisor.

The boot file (`bigmachine.boot`) listens on a host that has nothing else yet. This connects to it,
learns what the host is, offers the runtime's layers, sends what the host lacks, and returns what
the supervisor says of itself. A connection that breaks on the way is made anew, until the time is
over; what the host itself reports, and what cannot get better, is an error at once.

Every failure is a `ProvisionError` that says what happened on which host, and what to do.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from bigmachine.addresses import Address
from bigmachine.errors import BigmachineError, ProvisionError, UsageError
from bigmachine.host.bootlink import BOOT_TARGET, BootLink, compressed
from bigmachine.host.entry import SUPERVISOR_STUB
from bigmachine.host.messages import HostReady
from bigmachine.image.interpreter import interpreter_for
from bigmachine.image.platforms import Platform
from bigmachine.image.runtime import layers_for
from bigmachine.wire import frames

if TYPE_CHECKING:
    from bigmachine.driver.relay import Member
    from bigmachine.image.listing import Layer
    from bigmachine.systems.base import Host

__all__ = ["Facts", "bootstrap"]

logger = logging.getLogger(__name__)

_PAUSES_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.5)  # between tries
_KEPT_PACKS: Final = 16

# A certificate is good from a day before it was made, for a month.
_SLOW_CLOCK_SECONDS: Final = 23 * 3600.0
_FAST_CLOCK_SECONDS: Final = 7 * 86_400.0
_NOTABLE_CLOCK_SECONDS: Final = 300.0

_REMEDIES: Final = {
    "disk": "make room there, or give the cache another place with directory=",
    "permission": "give the cache a place that this user may write to alone, with directory=",
    "noexec": "give the cache a place from which programs may run, with directory=",
    "directory": "give the cache another place with directory=",
    "python": "install that Python there",
    "port": "let another port be used, or end what uses this one",
    "layer": "run the program again; if it comes back, the host's disk or memory is damaged",
    "time": "see whether the host is slow, or its clock stands still",
}


Facts = Mapping[str, Any]
"""What the boot file says of its host: ``python``, ``platform``, ``cpus``, ``memory``, ``time``,
``directory``."""

Layers = Sequence["Layer"]


async def bootstrap(
    host: Host,
    *,
    tls: ssl.SSLContext,
    subject: str,
    config: Mapping[str, Any],
    layers: Layers | Callable[[Facts], Layers],
    seconds: float,
    python: tuple[int, int] = sys.version_info[:2],
    system: str = "",
    member: Member | None = None,
) -> HostReady:
    """Have the boot file of a host start the supervisor.

    Args:
        host: The host, which listens or is about to.
        tls: The driver's context for connections.
        subject: The host's identity, as its certificate has it.
        config: Fields of the supervisor's `HostConfig`.
        layers: The runtime for hosts of this computer's kind: bigmachine's own layer first; or a
            function that returns it. Hosts of another kind get theirs (`image.runtime`).
        seconds: How long all of it may take.
        python: Which Python is to run there; the driver's own where nothing is said.
        system: The system's name, for errors.
        member: The host among those that give each other the runtime; None: all comes from here.

    Raises:
        ProvisionError: The host's supervisor did not come up.
    """
    attempt = _Bootstrap(host, tls, subject, config, layers, python, system, member)
    return await attempt.run(seconds)


class _Lost(Exception):
    """The connection broke; another one may do."""


class _Bootstrap:
    def __init__(
        self,
        host: Host,
        tls: ssl.SSLContext,
        subject: str,
        config: Mapping[str, Any],
        layers: Layers | Callable[[Facts], Layers],
        python: tuple[int, int],
        system: str,
        member: Member | None,
    ) -> None:
        self._host = host
        self._tls = tls
        self._subject = subject
        self._config = dict(config)
        self._layers = layers
        self._python = python
        self._system = system
        self._member = member
        self._got_through = False
        self._last = "nobody has tried yet"

    async def run(self, seconds: float) -> HostReady:
        """Try until it works, or cannot, or the time is over."""
        ended = asyncio.ensure_future(self._host.wait_closed())
        pauses = itertools.chain(_PAUSES_SECONDS, itertools.repeat(_PAUSES_SECONDS[-1]))
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._try()
                    except _Lost as error:
                        self._last = str(error)
                        logger.debug("%s: %s", self._host.id, error)
                    await asyncio.wait((ended,), timeout=next(pauses))
                    if ended.done():
                        raise self._failure(f"it ended; at last, {self._last}", "see why it ended")
        except TimeoutError as error:
            raise self._too_late(seconds) from error
        finally:
            ended.cancel()

    async def _try(self) -> HostReady:
        link = await self._connect()
        try:
            return await self._talk(link)
        except ssl.SSLError as error:
            raise self._failure(
                f"it refused the driver's certificate: {error.reason or error}",
                "end what is left there of another cluster, and start again",
            ) from error
        except (OSError, EOFError, ValueError) as error:
            raise _Lost(f"the connection broke: {_reason(error)}") from error
        finally:
            await link.close()

    async def _connect(self) -> BootLink:
        try:
            sock = await self._host.connect()
        except OSError as error:
            raise _Lost(f"it cannot be reached: {_reason(error)}") from error
        try:
            if "address" not in self._config:
                self._config["address"] = self._host.address or _address_of(sock, self._subject)
            await asyncio.get_running_loop().sock_sendall(sock, frames.preamble(BOOT_TARGET))
            return await BootLink.over(sock, self._tls, self._subject)
        except BaseException as error:
            sock.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise self._failure(
                    f"whoever answers is not the host that was launched: {error.verify_message}",
                    "another program has its address or port: end that, or choose another port",
                ) from error
            if isinstance(error, OSError):
                raise _Lost(f"no handshake: {_reason(error)}") from error
            raise

    # The conversation

    async def _talk(self, link: BootLink) -> HostReady:
        facts = self._checked(await link.receive())
        self._got_through = True
        self._check_clock(facts)
        self._check_python(facts)
        platform = Platform.from_mapping(facts["platform"], self._python)
        layers = await self._layers_for(facts, platform)
        answer = await self._offer(link, layers)
        if answer.get("interpreter") is None:
            shipped = await self._ship(facts, platform)
            layers.append(shipped)
            answer = await self._offer(link, layers, shipped)
        by_digest = {layer.digest: layer for layer in layers}
        if answer["lacks"]:
            await self._supply(link, by_digest, answer["lacks"])
        ready = self._checked(await link.receive())["ready"]
        await link.send({"taken": True})
        if self._member is not None:
            self._member.is_up(by_digest)
        return HostReady(**ready)

    async def _supply(
        self, link: BootLink, layers: Mapping[str, Layer], lacks: Mapping[str, list[int]]
    ) -> None:
        """See to it that the host gets what it lacks, from another host or from here."""
        giver = None if self._member is None else await self._member.source(lacks)
        if giver is None:
            await link.send({"from": None})
            await self._send(link, layers, lacks)
            return
        try:
            await link.send({"from": giver.name})
            if await self._is_fed(giver, lacks):
                return
        finally:
            giver.rest()
        instead = await self._connect()  # which the host expects, too
        try:
            await self._send(instead, layers, lacks)
        finally:
            await instead.close()

    async def _is_fed(self, giver: Member, lacks: Mapping[str, list[int]]) -> bool:
        """Have another host give this one what it lacks; whether it has done so."""
        assert self._member is not None
        try:
            await giver.feed(str(self._config["address"]), lacks)
        except Exception as error:  # whatever became of it
            logger.info("%s gives %s nothing: %s", giver.name, self._host.id, error)
            self._member.refuse(giver)
            return False
        return True

    async def _send(
        self, link: BootLink, layers: Mapping[str, Layer], lacks: Mapping[str, list[int]]
    ) -> None:
        for digest, numbers in lacks.items():
            logger.info("%s is sent %s", self._host.id, layers[digest].name)
            for number in numbers:
                await link.send_pack(digest, number, await self._read(layers[digest], number))

    async def _offer(
        self, link: BootLink, layers: Layers, shipped: Layer | None = None
    ) -> dict[str, Any]:
        data = zlib.compress(b"".join(layer.listing for layer in layers), 6)
        offer = {
            "layers": [
                {"digest": layer.digest, "listing_bytes": len(layer.listing)} for layer in layers
            ],
            "python": list(self._python),
            "interpreter": None if shipped is None else shipped.digest,
            "stub": SUPERVISOR_STUB,
            "config": self._config,
            "bytes": len(data),
        }
        await link.send(offer, data)
        return self._checked(await link.receive())

    async def _layers_for(self, facts: Facts, platform: Platform) -> list[Layer]:
        """Return the runtime for this host."""
        layers = list(self._layers(facts) if callable(self._layers) else self._layers)
        if platform.runs_what_is_made_for(Platform.here()):
            return layers
        try:
            return list(await asyncio.to_thread(layers_for, platform))
        except BigmachineError as error:
            raise self._failure(
                f"it is another kind of computer ({platform}): {error}",
                "use hosts of the driver's own kind, or run the driver on one of theirs",
            ) from error

    def _check_python(self, facts: Facts) -> None:
        """Refuse a host that has no such Python where the driver has none to send, either."""
        wanted = "python{}.{}".format(*self._python)
        found = [os.path.basename(path) for path in facts["python"]["candidates"]]
        found.append("python{}.{}".format(*facts["python"]["version"]))
        if wanted not in found and self._python != sys.version_info[:2]:
            raise self._without_python(facts, f"there is no {wanted} there")

    async def _ship(self, facts: Facts, platform: Platform) -> Layer:
        """Return a layer with the interpreter that the host has not."""
        if self._python != sys.version_info[:2]:
            raise self._without_python(facts, "its Python of that version does not run")
        try:
            return await asyncio.to_thread(interpreter_for, platform)
        except (UsageError, OSError) as error:
            raise self._without_python(facts, str(error)) from error

    def _without_python(self, facts: Facts, what: str) -> ProvisionError:
        wanted = "{}.{}".format(*self._python)
        python = facts["python"]
        found = ", ".join(dict.fromkeys([python["executable"], *python["candidates"]]))
        return self._failure(
            f"{what}; what was found there: {found}",
            f"install Python {wanted} there, or run the program with a version that is there",
        )

    async def _read(self, layer: Layer, number: int) -> bytes:
        try:
            data: bytes = await asyncio.to_thread(_compressed, layer, number)  # type: ignore[arg-type]
            return data
        except OSError as error:
            raise self._failure(
                f"{layer.name} cannot be read here: {error}", "start the program again"
            ) from error

    def _checked(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message that is no error.

        Raises:
            ProvisionError: The host says what went wrong.
        """
        if "error" in message:
            remedy = _REMEDIES.get(message.get("kind", ""), "")
            raise self._failure(str(message["error"]), remedy)
        return message

    def _check_clock(self, facts: Facts) -> None:
        ahead = float(facts["time"]) - time.time()
        words = f"its clock is {_duration(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"
        if not -_SLOW_CLOCK_SECONDS < ahead < _FAST_CLOCK_SECONDS:
            raise self._failure(
                f"{words}, and no certificate can be checked there",
                "set the host's clock (timedatectl set-ntp true)",
            )
        if abs(ahead) > _NOTABLE_CLOCK_SECONDS:
            logger.warning("%s: %s", self._host.id, words)

    # Failures

    def _failure(self, what: str, remedy: str, *, temporary: bool = False) -> ProvisionError:
        return ProvisionError(
            f"{self._host.id} did not come up: {what}",
            system=self._system,
            requested=self._host.capacity,
            started=0,
            answer=self._host.cause(),
            remedy=remedy,
            temporary=temporary,
        )

    def _too_late(self, seconds: float) -> ProvisionError:
        if self._got_through:
            return self._failure(
                f"its supervisor did not run within {seconds:g} s; at last, {self._last}",
                "see whether the host or the network to it is very slow",
                temporary=True,
            )
        where = f" at {self._host.address}" if self._host.address else ""
        return self._failure(
            f"the boot file did not answer{where} within {seconds:g} s; at last, {self._last}",
            "see whether the host runs, and whether a firewall or a security group lets the "
            "driver connect to its port",
            temporary=True,
        )


@lru_cache(_KEPT_PACKS)
def _compressed(layer: Any, number: int) -> bytes:
    """Return a pack as it travels; many hosts come up at the same time, and want the same."""
    data: bytes = layer.read_pack(number)
    return compressed(data)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def _address_of(sock: socket.socket, subject: str) -> str:
    """Return the address that a connection has led to."""
    host, port = sock.getpeername()[:2]
    return str(Address(kind="tls", host=host, port=port, subject=subject))


def _duration(seconds: float) -> str:
    for size, unit in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
