"""What ``.gitignore`` files say of a directory, and what the user says in the same way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bigmachine.errors import UsageError

if TYPE_CHECKING:
    from pathspec import PathSpec


class GitIgnore:
    """The rules that hold in a directory; those of directories below come as they are read.

    Args:
        root: The directory.
    """

    def __init__(self, root: str) -> None:
        self._rules: list[_Rules] = []
        self.problems: list[tuple[str, str]] = []
        above = _repository_above(root)
        for directory in above:
            file = os.path.join(directory, ".gitignore")
            if os.path.exists(file):
                prefix = os.path.relpath(root, directory).replace(os.sep, "/")
                self.read("", file, prefix=prefix + "/")

    def read(self, below: str, file: str, prefix: str = "") -> None:
        """Heed a file.

        Args:
            below: Where it lies, relative to the root; "" at the root and above.
            file: The file.
            prefix: Where the root lies, seen from it, if it stands above the root.
        """
        from pathspec import GitIgnoreSpec

        try:
            with open(file, encoding="utf-8", errors="surrogateescape") as lines:
                spec = GitIgnoreSpec.from_lines(lines)
        except (OSError, ValueError) as error:
            self.problems.append((file, f"it cannot be heeded: {error}"))
            return
        self._rules.append(_Rules(spec, below and below + "/", prefix))

    def ignores(self, path: str) -> bool:
        """Whether git would ignore a path; the rules nearest to it hold.

        Args:
            path: Relative to the root, with slashes; a directory's ends with one.
        """
        for rules in reversed(self._rules):
            if path.startswith(rules.below):
                answer = rules.spec.check_file(rules.prefix + path[len(rules.below) :])
                if answer.include is not None:
                    return answer.include
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """What the user wants left out.

    Attributes:
        patterns: As in a ``.gitignore``.
        base: The directory that it would stand in.
    """

    patterns: Sequence[str]
    base: str

    def below(self, root: str) -> Callable[[str], bool]:
        """Return whether it names a path relative to a root; a directory's ends with a slash.

        In a root elsewhere than below the base the patterns are taken as if they stood there.

        Raises:
            UsageError: A pattern is none.
        """
        if not self.patterns:
            return lambda _: False
        from pathspec import GitIgnoreSpec

        try:
            spec = GitIgnoreSpec.from_lines(self.patterns)
        except ValueError as error:
            raise UsageError(f"exclude={list(self.patterns)!r}: {error}") from error
        base = os.path.realpath(self.base).rstrip("/") + "/"
        prefix = (root.rstrip("/") + "/").removeprefix(base) if root.startswith(base) else ""
        return lambda path: spec.match_file(prefix + path)


@dataclass(frozen=True, slots=True)
class _Rules:
    """A ``.gitignore``; see `GitIgnore.read`. Here ``below`` has a slash at the end."""

    spec: PathSpec[Any]
    below: str
    prefix: str


def _repository_above(root: str) -> list[str]:
    """Return the directories above the root, from the one that is a repository's."""
    chain = [root]
    while not os.path.exists(os.path.join(chain[-1], ".git")):
        above = os.path.dirname(chain[-1])
        if above == chain[-1]:
            return []
        chain.append(above)
    return chain[:0:-1]
