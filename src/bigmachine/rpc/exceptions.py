"""Exceptions to bytes and back, with everything that pickle loses of them.

Pickle drops ``__cause__``, ``__context__`` and the traceback, inside groups too, and gives up on
the whole where one part does not pickle. So everything that hangs on an exception is collected
(causes, contexts, members of groups, each object once, whatever cycles there are), each exception
is taken apart on its own (``rebuild.py``), and the links are sent beside them::

    encode: exc ─▶ collect ─▶ [_Node(parts, links, texts), ...] ─▶ one pickle
    decode: one pickle ─▶ build each, members before their group ─▶ link ─▶ mark

What cannot be rebuilt arrives as a ``RemoteError`` with the texts of the original, a group of such
a class as a plain group, so that ``except*`` still finds its members. So does what would steer the
caller if it were raised there: ``StopIteration``, ``SystemExit`` and their like.

The traceback of each exception that was raised on the way goes along as text and becomes a note,
one for each hop. Always holds: encoding and decoding raise nothing of their own, and the size of
the whole is bounded.
"""

from __future__ import annotations

import pickle
from collections import deque
from typing import Any, NamedTuple

from bigmachine.errors import (
    BigmachineError,
    CallError,
    RemoteError,
    RemoteProtocolError,
    is_remote,
    mark_remote,
)
from bigmachine.rpc.rebuild import CannotRebuildError, Parts, put_together, take_apart
from bigmachine.rpc.tracebacks import describe, format_frames, type_name

__all__ = ["decode_exception", "encode_exception", "is_remote", "mark_hop"]

MAX_EXCEPTIONS = 1_000
"""How many exceptions one may bring along; further ones are left out, and a note says so."""

MAX_BYTES = 16 * 1024 * 1024
"""How large the parts of all of them may be; beyond it they go as text."""

MAX_NOTES_CHARS = 256 * 1024

_SHORT_CHARS = 1_000  # of each text that goes when MAX_BYTES is used up

_NOTE_START = "remote traceback"
_UNSIGNED = f"{_NOTE_START}:\n"

_STEERING = (StopIteration, StopAsyncIteration, SystemExit, KeyboardInterrupt, GeneratorExit)


class _Node(NamedTuple):
    """One exception on its way; the links are indexes into the list of nodes."""

    parts: Parts | None
    why_not: str  # why there are no parts
    type_name: str
    message: str
    frames: str
    notes: list[str]
    members: list[int] | None  # None: not a group
    cause: int | None
    context: int | None
    suppress_context: bool


def encode_exception(exc: BaseException, *, by_application: bool = True) -> bytes:
    """Encode an exception with all that hangs on it.

    Args:
        exc: The exception; it is not changed.
        by_application: Whether a user's method raised it. The library's own errors (no such
            service, a reply that cannot be encoded) are not marked as remote at the caller.
    """
    found = _collect(exc)
    index = {id(each): position for position, each in enumerate(found)}
    raised = {id(each) for each in _family(exc)}
    budget = MAX_BYTES
    nodes = []
    for each in found:
        node = _make_node(
            each,
            index,
            steers=id(each) in raised and _is_steering(each),
            told=not by_application or _is_told(each),
        )
        if (size := _size(node)) > budget:
            node = _shorten(node)
        else:
            budget -= size
        nodes.append(node)
    return pickle.dumps((by_application, index[id(exc)], nodes), 5)


def decode_exception(
    data: bytes | bytearray | memoryview, *, machine: str = "", method: str = ""
) -> BaseException:
    """Rebuild an exception that another machine encoded.

    Args:
        data: What ``encode_exception`` returned there.
        machine: The address or label of that machine, if known; see ``mark_hop``.
        method: The method that raised it, if known.

    Returns:
        The exception, ready to be raised; a ``RemoteProtocolError`` if the data make no sense.
    """
    try:
        by_application, root, nodes = pickle.loads(data)
        built: list[BaseException] = []
        for node in nodes:  # members stand before their groups
            built.append(_build(node, built))
        _link(nodes, built)
        exc: BaseException = built[root]
    except Exception as error:  # whatever the bytes make pickle do
        reason = f"{type(error).__name__}: {error}"
        return RemoteProtocolError(f"an exception arrived that makes no sense: {reason}")
    if by_application:
        for each in built:
            mark_remote(each)
    if machine or method:
        mark_hop(exc, machine, method)
    return exc


def mark_hop(exc: BaseException, machine: str, method: str) -> None:
    """Say where an exception that has just arrived came from.

    The tracebacks of this hop get a headline, and a ``CallError`` that does not know its machine
    and its method yet is told.

    Args:
        exc: What ``decode_exception`` returned.
        machine: The address or label of the machine that was called.
        method: The method that was called.
    """
    if isinstance(exc, CallError):
        exc.machine = exc.machine or machine
        exc.method = exc.method or method
    signed = f"{_NOTE_START} ({', '.join(filter(None, (machine, method)))}):\n"
    for each in _collect(exc):
        notes = each.__dict__.get("__notes__")
        if isinstance(notes, list):
            notes[:] = [_sign(note, signed) for note in notes]


def _sign(note: Any, signed: str) -> Any:
    if isinstance(note, str) and note.startswith(_UNSIGNED):
        return signed + note.removeprefix(_UNSIGNED)
    return note


def _collect(exc: BaseException) -> list[BaseException]:
    """Return the exception and all that hangs on it, members before their groups.

    Of too many, those nearest to it are taken.
    """
    placed: dict[int, BaseException] = {}
    waiting = deque([exc])
    while waiting and len(placed) < MAX_EXCEPTIONS:
        # Backwards, an exception that is in several groups comes before all of them.
        for each in reversed(_family(waiting.popleft(), MAX_EXCEPTIONS - len(placed))):
            if id(each) not in placed:
                placed[id(each)] = each
                waiting += filter(None, (each.__cause__, each.__context__))
    return list(placed.values())


def _members(exc: BaseException) -> tuple[BaseException, ...]:
    return exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()


def _family(exc: BaseException, limit: int = MAX_EXCEPTIONS) -> list[BaseException]:
    """Return the exception and its members at all depths, once for each group they are in."""
    found = [exc]
    for each in found:
        found.extend(_members(each)[: limit - len(found)])
    return found


def _make_node(exc: BaseException, index: dict[int, int], *, steers: bool, told: bool) -> _Node:
    members = None
    notes = _notes_of(exc)
    if isinstance(exc, BaseExceptionGroup):
        # Those behind it are none of its own: the walk ended before it came to them.
        here = index[id(exc)]
        members = [index[id(each)] for each in exc.exceptions if index.get(id(each), here) < here]
        if left_out := len(exc.exceptions) - len(members):
            notes.append(f"{left_out} more exceptions of this group were left out")
    parts, why_not = None, ""
    if not steers:
        try:
            parts = take_apart(exc)
        except CannotRebuildError as error:
            why_not = f"it cannot be pickled: {error}"
    return _Node(
        parts=parts,
        why_not=why_not,
        type_name=type_name(type(exc)),
        message=exc.message if isinstance(exc, BaseExceptionGroup) else describe(exc),
        frames=format_frames(exc.__traceback__, told=told),
        notes=notes,
        members=members,
        cause=index.get(id(exc.__cause__)),
        context=index.get(id(exc.__context__)),
        suppress_context=exc.__suppress_context__,
    )


def _size(node: _Node) -> int:
    data = len(node.parts.data) if node.parts else 0
    return data + len(node.message) + len(node.frames) + sum(map(len, node.notes))


def _shorten(node: _Node) -> _Node:
    """Return a node that takes next to no room."""
    return node._replace(
        parts=None,
        why_not="it is too large",
        message=node.message[:_SHORT_CHARS],
        frames=node.frames[-_SHORT_CHARS:],
        notes=[],
    )


def _notes_of(exc: BaseException) -> list[str]:
    """Return the notes, as text whatever they are, of bounded size."""
    notes = getattr(exc, "__notes__", None)
    texts: list[str] = []
    room = MAX_NOTES_CHARS
    notes = notes if isinstance(notes, list | tuple) else ()
    for note in notes:
        text = note if type(note) is str else describe(note)
        if room < len(text):
            texts.append(f"{len(notes) - len(texts)} more notes were left out")
            break
        room -= len(text)
        texts.append(text)
    return texts


def _is_steering(exc: BaseException) -> bool:
    """Return whether raising it would steer the caller: end its loop, its task, its process."""
    return isinstance(exc, _STEERING) or any(
        # By name: asyncio is not imported for this.
        cls.__name__ == "CancelledError" and cls.__module__ == "asyncio.exceptions"
        for cls in type(exc).__mro__
    )


def _is_told(exc: BaseException) -> bool:
    """Return whether the library raised it, or only passed it on to the method here."""
    if isinstance(exc, BaseExceptionGroup):
        return False  # not asked of all its members, which may be deep
    return isinstance(exc, BigmachineError) or is_remote(exc)


def _build(node: _Node, built: list[BaseException]) -> BaseException:
    """Rebuild one exception, or what stands for it, with its notes."""
    members = [built[position] for position in node.members or ()]
    why_not = node.why_not
    exc: BaseException | None = None
    if node.parts is not None:
        try:
            exc = put_together(node.parts, members)
        except Exception as error:  # the imports and the classes are the user's
            why_not = f"it cannot be rebuilt here: {type(error).__name__}: {error}"
    if exc is None:
        exc = _stand_in(node, members)
    notes = list(node.notes)
    if why_not:
        notes.append(f"this was a {node.type_name}; {why_not}")
    if node.frames:
        notes.append(_UNSIGNED + node.frames)
    if notes:
        exc.__dict__["__notes__"] = notes
    return exc


def _stand_in(node: _Node, members: list[BaseException]) -> BaseException:
    """Return what arrives in place of an exception that cannot be rebuilt."""
    if members:
        return BaseExceptionGroup(node.message, members)
    last = f"{node.type_name}: {node.message}" if node.message else node.type_name
    frames = f"Traceback (most recent call last):\n{node.frames}\n" if node.frames else ""
    return RemoteError(node.message, type_name=node.type_name, traceback=frames + last)


def _link(nodes: list[_Node], built: list[BaseException]) -> None:
    """Give each exception its cause and its context."""
    for node, exc in zip(nodes, built, strict=True):
        cause = None if node.cause is None else built[node.cause]
        context = None if node.context is None else built[node.context]
        # Past the class's own __setattr__; and the cause first, since it sets the last.
        object.__setattr__(exc, "__cause__", cause)
        object.__setattr__(exc, "__context__", context)
        object.__setattr__(exc, "__suppress_context__", node.suppress_context)
