"""Which hosts a user means: ``a``, ``user@b:2222``, ``[fe80::7]:22``, or a file of them.

A name may be a host's, its address, or an alias of the SSH configuration, which then says the
rest; what is given here is stronger than what the configuration says. Pure but for `read_file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bigmachine.errors import UsageError

_SCHEME = "ssh://"
_MAX_PORT = 65535
_NAME = re.compile(r"[A-Za-z0-9_.:%-]+")
_MAX_WORD = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class HostName:
    """A host as the user names it.

    Attributes:
        text: What was written.
        name: The host's name, address or alias.
        user: Whom to log in as; None leaves it to the configuration.
        port: Where its SSH server listens; None leaves it to the configuration.
    """

    text: str
    name: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def word(self) -> str:
        """The name as a label of a certificate's subject: lower case, letters and digits."""
        word = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return word[:_MAX_WORD].strip("-") or "host"


def parse(text: str) -> HostName:
    """Parse one host.

    Raises:
        UsageError: It is none.
    """
    stripped = text.strip()
    rest = stripped.removeprefix(_SCHEME).removesuffix("/")
    user, at, place = rest.rpartition("@")
    name, port = _split_port(place)
    if (at and not user) or not _NAME.fullmatch(name) or name.startswith("-"):
        raise _unfit(text, "write it as NAME, USER@NAME or USER@NAME:PORT")
    if port is not None and not (port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise _unfit(text, f"its port {port!r} is no number from 1 to {_MAX_PORT}")
    return HostName(
        text=stripped, name=name, user=user or None, port=None if port is None else int(port)
    )


def parse_all(texts: Iterable[str]) -> tuple[HostName, ...]:
    """Parse several hosts.

    Raises:
        UsageError: One is none, or is named twice.
    """
    found: dict[tuple[str, str | None, int | None], HostName] = {}
    for text in texts:
        host = parse(text)
        key = (host.name, host.user, host.port)
        if key in found:
            raise _unfit(text, "it is named twice; each host is used once, with all its processors")
        found[key] = host
    return tuple(found.values())


def read_file(path: Path) -> list[str]:
    """Return the hosts that a file names, one on each line; ``#`` begins a comment.

    Raises:
        UsageError: It cannot be read, or a line is no host.
    """
    try:
        lines = path.expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the hosts file {path} cannot be read: {error}") from error
    texts = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            parse(text)
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error}") from None
        texts.append(text)
    return texts


def _split_port(place: str) -> tuple[str, str | None]:
    """Split a port off; an IPv6 address has colons of its own, so it stands in brackets then."""
    if place.startswith("["):
        name, _, after = place[1:].partition("]")
        return name, after[1:] if after.startswith(":") else (after or None)
    if place.count(":") == 1:
        name, _, port = place.partition(":")
        return name, port
    return place, None


def _unfit(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r} is no SSH host: {why}")
