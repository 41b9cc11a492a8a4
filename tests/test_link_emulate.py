"""Real transfers over both shapers, and the command that runs a program behind one."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentcast.cli import run
from latentcast.errors import LiveError
from latentcast.live.link import namespaces
from latentcast.live.link.emulate import EmulatedLink, emulate, may_use_namespaces
from latentcast.live.link.namespaces import QUEUE_BYTES, NamespaceLink
from latentcast.live.link.schedule import RateSchedule


@pytest.fixture(scope="session")
def may_namespace() -> None:
    """Tests that ask for it run where the process may make network namespaces, and say why they cannot."""
    if (reason := may_use_namespaces()) is not None:
        pytest.skip(reason)


@pytest.fixture(params=["proxy", "namespace"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "namespace":
        request.getfixturevalue("may_namespace")
    return name


class Echo:
    """A server that answers every connection's line `N` with N bytes."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((host, 0))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                wanted = connection.recv(100)
                if wanted.strip().isdigit():
                    connection.sendall(bytes(int(wanted)))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def fetch(link: EmulatedLink, num_bytes: int) -> list[tuple[float, int]]:
    """Fetch bytes over a link: when, in its schedule's time, how many had come."""
    arrivals = []
    with link.behind(lambda: socket.create_connection(link.server)) as device:
        device.sendall(b"%d\n" % num_bytes)
        got = 0
        while part := device.recv(65536):
            got += len(part)
            arrivals.append((time.monotonic() - link.start_seconds, got))
    assert got == num_bytes
    return arrivals


@pytest.mark.parametrize(
    "schedule",
    [
        RateSchedule.constant(400_000.0),
        RateSchedule.rayleigh(snr_db=6.0, latent_size=8192, slot_ms=20.0, seed=4),
        RateSchedule.steps([(0.1, 800_000.0), (0.1, 0.0), (0.1, 200_000.0)]),
    ],
    ids=["constant", "rayleigh", "steps"],
)
def test_a_transfer_takes_as_long_as_the_schedule_says(schedule: RateSchedule, kind: str, echo: Echo) -> None:
    # Never faster; of three transfers the best at most a tenth and two slots slower, whatever else the
    # machine does meanwhile. Headers of full segments, the handshake and the first window take 4 to 6 %.
    num_bytes = 25_000
    ratios = []
    for _ in range(3):
        with emulate(schedule, echo.address, rootless=kind == "proxy") as link:
            assert link.kind == kind
            start = time.monotonic() - link.start_seconds
            arrivals = fetch(link, num_bytes)
            for seconds, got in arrivals:
                assert 8 * got <= schedule.carried_bits(start, seconds)
            offered = schedule.carried_bits(start, arrivals[-1][0]) / 8
            ratios.append((offered - schedule.mean_bits_per_second * 0.04 / 8) / num_bytes)
            assert link.downlink.bytes >= num_bytes
        if ratios[-1] < 1.1:
            break
    assert min(ratios) < 1.1


def test_every_byte_of_a_packet_is_charged(may_namespace: None) -> None:
    with NamespaceLink(RateSchedule.constant(1e6)) as link:
        receiver = link.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            receiver.bind((link.device, 0))
            receiver.settimeout(60.0)
            sender.sendto(b"x" * 100, receiver.getsockname())
            assert receiver.recv(200) == b"x" * 100
        # IPv4 and UDP headers.
        assert (link.downlink.packets, link.downlink.bytes) == (1, 128)
        assert link.uplink.packets == 0


def test_a_full_queue_drops(may_namespace: None) -> None:
    with NamespaceLink(RateSchedule.constant(0.0)) as link:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(2 * QUEUE_BYTES // 1028):
                sender.sendto(bytes(1000), (link.device, 9))
                time.sleep(0.0005)  # the TUN device's own queue holds 500 packets
        for _ in range(200):
            if link.downlink.dropped >= QUEUE_BYTES // 1028 - 1:
                break
            time.sleep(0.02)
        assert link.downlink.dropped == 2 * QUEUE_BYTES // 1028 - QUEUE_BYTES // 1028
        assert link.downlink.packets == 0


def test_a_link_to_a_server_on_all_addresses_needs_no_relay(may_namespace: None) -> None:
    server = Echo("0.0.0.0")
    try:
        with emulate(RateSchedule.constant(1e6), ("127.0.0.1", server.address[1])) as link:
            assert fetch(link, 1000)[-1][1] == 1000
    finally:
        server.close()


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith("latentcast")}


def test_nothing_stays_behind(may_namespace: None) -> None:
    before = interfaces()
    files = set(Path("/proc/self/fd").iterdir())
    threads = threading.active_count()
    link = NamespaceLink(RateSchedule.constant(1e6))
    assert len(interfaces() - before) == 1
    link.close()
    link.close()
    assert interfaces() == before
    assert set(Path("/proc/self/fd").iterdir()) == files
    assert threading.active_count() == threads


def test_nothing_stays_behind_a_killed_process(may_namespace: None) -> None:
    before = interfaces()
    program = (
        "from latentcast.live.link.namespaces import NamespaceLink\n"
        "from latentcast.live.link.schedule import RateSchedule\n"
        "link = NamespaceLink(RateSchedule.constant(1e6))\nprint('up', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert len(interfaces() - before) == 1
        process.kill()
    for _ in range(200):  # the kernel takes a namespace down in the background
        if interfaces() == before:
            break
        time.sleep(0.02)
    assert interfaces() == before


def test_without_the_right_to_it_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(namespaces, "_in_thread", refuse)
    with pytest.raises(LiveError, match=r"namespace \(Operation not permitted\); it needs root and Linux"):
        NamespaceLink(RateSchedule.constant(1e6))


FETCH = (
    "import socket, sys\n"
    "host, port = sys.argv[1].split(':')\n"
    "s = socket.create_connection((host, int(port)))\n"
    "s.sendall(b'5000')\n"
    "n = 0\n"
    "while part := s.recv(4096): n += len(part)\n"
    "print(n)\n"
    "sys.exit(int(sys.argv[2]))"
)


def test_emulate_runs_a_command_behind_the_link(
    kind: str, echo: Echo, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["link", "emulate", "--rate-kbps", "800", "--server", f"127.0.0.1:{echo.address[1]}", "--json"]
    if kind == "proxy":
        words.append("--rootless")
    assert run([*words, "--", sys.executable, "-c", FETCH, "{server}", "7"]) == 7
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert summary["shaper"] == kind
    assert summary["exit_code"] == 7
    assert summary["downlink"]["bytes"] > 5000
    assert summary["offered_bytes"] >= summary["downlink"]["bytes"]
    assert "5000" in err.splitlines()


def test_emulate_tells_what_the_link_carried(echo: Echo, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["link", "emulate", "--snr-db", "20", "--rootless", "--server", f"127.0.0.1:{echo.address[1]}"]
    assert run([*words, "--", sys.executable, "-c", FETCH, "{server}", "0"]) == 0
    out, err = capfd.readouterr()
    assert out == "5000\n"
    assert "through a proxy: Rayleigh, 20 dB, 51.6 kbit/s on average." in err
    assert "the link could carry" in err


def test_emulate_ends_its_command_when_it_is_ended(echo: Echo, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    words = ["link", "emulate", "--rootless", "--server", f"127.0.0.1:{echo.address[1]}", "--"]
    with subprocess.Popen(
        [sys.executable, "-m", "latentcast", *words, sys.executable, "-c", child], stderr=subprocess.DEVNULL
    ) as process:
        while not (file.exists() and file.read_text()):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        assert process.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--snr-db", "3", "--rate-kbps", "9"], "--snr-db and --rate-kbps exclude each other"),
        (["--rate-kbps", "-1"], "rate_bits_per_second is -1000.0"),
        (["--trace", "/nowhere"], "cannot read the trace /nowhere"),
        (["--server", "8000"], "--server is '8000'; it must be HOST:PORT"),
        (["--rootless"], "cannot run '/no/such/program': No such file or directory"),
    ],
)
def test_emulate_refuses(words: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["link", "emulate", *words, "--", "/no/such/program"]) == 2
    assert message in capfd.readouterr().err
