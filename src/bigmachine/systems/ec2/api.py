"""Calls of AWS's API: by boto3, in threads, a few at a time, again when AWS says too often.

boto3 itself finds credentials, repeats what may be repeated, and slows down when it is throttled
(its ``adaptive`` mode). What is here bounds how many calls are under way, keeps them off the loop,
and gives up early where nothing has ever answered: that is a wrong address or no network.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, cast

from bigmachine.errors import UsageError
from bigmachine.systems.ec2.threads import Threads

AT_ONCE: Final = 8
"""How many calls are under way at a time."""
ATTEMPTS: Final = 10
"""How often a call is made that AWS refuses for the time being, or that fails on the way."""
FIRST_ATTEMPTS: Final = 3
"""How often one is that fails on the way, while nothing has answered yet."""
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 30.0


def require_boto3() -> None:
    """See that boto3 is there.

    Raises:
        UsageError: It is not; says how to install it.
    """
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the system ec2 needs boto3, which the extra bigmachine[ec2] brings: pip install boto3"
        ) from error


class Api:
    """One account and region, as seen with one set of credentials. Used from any thread.

    Args:
        region: The region; None is what the environment and the profile say.
        profile: A profile of ``~/.aws/config``; None is the usual chain of credentials.
        endpoint_url: Where the API is; None is AWS.

    Raises:
        UsageError: ``endpoint_url`` is no URL.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        if endpoint_url is not None and not endpoint_url.startswith(("http://", "https://")):
            example = "it is a URL, such as 'http://localhost:4566'"
            raise UsageError(f"EC2(endpoint_url={endpoint_url!r}): {example}")
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}
        self._patience = Patience()
        self._lock = threading.Lock()
        self._threads = Threads(AT_ONCE)
        # They end with this, but not before the program has ended.
        weakref.finalize(self, self._threads.close).atexit = False

    def __repr__(self) -> str:
        return f"<Api region={self._region} profile={self._profile}>"

    def client(self, service: str, *, attempts: int = ATTEMPTS, **more: Any) -> Any:
        """Return boto3's client for a service.

        Args:
            service: As boto3 calls it.
            attempts: How often a call is made that fails for the time being.
            more: For ``boto3.Session.client``: another region.
        """
        import boto3
        from botocore.config import Config

        key = f"{service} {attempts} {more}"
        with self._lock:
            if key not in self._clients:
                session = boto3.Session(profile_name=self._profile, region_name=self._region)
                config = Config(
                    retries={"mode": "adaptive", "max_attempts": attempts},
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    max_pool_connections=AT_ONCE + 2,
                )
                made = session.client(
                    service, endpoint_url=self._endpoint_url, config=config, **more
                )
                made.meta.events.register("needs-retry", self._patience)
                self._clients[key] = made
            return self._clients[key]

    async def call(self, method: str, *, service: str = "ec2", **parameters: Any) -> dict[str, Any]:
        """Make a call, without holding up the loop.

        Raises:
            Exception: What boto3 raises; see `errors`.
        """

        def act() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self.client(service), method)(**parameters)
            return answer

        return cast("dict[str, Any]", await self.run(act))

    async def run(self, act: Callable[[], Any]) -> Any:
        """Run a function that makes calls in a thread of these."""
        return await asyncio.wrap_future(self._threads.submit(act))

    def submit(self, method: str, **parameters: Any) -> Future[Any]:
        """Have a call made, from any thread and also while the program ends."""
        return self._threads.submit(lambda: getattr(self.client("ec2"), method)(**parameters))

    def close(self) -> None:
        """Make no more calls. Idempotent."""
        self._threads.close()


class Patience:
    """How long boto3 goes on with a call that fails on the way; it asks after every attempt.

    A name that is not found and a connection that is refused pass by themselves where AWS has
    answered before. Where nothing has yet, somebody waits for being told of a wrong address.
    """

    def __init__(self) -> None:
        self._is_answered = False

    def __repr__(self) -> str:
        return f"<Patience answered={self._is_answered}>"

    def __call__(self, *, attempts: int, caught_exception: Exception | None, **_: Any) -> None:
        """Say nothing, which leaves it to boto3, or end the call.

        Raises:
            Exception: What the last of the attempts came to.
        """
        if caught_exception is None:
            self._is_answered = True
        elif not self._is_answered and attempts >= FIRST_ATTEMPTS:
            raise caught_exception
