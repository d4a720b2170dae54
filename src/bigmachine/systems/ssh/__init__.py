"""Machines on hosts that are reached by SSH.

::

    driver process                      switchboard process               host
    SSH, SSHHost ── one Unix ────────▶  one SSH connection to each ─────▶ python3, fed with boot.py
                    socket per host     host, and what goes over it:
    Dialer ──────── via SUBJECT ──────▶  the boot file's stdin, tunnels ─▶ the host's endpoint
                                        tunnels ◀── a loopback port ────── machines of the host

All SSH is spoken by one process for each cluster, the *switchboard* (`switchboard`, `line`): it has
no user code in it, so that a program that holds the interpreter lock holds up no tunnel; and when
the driver is gone, so is it, and with its connections all that it has started. What the driver
does is in `system`, `launch` and `host`, what speaks to the switchboard in `board`. `hosts` reads
what a user names, `connect` opens connections (each is an `attempt` with a user's `settings`);
`way_problems` and `host_problems` say what went wrong and what to do about it (`problems`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.systems.ssh.system import SSH

__all__ = ["SSH"]


def __getattr__(name: str) -> object:
    # The switchboard's process imports this package too, and needs nothing of the system.
    if name in __all__:
        from bigmachine.systems.ssh.system import SSH

        return SSH
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
