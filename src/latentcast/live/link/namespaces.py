"""A device in a network namespace of its own, behind a link that this process carries packet by packet.

The namespace and this machine are joined by two TUN devices. Whatever IP packet one of them is given is held
until a `TokenBucket` says that its last bit is through, and then written to the other: real TCP over a real
bottleneck, both ways. The kernel's own token bucket filter will not do: every change of its rate refills its
bucket, so that a link of 8 kbit/s whose rate is set anew every 30 ms carries 55 (docs/link-emulation.md).

The namespace has no name and the TUN devices do not persist: when the process that made them ends, however
it ends, the kernel removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import select
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from latentcast.errors import LiveError
from latentcast.live.link.schedule import RateSchedule
from latentcast.live.link.shaper import LinkCounters, TokenBucket

__all__ = ["NamespaceLink"]

T = TypeVar("T")

MTU_BYTES = 1500
# A direction's queue: 44 full packets. What comes when it is full is dropped, as a router would.
QUEUE_BYTES = 65_536
# Reserved for measurements of networks (RFC 2544); each link takes four addresses of it.
NETWORK = (198, 18)
NUM_LINKS = 1 << 15

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFDSTADDR, _SIOCSIFMTU = 0x8916, 0x8918, 0x8922
_IFF_UP = 0x1


class _Direction:
    """One way over the link: packets that wait for their time."""

    def __init__(self, source: int, target: int, bucket: TokenBucket, counters: LinkCounters) -> None:
        self.source = source
        self.target = target
        self.bucket = bucket
        self.counters = counters
        self.waiting: deque[tuple[float, bytes]] = deque()
        self._waiting_bytes = 0

    def take(self, now: float) -> None:
        """Read what the TUN device has been given."""
        with contextlib.suppress(BlockingIOError):
            while packet := os.read(self.source, 65_536):
                if packet[0] >> 4 != 4:  # the kernel looks for IPv6 routers
                    continue
                if self._waiting_bytes + len(packet) > QUEUE_BYTES:
                    self.counters.dropped += 1
                    continue
                self._waiting_bytes += len(packet)
                self.waiting.append((self.bucket.send(len(packet), now), packet))

    def give(self, now: float) -> None:
        """Write what is through."""
        while self.waiting and self.waiting[0][0] <= now:
            _, packet = self.waiting.popleft()
            self._waiting_bytes -= len(packet)
            # Counted first: who has received a packet finds it counted.
            self.counters.count(len(packet))
            with contextlib.suppress(OSError):  # the interface was taken down
                os.write(self.target, packet)


class NamespaceLink:
    """A link of a given rate to a new network namespace. It needs root, or the capability CAP_SYS_ADMIN.

    Every byte of an IP packet is charged, headers and TCP's own acknowledgements and repetitions included;
    there is no delay beside that of the rate and the queue before it.

    Args:
        schedule: rate of either direction over time; it begins now.

    Attributes:
        host: address of this machine as seen from the namespace.
        device: address of the namespace as seen from this machine.
        start_seconds: when the schedule began, by `time.monotonic`.
        downlink: what was carried to the namespace.
        uplink: what was carried from it.

    Raises:
        LiveError: if this is not Linux, or the process may not make namespaces or TUN devices.
    """

    def __init__(self, schedule: RateSchedule) -> None:
        self.schedule = schedule
        self.downlink = LinkCounters()
        self.uplink = LinkCounters()
        self._open: list[int] = []
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self.host, self.device = _free_addresses()
            name = f"latentcast{self.host.replace('.', '')[5:]}"  # an interface has up to 15 characters
            self._namespace = _in_thread(self._new_namespace)
            inside = self.inside(lambda: self._new_tun("link0", self.device, self.host))
            outside = self._new_tun(name, self.host, self.device)
        except (OSError, AttributeError, ImportError) as error:
            self._close_all()
            reason = getattr(error, "strerror", None) or error
            raise LiveError(
                f"cannot make a network namespace ({reason}); it needs root and Linux with /dev/net/tun; "
                "the rootless shaper does without"
            ) from None
        self._waker = socket.socketpair()
        self.start_seconds = time.monotonic()
        self._directions = [
            _Direction(source, target, TokenBucket(schedule, start_seconds=self.start_seconds), counters)
            for source, target, counters in (
                (outside, inside, self.downlink),
                (inside, outside, self.uplink),
            )
        ]
        self._thread = threading.Thread(target=self._carry, name="latentcast-link", daemon=True)
        self._thread.start()

    def __enter__(self) -> NamespaceLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in the namespace: sockets and processes that it makes stay there.

        It runs in a thread of its own; what it returns can be used anywhere.
        """

        def enter() -> T:
            self._check(self._libc.setns(self._namespace, _CLONE_NEWNET))
            return function()

        return _in_thread(enter)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in the namespace, as `subprocess.Popen` does."""
        return self.inside(lambda: subprocess.Popen(command, **options))

    def close(self) -> None:
        """Remove the link; processes that still run in the namespace are cut off."""
        if self._open:
            self._waker[1].close()
            self._thread.join()
            self._waker[0].close()
            self._close_all()

    def _carry(self) -> None:
        """The thread that carries the packets."""
        directions, waker = self._directions, self._waker[0].fileno()
        sources = [direction.source for direction in directions]
        while True:
            next_through = min(
                (direction.waiting[0][0] for direction in directions if direction.waiting),
                default=float("inf"),
            )
            timeout = min(max(next_through - time.monotonic(), 0.0), 60.0)
            ready, _, _ = select.select([*sources, waker], [], [], timeout)
            if waker in ready:
                return
            now = time.monotonic()
            for direction in directions:
                if direction.source in ready:
                    direction.take(now)
                direction.give(now)

    def _new_namespace(self) -> int:
        self._check(self._libc.unshare(_CLONE_NEWNET))
        namespace = self._keep(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _bring_up(control, b"lo")
        return namespace

    def _new_tun(self, name: str, address: str, peer: str) -> int:
        """A TUN device where the calling thread is; its file."""
        import fcntl  # not on Windows, where the proxy of this folder works, too

        tun = self._keep(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        interface = name.encode()
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", interface, _IFF_TUN_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFDSTADDR, peer)):
                packed = struct.pack("16sH2x4s8x8x", interface, socket.AF_INET, socket.inet_aton(value))
                fcntl.ioctl(control, request, packed)
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", interface, MTU_BYTES))
            _bring_up(control, interface)
        return tun

    def _keep(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def _close_all(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _check(self, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _bring_up(control: socket.socket, interface: bytes) -> None:
    import fcntl

    (flags,) = struct.unpack_from(
        "H", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", interface)), 16
    )
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", interface, flags | _IFF_UP))


def _free_addresses() -> tuple[str, str]:
    """Addresses of the two ends of a link, at random among those that this machine does not have."""
    while True:
        number = secrets.randbelow(NUM_LINKS) * 4
        high, middle, low = number >> 16, number >> 8 & 255, number & 255
        host, device = (f"{NETWORK[0]}.{NETWORK[1] + high}.{middle}.{low + end}" for end in (1, 2))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                return host, device


def _in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, whose namespace may change."""
    results: list[T] = []
    failures: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
