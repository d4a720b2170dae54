"""What the processes of a host and the driver say to each other, as plain values.

Three parties use these: the driver and the supervisor (over the control connection, and the first
two messages over the boot socket, as JSON), the supervisor and its templates, and the supervisor
and its machines (both over a `bigmachine.host.link`, with descriptors attached)::

    driver ── HostConfig, LaunchSpec ──▶ supervisor ── TemplateStart, MachineStart ──▶ template
           ◀── HostReady, MachineEvent ──           ◀── Reached, Forked, ForkFailed ──
                                         supervisor ── Connection, Stop, Ask ──▶ machine
                                                    ◀── Ready, InitFailed, Answer ──

Everything here is frozen and pickles; nothing here does anything. Only the standard library's
cheapest modules are imported, since the template pays for them before the user's program runs.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bigmachine.values import Value, as_mapping, changed, hidden

if TYPE_CHECKING:
    from bigmachine.death import Death
    from bigmachine.rpc.codec import Payload

StartMethod: TypeAlias = Literal["auto", "fork", "spawn"]


# The program


class Program(Value):
    """A program, and how an interpreter runs it from its top.

    Attributes:
        how: ``"script"`` (a file, a directory or an archive), ``"module"`` (``-m``), or ``"bare"``:
            no user's program at all; services arrive by pickle.
        target: The script's path as it was given, or the module's name; "" when bare.
        executable: The interpreter.
        flags: The interpreter's own options, as ``("-X", "dev")``.
        argv: ``sys.argv`` as the interpreter makes it (of a module: before it is run).
        orig_argv: ``sys.orig_argv``, the whole command line.
        directory: Where the program was started: ``target`` may be relative to it.
        own_args: How many of its arguments, from the last one, are the user program's own. Those
            before belong to a launcher, as ``run x.py`` in ``coverage run x.py a``.
        main_file: The file of the driver's main program, for its digest; "" when there is none.
        sys_path: When bare: the driver's ``sys.path``.
        locale: When bare: the driver's locale, as ``setlocale`` puts it.
    """

    how: Literal["script", "module", "bare"]
    target: str = ""
    executable: str
    flags: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    orig_argv: tuple[str, ...] = ()
    directory: str = ""
    own_args: int = 0
    main_file: str = ""
    sys_path: tuple[str, ...] = ()
    locale: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether the machine runs no user's main program."""
        return self.how == "bare"

    def with_args(self, args: tuple[str, ...]) -> Program:
        """Return the same program with other arguments."""
        return changed(
            self,
            argv=(*self.argv[: len(self.argv) - self.own_args], *args),
            orig_argv=(*self.orig_argv[: len(self.orig_argv) - self.own_args], *args),
            own_args=len(args),
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Program:
        """Rebuild it from what ``values.as_mapping`` and JSON made of it."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)


class TemplateSpec(Value):
    """What makes one template differ from another.

    Attributes:
        program: The program, with the arguments that it is to get.
        environ: The whole environment that it begins with; None is the supervisor's own, which on
            the driver's host is the driver's.
        later_environ: What that is to be from ``bigmachine.start`` on, whatever the program has
            made of it; None leaves it.
        start_method: ``"fork"`` and ``"auto"`` fork where that is safe, ``"spawn"`` never does.
    """

    program: Program
    environ: Mapping[str, str] | None = hidden(default=None)
    later_environ: Mapping[str, str] | None = hidden(default=None)
    start_method: StartMethod = "auto"

    def key(self) -> str:
        """Return a text that is the same for the same template."""
        parts = {**self.to_mapping(), "start_method": self.start_method == "spawn"}
        return json.dumps(parts, sort_keys=True)

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON."""
        return {
            "program": as_mapping(self.program),
            "environ": _as_dict(self.environ),
            "later_environ": _as_dict(self.later_environ),
            "start_method": self.start_method,
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TemplateSpec:
        """Rebuild it from `to_mapping`."""
        program = Program.from_mapping(values["program"])
        return cls(**{**values, "program": program})


# The driver and the supervisor


class HostConfig(Value):
    """What a supervisor is told first, over its boot socket: a length (4 bytes) and JSON.

    Attributes:
        cluster: The cluster's name.
        directory: The host's private directory (mode 0700); made if need be, and removed at the
            end.
        driver_pid: The driver's process where it is on this host: its life is the lease.
        transport: ``"unix"`` or ``"tls"``.
        credentials: With TLS: `security.credentials.Credentials`, as a mapping.
        listen: With TLS: the IP address to listen on.
        port: With TLS: the port; 0 is any.
        lease_seconds: Without a keepalive for this long the host ends; None: no such limit.
        sys_path: Where the supervisor finds what it imports: the driver's ``sys.path``.
        template: The template that will be needed first, so that it starts at once.
        listen_fd: With TLS: a socket that listens already, which the supervisor has inherited.
        address: With TLS: where others reach this host (`bigmachine.addresses`); "" is where it
            listens.
        cache: Where images and layers are kept; "" on the driver's computer, which needs none.
        cache_bytes: How large that may become; None: `image.store` says.
        at_end: What is to be run when this host has ended and its guardian, which would have seen
            to it, is gone: a text for the shell or a list of words.
        gateway: Where this host and its machines ask for hosts that they do not reach directly
            (`rpc.dialer`).
        metadata: Where the provider tells the host that it takes it back (`host.notices`),
            ``HOST:PORT``; None: nowhere.
    """

    cluster: str
    directory: str
    driver_pid: int | None = None
    transport: Literal["unix", "tls"] = "unix"
    credentials: Mapping[str, str] | None = hidden(default=None)
    listen: str = "127.0.0.1"
    port: int = 0
    lease_seconds: float | None = None
    sys_path: tuple[str, ...] = ()
    template: TemplateSpec | None = None
    listen_fd: int | None = None
    address: str = ""
    cache: str = ""
    cache_bytes: int | None = None
    at_end: str | Sequence[str] | None = None
    gateway: str | None = None
    metadata: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON (``HostRequest.boot``)."""
        return {
            "cluster": self.cluster,
            "directory": self.directory,
            "driver_pid": self.driver_pid,
            "transport": self.transport,
            "credentials": _as_dict(self.credentials),
            "listen": self.listen,
            "port": self.port,
            "lease_seconds": self.lease_seconds,
            "sys_path": list(self.sys_path),
            "template": None if self.template is None else self.template.to_mapping(),
            "listen_fd": self.listen_fd,
            "address": self.address,
            "cache": self.cache,
            "cache_bytes": self.cache_bytes,
            "at_end": self.at_end if isinstance(self.at_end, str | None) else list(self.at_end),
            "gateway": self.gateway,
            "metadata": self.metadata,
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> HostConfig:
        """Rebuild it from `to_mapping`.

        Raises:
            TypeError: There is an entry that this version does not know, or one is missing.
        """
        template = values.get("template")
        changes = {
            "sys_path": tuple(values.get("sys_path", ())),
            "template": None if template is None else TemplateSpec.from_mapping(template),
        }
        return cls(**{**values, **changes})


class HostReady(Value):
    """The supervisor's first message, over its boot socket: a length (4 bytes) and JSON.

    Attributes:
        ok: Whether it runs.
        pid: Its process.
        address: Where it accepts connections: `bigmachine.addresses`, without a target.
        mark: One of the marks (`bigmachine.host.marks`) that are this supervisor's alone.
        error: Why it does not run, or "".
    """

    ok: bool
    pid: int
    address: str = ""
    mark: int = 0
    error: str = ""


class MachineSpec(Value):
    """Which machine is to be started: its unique id, and its number in the cluster."""

    id: str
    index: int

    @property
    def label(self) -> str:
        """What output lines and log lines call it."""
        return f"m{self.index}"


class LaunchSpec(Value):
    """A request for machines of one kind.

    Attributes:
        machines: Those to start.
        cluster: The cluster's name.
        program: What they run.
        services: One encoded mapping of names to `Payload`, each an encoded service.
        args: Arguments for the program in place of the driver's; None keeps those.
        environ: The environment to begin with; None is the supervisor's own.
        later_environ: What it is to be from ``bigmachine.start`` on; None leaves it as the program
            has made it.
        env: Changes to both; None removes a name.
        start_method: How they are started.
        maxprocs: How many processors each has to itself.
        sys_path: The driver's ``sys.path``: what the program adds on the machine comes after it.
        cwd: Where they work; "" leaves them where the program is.
        image_root: The directory of the image that they run in; "" on the driver's computer.
    """

    machines: tuple[MachineSpec, ...]
    cluster: str
    program: Program
    services: Payload = hidden()
    args: tuple[str, ...] | None = None
    environ: Mapping[str, str] | None = hidden(default=None)
    later_environ: Mapping[str, str] | None = hidden(default=None)
    env: Mapping[str, str | None] = hidden(default_factory=dict)
    start_method: StartMethod = "auto"
    maxprocs: int = 1
    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    image_root: str = ""

    def template(self, own_environ: Mapping[str, str]) -> TemplateSpec:
        """Return the template that these machines are made from.

        Args:
            own_environ: What ``environ=None`` stands for.
        """
        environ = self.environ
        if self.image_root:  # as after activating a virtual environment
            environ = dict(own_environ if environ is None else environ)
            scripts = os.path.join(self.image_root, "bin")
            environ["PATH"] = os.pathsep.join(filter(None, (scripts, environ.get("PATH", ""))))
            environ["VIRTUAL_ENV"] = self.image_root
        later = self.later_environ
        if self.env:
            environ = self._with_changes(own_environ if environ is None else environ)
            later = None if later is None else self._with_changes(later)
        program = self.program if self.args is None else self.program.with_args(self.args)
        return TemplateSpec(
            program=program, environ=environ, later_environ=later, start_method=self.start_method
        )

    def _with_changes(self, environ: Mapping[str, str]) -> dict[str, str]:
        changes = {name: value for name, value in self.env.items() if value is not None}
        left = {name: value for name, value in environ.items() if name not in self.env}
        return {**left, **changes}


class EventKind(enum.StrEnum):
    """What became of a machine, in the order of its life; or what is to become of its host."""

    STARTED = "started"
    READY = "ready"
    DIED = "died"
    NOTICE = "notice"


class MachineEvent(Value):
    """Something happened to a machine.

    Attributes:
        machine_id: To which; "" is all of the host.
        kind: What.
        pid: STARTED: its process.
        address: READY: where it is reached, for ``dial``.
        maxprocs: READY: how many processors it has to itself.
        hostname: READY: its host's name.
        death: DIED: what it died of.
        init_error: DIED, of kind ``init``: the exception, by ``rpc.exceptions.encode_exception``.
        notice: NOTICE: that the provider will take the host back, for a person.
    """

    machine_id: str
    kind: EventKind
    pid: int = 0
    address: str = ""
    maxprocs: int = 1
    hostname: str = ""
    death: Death | None = None
    init_error: bytes | None = hidden(default=None)
    notice: str = ""


class KeepaliveReply(Value):
    """The answer to a keepalive.

    Attributes:
        accepted: For how long the lease was renewed, in seconds; 0 where there is none to renew.
        healthy: Whether the host has memory to spare.
    """

    accepted: float
    healthy: bool


# The supervisor and its templates


class TemplateStart(Value):
    """The first message to a template: a length (4 bytes) and JSON.

    Attributes:
        program: What it is to run. (The environment to begin with has come with the process.)
        environ: What the environment is to be from ``bigmachine.start`` on; None leaves it.
        start_method: How machines are made of it.
        supervisor_pid: Its parent: without it, it ends.
        mark: What marks its descendants (`host.marks`).
        open_files: The soft limit of open files that the program is to have.
        credentials: With TLS: what its machines prove themselves with.
    """

    program: Program
    environ: Mapping[str, str] | None = hidden(default=None)
    start_method: StartMethod
    supervisor_pid: int
    mark: int
    open_files: int | None
    credentials: Mapping[str, str] | None = hidden()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TemplateStart:
        """Rebuild it from what JSON made of it."""
        return cls(**{**values, "program": Program.from_mapping(values["program"])})


class Reached(Value):
    """The template's program has reached ``bigmachine.start``.

    Attributes:
        stack_fd: Where, in it and its copies, stacks that are asked for are written.
        reason: Why it must not be forked, or "": then it may.
    """

    stack_fd: int
    reason: str = ""


class MachineIdentity(Value):
    """Who a machine is.

    Attributes:
        cluster: Its cluster's name.
        id: Its unique id.
        index: Its number in the cluster.
        address: Where it is reached, for ``dial``.
        maxprocs: How many processors it has to itself.
        hostname: Its host's name.
        bare: Whether it runs no user's main program.
        credentials: With TLS: what it proves itself with.
        gateway: Where it asks for hosts that it does not reach directly (`rpc.dialer`).
    """

    cluster: str
    id: str
    index: int
    address: str
    maxprocs: int = 1
    hostname: str = ""
    bare: bool = False
    credentials: Mapping[str, str] | None = hidden(default=None)
    gateway: str | None = None

    @property
    def label(self) -> str:
        """What output lines and log lines call it."""
        return f"m{self.index}"


class MachineStart(Value):
    """A request to a template for one machine.

    Attached are four descriptors: what is to be its stdout and stderr, its link to the supervisor,
    and its services (`host.parcel`).

    Attributes:
        identity: Who it is to be.
        supervisor_pid: Who is to be its parent: without it, it ends.
        mark: What marks its descendants (`host.marks`).
        sys_path: What its ``sys.path`` is to begin with.
        cwd: Where it works; "" leaves it where it is.
    """

    identity: MachineIdentity
    supervisor_pid: int
    mark: int
    sys_path: tuple[str, ...] = ()
    cwd: str = ""


class Forked(Value):
    """The template has made this machine."""

    machine_id: str
    pid: int


class ForkFailed(Value):
    """The template could not make this machine: the system refused."""

    machine_id: str
    reason: str


class Preload(Value):
    """The template is to import these modules, which its machines will need.

    Attributes:
        modules: Their names.
        sys_path: What its ``sys.path`` is to begin with.
    """

    modules: tuple[str, ...]
    sys_path: tuple[str, ...]


class Preloaded(Value):
    """It has done so, as far as it could.

    Attributes:
        reason: Why it must not be forked any more, or "": it may.
    """

    reason: str = ""


class Retire(Value):
    """No more machines are wanted of this template."""


# The supervisor and its machines


class Connection(Value):
    """A peer has connected and asked for this machine. Attached is its socket."""


class Stop(Value):
    """The machine is to end gracefully.

    Attributes:
        grace: How long that may take, in seconds.
    """

    grace: float


class Ask(Value):
    """A question that the machine alone can answer.

    Attributes:
        number: Names the question in its `Answer`.
        what: ``"register"`` (``args``: the name; attached is the service as a parcel), ``"vars"``
            or ``"runtime"`` (Python's own memory figures).
        args: What belongs to it.
    """

    number: int
    what: Literal["register", "vars", "runtime"]
    args: tuple[Any, ...] = ()


class Ready(Value):
    """The services' ``init`` has run; calls are served."""


class InitFailed(Value):
    """A service could not be rebuilt, or its ``init`` raised.

    Attributes:
        error: The exception, by ``rpc.exceptions.encode_exception``.
        text: Its type and text, in one line.
    """

    error: bytes = hidden()
    text: str


class Answer(Value):
    """The answer to an `Ask`.

    Attributes:
        number: The question's.
        value: The answer, plain values only.
        error: In its place an exception, by ``rpc.exceptions.encode_exception``.
        text: Its type and text, in one line.
    """

    number: int
    value: Any = None
    error: bytes | None = hidden(default=None)
    text: str = ""


# Helpers


def _as_dict(values: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if values is None else dict(values)
