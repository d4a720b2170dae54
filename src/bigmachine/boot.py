"""What a host runs first: one file, for any Python from 3.8 on, that brings up a supervisor.

It comes by itself, through SSH's standard input or as an instance's user-data, with the host's
credentials and nothing else (`bigmachine.systems.bootfile`). It listens, and the driver connects::

    driver ── 64 bytes, TLS 1.3 by both sides ──▶ boot   nobody else gets any further
           ◀── hello: what this host is ─────────
           ── offer: the runtime's layers, a Python ─▶   with their listings
           ◀── answer: what is lacking ──────────
           ── from: a host that sends them, or none ▶
           ── packs ────────────────────────────────▶    verified, unpacked into the cache
           ◀── ready: the supervisor's first words ─     it has the listening socket by now
           ── taken ────────────────────────────────▶

A message is a length (4 bytes, big-endian) and JSON, and ``"bytes"`` in it says how many follow.
Afterwards this process guards the supervisor: when that has ended, however it did, it kills what is
left, removes the cluster's directory, and does what the host is to do at its end.

What always holds: if no supervisor runs within ``boot_seconds``, all is undone and this process
ends. Who is neither the driver nor that host is read to the end of a handshake at most, and delays
nobody. What the host sends is held to hashes of the driver's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import selectors
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PREAMBLE = b"bigmachine/1 boot".ljust(64, b"\0")
PREAMBLE_SECONDS = 2.0
HANDSHAKE_SECONDS = 10.0
MAX_PEERS = 256  # who have not proved who they are; one more costs the oldest his place
ANSWER_SECONDS = 20.0  # of the driver, of the supervisor, of an interpreter
MARGIN_SECONDS = 10.0  # of the guardian's patience, beyond the supervisor's lease
KILL_SECONDS = 5.0
FAREWELL_SECONDS = 2.0  # for the driver to read why it is in vain
END_SECONDS = 60.0  # for the command at the end
MAX_BYTES = 64 << 20
FIXED_MTIME = 946684800  # of all files in layers
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
PR_SET_CHILD_SUBREAPER = 36
LENGTH = struct.Struct(">I")
LEASE = struct.Struct(">d")
PLACES = (
    "~/.pyenv/versions/*/bin",
    "~/.local/bin",
    "~/.local/share/uv/python/*/bin",
    "~/*conda*/bin",
    "/opt/*/bin",
    "/opt/python/*/bin",
)
KIND = "'{}{}.{}{}'.format(sys.implementation.name, *sys.version_info[:2], sys.abiflags)"
TRIAL = f"import sys, ssl, zlib, ctypes, select; print({KIND}, sys.executable)"


class Failure(Exception):
    """This host cannot do it: ``kind`` is for the driver, the text for a person."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def main(config: dict[str, Any]) -> None:
    """Bring up the supervisor, guard it, and leave nothing. Never returns.

    Args:
        config: ``cluster``, ``id``, ``credentials``, ``boot_seconds``, ``lease_seconds``; the IP
            address to ``listen`` on and the ``port``; the ``directory`` of the cache; whether the
            end of ``stdin`` means that nobody waits any more; the command ``at_end``.
    """
    code, boot = 1, Boot(config)
    try:
        boot.arm()
        code = boot.run()
    except Failure as error:
        say({"error": str(error), "kind": error.kind})
    except BaseException as error:
        say({"error": f"{type(error).__name__}: {error}", "kind": "fault"})
    finally:
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        boot.end()
        os._exit(code)


def say(message: dict[str, Any]) -> None:
    """Tell whoever reads the standard output, in one line."""
    with contextlib.suppress(OSError, ValueError):
        print("bigmachine-boot " + json.dumps(message), flush=True)


class Boot:
    """One host's way from the first second to the last."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.seconds = float(config.get("boot_seconds") or 60)
        self.why = f"no driver has brought up this host within {self.seconds:g} s"
        self.is_up = False
        self.directory = ""  # this cluster's
        self.locks: list[int] = []
        self.child: subprocess.Popen[bytes] | None = None
        self.cache = Cache(config.get("directory") or "")

    def arm(self) -> None:
        """Set the limit of everything, and what else makes this process give up."""
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        if self.config.get("stdin"):
            threading.Thread(target=self._watch_stdin, daemon=True).start()

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGUSR2 or not self.is_up:  # at once
            raise Failure("time", self.why if number == signal.SIGALRM else "it was told to end")
        if number == signal.SIGTERM and self.child is not None:
            self.child.terminate()  # which it does in good order

    def _watch_stdin(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 65536):
                pass
        if not self.is_up:
            self.why = "the connection that this file came by has ended"
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def run(self) -> int:
        """Do all of it, and return the exit code."""
        become_subreaper()
        self.context = tls(self.config["credentials"])
        listener = listen(self.config.get("listen") or "", int(self.config.get("port") or 0))
        say({**self.facts(), "port": listener.getsockname()[1]})
        boot_socket = None
        while boot_socket is None:
            driver = accept(listener, self.context)
            try:
                boot_socket = self.serve(driver, listener)
            except Failure as error:
                with contextlib.suppress(OSError):
                    send(driver, {"error": str(error), "kind": error.kind})
                    driver.settimeout(FAREWELL_SECONDS)
                    while driver.recv(4096):  # until it has read all
                        pass
                raise
            except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
                # The driver is gone, or has lost its mind: it may connect again.
                print(f"bigmachine: the driver was lost: {error!r}", file=sys.stderr)
                self.undo()
            finally:
                driver.close()
        listener.close()
        return self.guard(boot_socket)

    def facts(self) -> dict[str, Any]:
        """Return what the driver is to know of this host."""
        return {
            "boot": 1,
            "host": self.config["id"],
            "pid": os.getpid(),
            "python": {
                "version": sys.version_info[:3],
                "executable": sys.executable,
                "candidates": candidates(),
            },
            "platform": platform(),
            "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "time": time.time(),
            "directory": self.cache.root,
        }

    # The driver's turn

    def serve(self, driver: socket.socket, listener: socket.socket) -> socket.socket:
        """Do what the driver wants; return the boot socket of a supervisor that runs."""
        send(driver, self.facts())
        self.cache.prepare()
        while True:
            offer = receive(driver)
            layers = read_layers(driver, offer)
            wanted, shipped = "{}.{}".format(*offer["python"]), offer.get("interpreter")
            python = find_python(wanted)
            lacks = [layer for layer in layers if not self.hold(layer)]
            answer = {"lacks": {each.digest: list(range(len(each.packs))) for each in lacks}}
            send(driver, {**answer, "interpreter": python})
            if python is None and not shipped:
                continue  # the driver may have one
            if lacks:
                self.fetch(lacks, driver, listener)
            if python is None:
                path = os.path.join(self.cache.tree(str(shipped)), "bin", "python" + wanted)
                python = try_python(path, wanted)
                if python is None:
                    raise Failure("python", "the Python that was sent does not run here")
            break
        trees = [self.cache.tree(each.digest) for each in layers if each.digest != shipped]
        boot_socket, ready = self.start(python, trees, offer, listener)
        send(driver, {"ready": ready})
        receive(driver)
        self.is_up = True
        return boot_socket

    def fetch(self, lacks: list[Layer], driver: socket.socket, listener: socket.socket) -> None:
        """Get layers from the driver, or the host that it names."""
        host = receive(driver)["from"]
        source = accept(listener, self.context, host) if host else driver
        for layer in lacks:
            self.cache.receive(layer, source)
            if not self.hold(layer):
                raise Failure("directory", f"{self.cache.root} loses files")
        if host:
            source.close()

    def hold(self, layer: Layer) -> bool:
        """Keep a layer here while this process lives; whether it is."""
        held = self.cache.hold(layer)
        if held is not None:
            self.locks.append(held)
        return held is not None

    def start(
        self, python: str, trees: list[str], offer: dict[str, Any], listener: socket.socket
    ) -> tuple[socket.socket, dict[str, Any]]:
        """Start the supervisor; return its boot socket and its first words."""
        name = f"{self.config['cluster']}-{self.config['id']}".replace("/", "_")
        self.directory, held = self.cache.make_directory("clusters", name)
        self.locks.append(held)
        config = {
            **offer["config"],
            "directory": self.directory,
            "transport": "tls",
            "credentials": self.config["credentials"],
            "listen_fd": listener.fileno(),
            "sys_path": trees,
            "cache": self.cache.root,
            "at_end": self.config.get("at_end"),
        }
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            with self.cache.explained():
                errors = stack.enter_context(tempfile.TemporaryFile(dir=self.directory))
            with theirs:
                self.child = subprocess.Popen(
                    [python, "-I", "-S", "-c", offer["stub"], str(theirs.fileno()), trees[0]],
                    pass_fds=(theirs.fileno(), listener.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    env=environment(),
                    start_new_session=True,
                )
            try:
                ours.settimeout(ANSWER_SECONDS)
                send(ours, config)
                ready = receive(ours)
            except (OSError, EOFError, ValueError) as error:
                ready = {"ok": False, "error": str(error)}
            if not ready["ok"]:
                errors.seek(0)
                said = errors.read()[-2000:].decode("utf-8", "replace").strip()
                text = f"the supervisor did not come up: {ready['error']}; {said}"
                raise Failure("supervisor", text)
        return ours, ready

    def undo(self) -> None:
        """Kill what was started, and remove what was made for the cluster."""
        kill_all()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        while self.locks:
            os.close(self.locks.pop())

    # The guardian

    def guard(self, boot_socket: socket.socket) -> int:
        """Wait for the supervisor's end, for as long as its lease is renewed."""
        assert self.child is not None
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        lease = self.config.get("lease_seconds") or float("inf")
        deadline = time.monotonic() + lease + MARGIN_SECONDS
        boot_socket.settimeout(1.0)
        data = b""
        while self.child.poll() is None and time.monotonic() < deadline:
            try:
                more = boot_socket.recv(4096)
            except OSError:  # nothing new
                continue
            if not more:
                break
            data += more
            while len(data) >= LEASE.size:
                (lease,) = LEASE.unpack(data[: LEASE.size])
                data = data[LEASE.size :]
                deadline = time.monotonic() + lease + MARGIN_SECONDS
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.child.wait(1.0)
        return 1

    def end(self) -> None:
        """Undo everything, then do what the host is to do at its end."""
        with contextlib.suppress(Exception):
            self.undo()
        command = self.config.get("at_end")
        if command:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    command,
                    shell=isinstance(command, str),
                    stdin=subprocess.DEVNULL,
                    timeout=END_SECONDS,
                    check=False,
                )


# The network


def tls(credentials: dict[str, str]) -> ssl.SSLContext:
    """Return the context: TLS 1.3, both sides verify, nothing is trusted but the cluster."""
    if not ssl.HAS_TLSv1_3:
        raise Failure("python", f"this Python has no TLS 1.3 ({ssl.OPENSSL_VERSION})")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # With a clock that is wrong it could not even say so: the driver looks at the time instead.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | NO_CHECK_TIME
    context.num_tickets = 0
    context.load_verify_locations(cadata=credentials["authority"])
    in_memory = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")
    fd, path = (os.memfd_create("key"), "") if in_memory else tempfile.mkstemp()
    try:
        os.write(fd, (credentials["certificate"] + credentials["key"]).encode())
        context.load_cert_chain(path or f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
        if path:
            os.unlink(path)
    return context


def listen(address: str, port: int) -> socket.socket:
    """Listen at an IP address; "" is any, of both families where there are two."""
    problem: OSError | None = None
    for each in [address] if address else ["::", "0.0.0.0"]:
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in each else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if each == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((each, port))
            sock.listen(4096)
            sock.setblocking(False)
            return sock
        except OSError as error:
            problem = error
    raise Failure("port", f"cannot listen on {address or 'any address'}, port {port}: {problem}")


class Peer:
    """Who has connected, and is nobody yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket | ssl.SSLSocket = sock
        self.preamble = b""
        self.deadline = time.monotonic() + PREAMBLE_SECONDS

    def step(self, context: ssl.SSLContext, expected: tuple[str, ...]) -> bool:
        """Get on with it; whether it is expected.

        Raises:
            OSError: It is not; or `ssl` or the socket want to wait.
        """
        sock = self.sock
        if not isinstance(sock, ssl.SSLSocket):
            more = sock.recv(len(PREAMBLE) - len(self.preamble))
            self.preamble += more
            if not more or not PREAMBLE.startswith(self.preamble):
                raise OSError("no driver's preamble")
            if self.preamble != PREAMBLE:
                return False
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self.sock = sock
            self.deadline = time.monotonic() + HANDSHAKE_SECONDS
        sock.do_handshake()
        names: Any = (sock.getpeercert() or {}).get("subjectAltName", ())
        if len(names) != 1 or names[0][0] != "DNS" or not names[0][1].startswith(expected):
            raise OSError("no driver")
        return True


def accept(listener: socket.socket, context: ssl.SSLContext, *hosts: str) -> ssl.SSLSocket:
    """Find the driver, or a host, among those who connect; all others are dropped then."""
    peers: dict[int, Peer] = {}
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)

    def drop(fd: int) -> None:
        with contextlib.suppress(LookupError, OSError, ValueError):
            selector.unregister(fd)
        with contextlib.suppress(OSError):
            peers.pop(fd).sock.close()

    def admit() -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        if len(peers) >= MAX_PEERS:  # first who has not even said what it wants
            drop(min(peers, key=lambda fd: (bool(peers[fd].preamble), peers[fd].deadline)))
        peers[sock.fileno()] = Peer(sock)
        selector.register(sock.fileno(), selectors.EVENT_READ)

    try:
        while True:
            for key, _ in selector.select(0.2):
                fd = key.fd
                try:
                    if fd == listener.fileno():
                        admit()
                    elif fd in peers and peers[fd].step(context, ("driver-", *hosts)):
                        peers[fd].sock.settimeout(ANSWER_SECONDS)
                        return peers.pop(fd).sock  # type: ignore[return-value]
                except (BlockingIOError, ssl.SSLWantReadError):
                    pass
                except ssl.SSLWantWriteError:
                    selector.modify(fd, selectors.EVENT_READ | selectors.EVENT_WRITE)
                except (OSError, ValueError):
                    if fd in peers:
                        drop(fd)
            for fd in [fd for fd in peers if peers[fd].deadline < time.monotonic()]:
                drop(fd)
    finally:
        for fd in list(peers):
            drop(fd)
        selector.close()


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send a message."""
    text = json.dumps(message).encode()
    sock.sendall(LENGTH.pack(len(text)) + text)


def receive(sock: socket.socket) -> dict[str, Any]:
    """Wait for a message."""
    (length,) = LENGTH.unpack(exactly(sock, LENGTH.size))
    message: dict[str, Any] = json.loads(exactly(sock, length))
    return message


def receive_bytes(sock: socket.socket, message: dict[str, Any], raw_bytes: int) -> bytes:
    """Return what follows a message, decompressed: ``raw_bytes`` and no more."""
    return zlib.decompressobj().decompress(
        exactly(sock, message["bytes"]), min(raw_bytes, MAX_BYTES) + 1
    )


def exactly(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes."""
    if count > MAX_BYTES:
        raise ValueError(f"{count} bytes at once")
    data = bytearray()
    while len(data) < count:
        more = sock.recv(min(count - len(data), 1 << 18))
        if not more:
            raise EOFError("the other side has closed the connection")
        data += more
    return bytes(data)


# The cache


class Layer:
    """A listing: `bigmachine.image.listing` says what is in it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.digest = hashlib.sha256(text).hexdigest()
        listing = json.loads(text)
        self.entries, self.packs = listing["entries"], listing["packs"]
        for path, *_ in self.entries:
            if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
                raise Failure("layer", f"a layer has a file {path!r}")
        if sum(entry[2] or 0 for entry in self.entries) != sum(pack[1] for pack in self.packs):
            raise Failure("layer", "a layer has more or less in it than it says")


def read_layers(driver: socket.socket, offer: dict[str, Any]) -> list[Layer]:
    """Read the listings that follow an offer, and hold them to their digests."""
    sizes = [each["listing_bytes"] for each in offer["layers"]]
    text = receive_bytes(driver, offer, sum(sizes))
    layers = []
    for each, size in zip(offer["layers"], sizes):
        layer, text = Layer(text[:size]), text[size:]
        if layer.digest != each["digest"]:
            raise Failure("layer", f"the listing of layer {each['digest']} is damaged")
        layers.append(layer)
    return layers


class Cache:
    """Where layers are kept, and the private directories of clusters."""

    def __init__(self, root: str) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        root = root or os.path.join(base, "bigmachine")
        self.root = os.path.abspath(os.path.expanduser(root))

    def tree(self, digest: str) -> str:
        """Return where a layer's files are."""
        return os.path.join(self.root, "layers", digest, "tree")

    def prepare(self) -> None:
        """Make it, or say why it cannot be used."""
        with self.explained():
            for name in ("", "layers", "clusters", "tmp"):
                os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)
            found = os.stat(self.root)
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise Failure("permission", f"{self.root} can be written by other users")
            if os.statvfs(self.root).f_flag & getattr(os, "ST_NOEXEC", 0):
                raise Failure("noexec", f"{self.root} is mounted noexec")
            self.remove_stale("clusters", "*")
            self.remove_stale("tmp", "boot-*")

    def remove_stale(self, where: str, names: str) -> None:
        """Remove directories that no process holds any more."""
        with self.turn(where):
            for path in glob.glob(os.path.join(glob.escape(self.root), where, names)):
                with contextlib.suppress(OSError):
                    os.close(lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
                    shutil.rmtree(path, ignore_errors=True)

    def hold(self, layer: Layer) -> int | None:
        """Lock a layer that is here whole (a crash may have cut off files); else return None."""
        tree = self.tree(layer.digest)
        held = None
        try:
            held = lock(os.path.dirname(tree), fcntl.LOCK_SH)
            for path, _, size, *_ in layer.entries:
                found = os.lstat(os.path.join(tree, path))
                if size is not None and found.st_size != size:
                    raise OSError("cut off")
        except OSError:
            if held is not None:
                os.close(held)
                shutil.rmtree(os.path.dirname(tree), ignore_errors=True)
            return None
        return held

    def receive(self, layer: Layer, source: socket.socket) -> None:
        """Take a layer's packs and unpack them; it appears here when all is well."""
        with self.explained():
            path, held = self.make_directory("tmp", "boot-" + os.urandom(8).hex())
            try:
                unpack(os.path.join(path, "tree"), layer, packs(layer, source))
                with open(os.path.join(path, "listing.json"), "wb") as file:
                    file.write(layer.text)
                final = os.path.dirname(self.tree(layer.digest))
                try:
                    os.rename(path, final)
                except OSError:
                    if not os.path.isdir(final):  # else somebody was faster
                        raise
            finally:
                os.close(held)
                shutil.rmtree(path, ignore_errors=True)

    def make_directory(self, where: str, name: str) -> tuple[str, int]:
        """Make a private directory, and return it with the lock that holds it."""
        with self.explained(), self.turn(where):
            path = os.path.join(self.root, where, name)
            os.mkdir(path, 0o700)
            return path, lock(path, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def turn(self, where: str) -> Iterator[None]:
        """Have a directory for oneself, for a moment."""
        held = lock(os.path.join(self.root, where), fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(held)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say what the system's errors mean here."""
        try:
            yield
        except (ConnectionError, socket.timeout, ssl.SSLError):
            raise
        except OSError as error:
            kind, text = "directory", "cannot be used"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                kind, text = "disk", "is on a disk that is full"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                kind, text = "permission", "cannot be written"
            raise Failure(kind, f"{self.root} {text}: {error}") from error


def lock(path: str, how: int) -> int:
    """Lock a directory; return the descriptor that holds the lock."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, how)
    except BaseException:
        os.close(fd)
        raise
    return fd


def packs(layer: Layer, source: socket.socket) -> Iterator[bytes]:
    """Receive a layer's packs, in their order, each held to its hash."""
    for number, (digest, size, *_) in enumerate(layer.packs):
        message = receive(source)
        if (message["layer"], message["pack"]) != (layer.digest, number):
            raise ValueError(f"pack {number} of layer {layer.digest} was expected")
        raw = receive_bytes(source, message, size)
        if len(raw) != size or hashlib.sha256(raw).hexdigest() != digest:
            raise Failure("layer", f"pack {number} of layer {layer.digest} is damaged")
        yield raw


def unpack(tree: str, layer: Layer, chunks: Iterator[bytes]) -> None:
    """Write a layer's files; symbolic links last, so that nothing is written through one."""
    os.mkdir(tree, 0o755)
    left = memoryview(b"")
    links = []
    for path, mode, size, target, *_ in layer.entries:
        full = os.path.join(tree, path)
        os.makedirs(full if size is target is None else os.path.dirname(full), exist_ok=True)
        if target is not None:
            links.append((target, full))
        elif size is not None:
            with open(full, "xb") as file:
                while size:
                    left = left or memoryview(next(chunks))
                    written = file.write(left[:size])
                    left, size = left[written:], size - written
                os.fchmod(file.fileno(), mode & 0o777)
            os.utime(full, (FIXED_MTIME, FIXED_MTIME))
    for target, full in links:
        os.symlink(target, full)


# The host


def candidates() -> list[str]:
    """List the interpreters that lie around, untried."""
    places = environment()["PATH"].split(os.pathsep)
    for pattern in PLACES:
        places += sorted(glob.glob(os.path.expanduser(pattern)))
    found = [sys.executable]
    for place in places:
        if not place.endswith("shims"):  # slow, and of what is found anyway
            found += sorted(glob.glob(os.path.join(glob.escape(place), "python3.[0-9]*")))
    return [each for each in dict.fromkeys(found) if each and each[-1].isdigit()]


def find_python(version: str) -> str | None:
    """Find an interpreter of a version that runs."""
    if eval(KIND) == "cpython" + version:
        return sys.executable
    paths = [path for path in candidates() if os.path.basename(path) == "python" + version]
    return next(filter(None, (try_python(path, version) for path in paths)), None)


def try_python(path: str, version: str) -> str | None:
    """Run an interpreter; return its real path if it is of this version and has all it needs."""
    try:
        said = subprocess.check_output(
            [path, "-I", "-S", "-c", TRIAL],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    kind, _, executable = os.fsdecode(said).strip().partition(" ")
    return executable if kind == "cpython" + version else None


def platform() -> dict[str, Any]:
    """Return what decides which binaries run here."""
    libc = ["", ""]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        libc = (os.confstr("CS_GNU_LIBC_VERSION") or " ").split(" ", 1)
    for loader in [] if libc[0] else glob.glob("/lib/ld-musl-*"):
        said = subprocess.run([loader], stderr=subprocess.PIPE, check=False).stderr.decode()
        libc = ["musl", said.partition("Version ")[2].partition("\n")[0]]
    return {"system": os.uname().sysname, "machine": os.uname().machine, "libc": libc}


def environment() -> dict[str, str]:
    """Return the host's environment; the first of all processes may have little."""
    defaults = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.path.expanduser("~")}
    return {**defaults, **os.environ}


def become_subreaper() -> None:
    """Become the parent of descendants who have lost theirs."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)))


def kill_all() -> None:
    """Kill all descendants, and those that they leave to this process, and wait for them."""
    end = time.monotonic() + KILL_SECONDS
    while time.monotonic() < end:
        for pid in descendants():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def descendants() -> list[int]:
    """List the processes below this one, where there is a ``/proc``."""
    parents: dict[int, int] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # The name, in parentheses, may hold anything.
            parents[int(path.split("/")[2])] = int(file.read().rpartition(b")")[2].split()[1])
    found: list[int] = []
    generation = {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        found += generation
    return found
