"""What an emulated link carries beside what its schedule offers, for each shaper.

A sender that never pauses fills the link for some seconds; the bytes carried, headers included, are set
beside those that the schedule offered in that time. The kernel's token bucket filter, its rate set anew in
every slot by `tc`, is measured beside them where `tc` is and the process is root: it shows why the shaper is
our own.

    python benchmarks/link_fidelity.py [--seconds 4] [--seed 0] [--json]
"""

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from latentcast.live.link.emulate import emulate, may_use_namespaces
from latentcast.live.link.schedule import RateSchedule

SLOT_MS = 30.0
# What fits a filter whose bucket must hold a whole packet.
TBF_MTU = 296
TBF_FRAME = TBF_MTU + 14


def drain(device: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while device.recv(65536):
            pass


def flood(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        while True:
            connection.sendall(bytes(65536))


def ours(schedule: RateSchedule, seconds: float, *, rootless: bool) -> tuple[float, float]:
    """Bytes carried and offered, after a first half second in which TCP finds its pace."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=flood, args=(server,), daemon=True).start()
        link = emulate(schedule, server.getsockname(), rootless=rootless)
        with link, link.behind(lambda: socket.create_connection(link.server)) as device:
            reader = threading.Thread(target=drain, args=(device,))
            reader.start()
            time.sleep(0.5)
            start, before = time.monotonic() - link.start_seconds, link.downlink.bytes
            time.sleep(seconds)
            end, after = time.monotonic() - link.start_seconds, link.downlink.bytes
            device.shutdown(socket.SHUT_RDWR)
            reader.join()
    return after - before, schedule.carried_bits(start, end) / 8


def kernel_filter(schedule: RateSchedule, seconds: float) -> tuple[float, float]:
    """The same by `tc ... tbf` on a pair of virtual interfaces, datagrams instead of TCP."""

    def call(command: str) -> None:
        subprocess.run(command.split(), check=True)

    def rate(now: float) -> str:
        return f"{max(round(schedule.rate_bits_per_second(now)), 8)}bit burst {TBF_FRAME} limit 200000"

    call("ip netns add latentcast-tbf")
    try:
        call(f"ip link add lctbf0 mtu {TBF_MTU} type veth peer name lctbf1 netns latentcast-tbf")
        call("ip addr add 198.19.255.1/30 dev lctbf0")
        call("ip link set lctbf0 up")
        call("ip -n latentcast-tbf link set lctbf1 up")
        call("ip neigh add 198.19.255.2 lladdr 02:00:00:00:00:01 dev lctbf0")
        call(f"tc qdisc add dev lctbf0 root tbf rate {rate(0.0)}")
        counter = Path("/sys/class/net/lctbf0/statistics/tx_bytes")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            begun = time.monotonic()
            before = int(counter.read_text())
            while (now := time.monotonic() - begun) < seconds:
                call(f"tc qdisc change dev lctbf0 root tbf rate {rate(now)}")
                with contextlib.suppress(BlockingIOError):
                    # Two slots' worth, so that the filter is never empty.
                    for _ in range(8 + round(2 * schedule.carried_bits(now, now + 0.03) / 8 / TBF_MTU)):
                        sender.sendto(bytes(TBF_MTU - 28), ("198.19.255.2", 9))
                time.sleep(max(SLOT_MS / 1000.0 - (time.monotonic() - begun - now), 0.0))
            return int(counter.read_text()) - before, schedule.carried_bits(0.0, now) / 8
    finally:
        call("ip netns del latentcast-tbf")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    shapers: dict[str, Callable[[RateSchedule], tuple[float, float]]] = {
        "proxy": lambda schedule: ours(schedule, given.seconds, rootless=True)
    }
    if (reason := may_use_namespaces()) is None:
        shapers["namespace"] = lambda schedule: ours(schedule, given.seconds, rootless=False)
        if shutil.which("tc"):
            shapers["kernel tbf"] = lambda schedule: kernel_filter(schedule, given.seconds)
    else:
        print(reason, file=sys.stderr)
    rows = []
    for snr_db, latent_size in ((-3.0, 1024), (12.0, 1024), (12.0, 16384), (24.0, 131072)):
        schedule = RateSchedule.rayleigh(
            snr_db=snr_db, latent_size=latent_size, slot_ms=SLOT_MS, seed=given.seed
        )
        for name, measure in shapers.items():
            carried, offered = measure(schedule)
            rows.append(
                {
                    "mean_kbit_per_second": schedule.mean_bits_per_second / 1000.0,
                    "shaper": name,
                    "offered_bytes": round(offered),
                    "carried_bytes": round(carried),
                    "ratio": carried / offered,
                }
            )
            if not given.json:
                row = rows[-1]
                print(
                    f"{row['mean_kbit_per_second']:9.1f} kbit/s  {name:<10}  "
                    f"offered {row['offered_bytes']:>9}  carried {row['carried_bytes']:>9}  "
                    f"ratio {row['ratio']:.3f}",
                    flush=True,
                )
    if given.json:
        json.dump(rows, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
