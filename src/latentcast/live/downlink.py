"""When to make a packet, how long, and in which pieces: the window of one session.

What is under way is bounded: what the link carries in a round trip, and two packets, each of which is half a
slot's worth, so that the link does not run dry while an acknowledgement comes back and what waits in it is
never older than a slot. On a slow link packets are longer than that, lest their headers dominate, and so they
are once x_0 is there and nothing grows old any more. Until then they are cut such that one ends when x_0
comes: a slot then is worth several decibels, and what is under way is of an older step. Only acknowledgements
count: that a transport takes a message says nothing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from latentcast.errors import ProtocolError
from latentcast.link.latency import latency_quantile
from latentcast.live.messages import FRAGMENT_BYTES, MAX_FRAGMENTS, Ack, Refinement
from latentcast.live.pace import StepPace
from latentcast.live.protocol import OVERHEAD_BYTES, encode
from latentcast.live.rate import RateEstimator
from latentcast.live.streams import Chance, Stream

__all__ = ["Downlink", "LatencyRecord"]

NETWORK_BYTES = 54
"""What the network adds to a message: headers of IPv4 and TCP with time stamps, and a WebSocket frame's."""

MIN_PACKET_BYTES = 160
"""Least length on the link of a packet that is not the last: below, headers take more than half of it."""

MIN_FINAL_PACKET_BYTES = 250
"""The same once x_0 is there, when a packet may be longer, since its content does not grow old."""

WINDOW_PACKETS = 2.25
"""Packets that may be under way beside what the link carries in a round trip."""

SPARE_PACKETS = 0.1
SPARE_SECONDS = 0.002
"""A packet is made when so much of the ones before is left in the link, in packets and seconds."""

WAIT_PACKETS = 0.05
"""A packet waits for the next step if the link stands idle for no more than so much of one meanwhile."""

HOLD_SLOTS = 0.05
"""Nothing is held for less, since a rate that falls while time passes drains nothing, nor a step expected
more exactly."""

LEAST_SHARE = 0.5
"""Between the last packet and x_0 there is room for another if it is so much of one, else x_0 is awaited."""

RESERVE_SLOTS = 0.1
RESERVE_DEVIATIONS = 1.0
RESERVE_SHARE = 0.5
"""The end that passes are planned without: slots, standard deviations of what the link carries until then,
and at most this share of the time that is left. What it turns out to carry goes into a last packet on top."""

LAST_PACKETS = 1.5
"""With so many packets or fewer to go, one takes all that is left."""

LAST_SHARE = 0.95
MIN_LAST_BYTES = NETWORK_BYTES + 24
LAST_PIECES = 4
MIN_PIECE = 2 * NETWORK_BYTES
"""The last packet on top takes this share of what is left; in pieces, so that some of them are in time."""

FIRST_PACKET_BYTES = 96
"""Length of the first packet, which measures the link and gives the device something to show."""

PIECE_BYTES = 1024
"""Usual length of a fragment: short enough that each acknowledgement tells something."""

MAX_PACKET_BYTES = MAX_FRAGMENTS * FRAGMENT_BYTES

ENOUGH_MSE = 1e-8
"""Error of x_0 that is not worth refining: below that of float16, 4e-8."""

LATENCY_QUANTILE = 0.9


@dataclass(kw_only=True)
class LatencyRecord:
    """How long packets took, against the paper's latency quantile (eq. 11) at 0.9 when they were sent.

    Attributes:
        packets: Packets that were acknowledged and had a prediction.
        within: Those that took no longer than predicted.
        predicted_seconds: Sum of the predictions.
        reached_seconds: Sum of the times.
    """

    packets: int = 0
    within: int = 0
    predicted_seconds: float = 0.0
    reached_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sent:
    packet: int
    end: int  # bytes sent on this connection, this packet included
    sent_at: float
    predicted_seconds: float | None


class Downlink:
    """Paces one stream over one connection at a time.

    Args:
        stream: What makes the packets.
        slot_seconds: Time of a denoising step.
        rtt_seconds: Round trip.
        deadline: When the device shows what it holds.

    Attributes:
        latency: How long packets took.
        sent_bytes: Length of all REFINEMENT messages, on all connections.
        arrived_packets: Packets that arrived whole, as far as is known.
    """

    def __init__(self, stream: Stream, *, slot_seconds: float, rtt_seconds: float, deadline: float) -> None:
        self.latency = LatencyRecord()
        self.sent_bytes = 0
        self.arrived_packets = 0
        self._stream = stream
        self._slot = slot_seconds
        self._deadline = deadline
        self._last_useful = deadline - rtt_seconds / 2
        self._rtt = rtt_seconds
        self._estimator = RateEstimator(
            slot_seconds=slot_seconds, rtt_seconds=rtt_seconds, overhead_bytes=NETWORK_BYTES
        )
        self._fragments: deque[Refinement] = deque()
        self._packets: deque[_Sent] = deque()
        self._position = self._arrived = self._connection_bytes = 0
        # Packet, fragment with its bit 7, and where it ended, of what is under way.
        self._messages: deque[tuple[int, int, int]] = deque()
        # A step for which nothing was left to send, or nothing worth it, and until when that holds.
        self._sated: tuple[int, float] | None = None
        self._piece = PIECE_BYTES
        # When something may be worth sending although nothing happened.
        self._again: float | None = None
        self._pace = StepPace(stream.num_steps, slot_seconds)

    @property
    def mean_rate(self) -> float | None:
        """Bytes per second of busy link since the beginning, with what the network adds to messages."""
        return self._estimator.mean_rate

    def rate(self, now: float) -> float | None:
        """Bytes per second that the link carries by the newest estimate."""
        return self._estimator.rate(now)

    def spread_bits(self, now: float) -> float:
        """Standard deviation of the bits of a slot."""
        return self._estimator.spread_bits(now)

    def acknowledge(self, ack: Ack, now: float) -> None:
        """Take an ACK.

        Raises:
            ProtocolError: If it acknowledges what was not sent; nothing changes.
        """
        if ack.packet >= self._stream.next_packet:
            raise ProtocolError(f"ACK names packet {ack.packet}, which was not sent")
        surplus = (ack.received_bytes - self._connection_bytes) % 2**32
        if 0 < surplus < 2**31:
            raise ProtocolError(
                f"ACK says that {ack.received_bytes} bytes arrived, {surplus} more than were sent"
            )
        # By its name and not by the bytes: what came damaged is never counted, and yet under way no more.
        named = [
            end for packet, flags, end in self._messages if (packet, flags) == (ack.packet, ack.fragment)
        ]
        if not named:
            return  # a duplicate, or of before a RESET
        while self._messages and self._messages[0][2] <= named[0]:
            self._messages.popleft()
        self._arrived += self._estimator.acknowledged(named[0] % 2**32, ack.clock_us, now)
        if self._sated is None or now >= self._sated[1]:
            self._again = now  # there is room
        while self._packets and self._packets[0].end <= self._arrived:
            sent = self._packets.popleft()
            self._stream.acknowledged(sent.packet)
            self.arrived_packets += 1
            if sent.predicted_seconds is not None:
                took = now - sent.sent_at
                self.latency.packets += 1
                self.latency.within += took <= sent.predicted_seconds
                self.latency.predicted_seconds += sent.predicted_seconds
                self.latency.reached_seconds += took

    def expect_deadline(self, deadline: float) -> None:
        """Take it that the device shows what it holds at another time."""
        self._deadline = deadline
        self._last_useful = deadline - self._rtt / 2

    def reconnected(self, rtt_seconds: float) -> None:
        """Begin on a new connection; what is known of the link stays."""
        self._rtt = rtt_seconds
        self._last_useful = self._deadline - rtt_seconds / 2
        self._estimator.reconnected(rtt_seconds)
        self._connection_bytes = 0
        self.forget_packets()

    def forget_packets(self) -> None:
        """Send nothing more of what has been made, and await nothing of it."""
        self._estimator.reconnected(self._estimator.rtt_seconds)
        self._position = self._arrived = 0
        self._messages.clear()
        self._fragments.clear()
        self._packets.clear()
        self._sated = self._again = None

    def messages(self, now: float) -> list[bytes]:
        """REFINEMENT messages for which there is room now."""
        messages: list[bytes] = []
        self._again = None
        while True:
            if not self._fragments and not self._next_packet(now):
                return messages
            fragment = self._fragments[0]
            length = len(fragment.data) + OVERHEAD_BYTES
            if self._stream.wants_whole_packets and not self._has_room(length + NETWORK_BYTES, now):
                return messages
            self._fragments.popleft()
            messages.append(encode(fragment))
            self._sent(fragment, length, now)

    def sent_ahead(self, message: bytes, now: float) -> None:
        """Note another message that went out, which takes its time on the link as well."""
        self._estimator.sent_ahead(len(message), now)

    def next_poll(self) -> float | None:
        """When something may be worth sending although nothing happened."""
        return self._again

    def _next_packet(self, now: float) -> bool:
        step = self._stream.step
        self._pace.note(step, now)
        if step >= self._stream.num_steps:
            return False
        if self._sated is not None and self._sated[0] == step and now < self._sated[1]:
            self._again = self._sated[1]
            return False
        self._sated = None
        if step == 0 and self._stream.predicted_mse <= ENOUGH_MSE:
            return False
        chance = self._chance(now)
        if chance is None:
            return False
        data = self._stream.make(chance)
        # A packet shorter than it might be holds all that is worth sending.
        short = data is None or len(data) < 0.9 * chance.max_bytes
        if short:
            # Of x_0 nothing more is worth sending until the end is near.
            left = self._last_useful - now
            rest = max(self._slot, self._pace.patience(now)) if step > 0 else max(self._slot, left / 4) / 2
            self._again = now + rest
            self._sated = (step, self._again)
        if data is None:
            return False
        piece = min(max(self._piece, math.ceil(len(data) / MAX_FRAGMENTS)), FRAGMENT_BYTES)
        number = self._stream.next_packet - 1
        for index, place in enumerate(range(0, len(data), piece)):
            part = data[place : place + piece]
            self._fragments.append(Refinement(number, index, place + piece >= len(data), part))
        return True

    def _chance(self, now: float) -> Chance | None:
        left = self._last_useful - now
        if left <= 0.0:
            return None
        rate = self._estimator.rate(now)
        if rate is None:
            # One packet at a time until the first acknowledgement.
            if self._estimator.in_flight:
                return None
            return Chance(
                slots_left=left / self._slot, slot_bits=None, max_bytes=FIRST_PACKET_BYTES, is_last=False
            )
        packet = self._packet_bytes(rate)
        backlog = self._estimator.backlog(now)
        left -= backlog / rate
        # A pass that does not end in time costs more than one that ends early: what is left then goes into
        # a last packet on top.
        planned = left - self._reserve(left, rate, now)
        is_extra = rate * planned < 0.5 * packet
        is_last = is_extra or rate * planned <= LAST_PACKETS * packet
        size = rate * left * LAST_SHARE if is_extra else rate * planned if is_last else packet
        to_final = self._pace.final_in(now)
        if not is_last and (to_final > 0.0 or self._stream.step == 0):
            # So many alike until x_0 or the end, lest a short one be left whose header weighs more.
            until = rate * to_final - backlog if to_final > 0.0 else rate * planned
            size = until / max(round(until / packet), 1)
        size = min(size, MAX_PACKET_BYTES)
        hold = self._hold(packet, backlog, rate, now, is_last=is_last)
        if hold > 0.0:
            self._again = now + hold
            return None
        if size < MIN_LAST_BYTES or not self._has_room(size, now):
            return None
        net = size - (OVERHEAD_BYTES + NETWORK_BYTES) * math.ceil(size / PIECE_BYTES)
        self._piece = PIECE_BYTES
        if is_extra:
            pieces = max(1, min(LAST_PIECES, int(size // MIN_PIECE)))
            net = size - (OVERHEAD_BYTES + NETWORK_BYTES) * pieces
            self._piece = math.ceil(net / pieces)
        return Chance(
            slots_left=(left if is_extra else planned) / self._slot,
            slot_bits=8.0 * rate * self._slot * net / size,
            max_bytes=int(net),
            is_last=is_last,
        )

    def _hold(self, packet: float, backlog: float, rate: float, now: float, *, is_last: bool) -> float:
        """Seconds for which no packet should be made: the link has work, or a step is about to come."""
        least = HOLD_SLOTS * self._slot
        # Just in time: what waits in the link grows old.
        spare = SPARE_PACKETS * packet + rate * SPARE_SECONDS
        if backlog > spare:
            return max((backlog - spare) / rate, least)
        to_next, to_final = self._pace.next_in(now), self._pace.final_in(now)
        if to_next > 0.0 and rate * to_next - backlog <= WAIT_PACKETS * packet:
            return to_next + least
        if to_final > 0.0 and not is_last and rate * to_final - backlog < LEAST_SHARE * packet:
            return to_final + least
        return 0.0

    def _has_room(self, length: float, now: float) -> bool:
        rate = self._estimator.rate(now)
        if rate is None:
            return self._estimator.in_flight == 0
        if self._estimator.in_flight == 0:
            return True
        window = self._pipe_bytes(rate) + WINDOW_PACKETS * self._packet_bytes(rate)
        return self._estimator.in_flight + length <= window

    def _reserve(self, left: float, rate: float, now: float) -> float:
        slots = left / self._slot
        variation = self._estimator.spread_bits(now) / (8.0 * rate * self._slot)
        reserve = RESERVE_SLOTS + RESERVE_DEVIATIONS * variation * math.sqrt(max(slots, 0.0))
        return min(reserve, RESERVE_SHARE * slots) * self._slot

    def _packet_bytes(self, rate: float) -> float:
        least = MIN_FINAL_PACKET_BYTES if self._stream.step == 0 else MIN_PACKET_BYTES
        return max(rate * self._slot, least)

    def _pipe_bytes(self, rate: float) -> float:
        return rate * (self._estimator.rtt_seconds + self._estimator.lateness_seconds)

    def _sent(self, fragment: Refinement, length: int, now: float) -> None:
        self._position += length
        self._connection_bytes += length
        flags = fragment.fragment | (0x80 if fragment.last else 0)
        self._messages.append((fragment.packet, flags, self._position))
        self.sent_bytes += length
        self._estimator.sent(length, now)
        if fragment.last:
            self._packets.append(_Sent(fragment.packet, self._position, now, self._predicted(now)))

    def _predicted(self, now: float) -> float | None:
        """Time until the last byte sent is acknowledged, which it keeps with probability 0.9 (eq. 11)."""
        rate = self._estimator.rate(now)
        if rate is None or rate <= 0.0:
            return None
        bits, mean = 8.0 * self._estimator.in_flight, 8.0 * rate * self._slot
        slots = latency_quantile(bits, mean, self._estimator.spread_bits(now), LATENCY_QUANTILE)
        return slots * self._slot + self._estimator.rtt_seconds
