"""Tags: what says of everything that is made on EC2 whose it is, and so what `gc` may end."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

from bigmachine.info import program_digest
from bigmachine.systems.origin import Origin

TAG: Final = "bigmachine"
"""What the keys of our tags begin with, before a colon."""
MAX_TAG_CHARACTERS: Final = 256


def tags_of_host(cluster: str, host: str) -> dict[str, str]:
    """Return the tags of what this program launches as a host of a cluster."""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return tags(
        cluster=cluster,
        host=host,
        owner=owner(),
        driver=str(Origin.here()),
        program=program or "python",
        arguments=" ".join(sys.argv[1:]),
        digest=program_digest(),
    )


def tags(
    *, cluster: str, host: str, owner: str, driver: str, program: str, arguments: str, digest: str
) -> dict[str, str]:
    """Return the tags that say whose an instance is and what it does."""
    words = {
        "Name": f"{cluster} {host}",
        f"{TAG}:cluster": cluster,
        f"{TAG}:host": host,
        f"{TAG}:owner": owner,
        f"{TAG}:driver": driver,
        f"{TAG}:program": program,
        f"{TAG}:arguments": arguments,
        f"{TAG}:digest": digest,
    }
    return {key: value[:MAX_TAG_CHARACTERS] for key, value in words.items() if value}


def tags_in(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of something, as the API describes it."""
    return {each["Key"]: each["Value"] for each in found.get("Tags", ())}


def owner() -> str:
    """Return who launches here: a user of a computer."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
