"""Who is measured: one small adapter for each library, loaded only when it takes part."""

from __future__ import annotations

import importlib
import importlib.metadata

from benchmarks.contestants.base import Contestant

ADAPTERS = {
    "bigmachine": "ours:Local",
    "bigmachine-tls": "ours:LocalTLS",
    "ray": "with_ray:Ray",
    "dask": "with_dask:Dask",
    "grpc": "with_grpc:Grpc",
    "rpyc": "with_rpyc:Rpyc",
    "pool": "with_pool:Pool",
    "managers": "with_managers:Managers",
}
"""Where each contestant's class is."""

OURS = ("bigmachine", "bigmachine-tls")
PEERS = tuple(name for name in ADAPTERS if name not in OURS)


def load(name: str) -> type[Contestant]:
    """Import a contestant's adapter.

    Raises:
        ImportError: Its library is not installed.
    """
    module, _, attribute = ADAPTERS[name].partition(":")
    adapter: type[Contestant] = getattr(
        importlib.import_module(f"benchmarks.contestants.{module}"), attribute
    )
    return adapter


def version(name: str) -> str | None:
    """The version of a contestant's library, or None when it is not installed."""
    try:
        distribution = load(name).distribution
        return importlib.metadata.version(distribution) if distribution else "standard library"
    except ImportError:
        return None
