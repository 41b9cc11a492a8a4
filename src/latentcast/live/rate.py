"""The link as it is: rate and spread, estimated while a request runs from the device's acknowledgements.

An acknowledgement says how many bytes have arrived, and when, by the device's clock. Between two of them the
link carried the difference; if it had work all the while, that over the time is a sample of its rate. The
estimate is the ratio of sums that forget,

    rate = sum_i w_i bytes_i / sum_i w_i seconds_i,    w_i = exp(-(busy time since) / memory),

which weighs every second of busy link alike, so that neither many small packets nor one acknowledgement with
a wrong time can bend it far. Time in which the server had nothing under way says nothing about the link and
is left out; a sample that is mostly such time bounds the rate from below, and may only raise the estimate.
While bytes are under way and no acknowledgement comes, the estimate falls as if one came right now: in an
outage towards zero.

The spread is that of the bytes of whole slots about the estimate, as the paper's latency quantile wants it
(eq. 11): sigma_R^2 per slot, for independent slots.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from latentcast.errors import ParameterError, ProtocolError

__all__ = ["RateEstimator"]

MEMORY_SLOTS = 8.0
"""Busy time that the estimate remembers."""

OUTAGE_SLOTS = 3.0
"""Longer without an acknowledgement is an outage: once over, it counts as so long only."""

CLOCK_SLACK_SECONDS = 0.25
"""How much longer than the server's an interval on the device's clock may be before the clock has jumped."""

SPREAD_SLOTS = 2.0
"""Slots of one sample of the spread."""

LATENESS_SECONDS = 10.0
"""How long the least delay of an acknowledgement is remembered."""

IDLE_SHARE = 0.25
"""An interval of which the link was idle for a larger part is a lower bound and no sample."""

OWN_SHARE = 0.25
"""A message alone tells the rate if so much of its bytes and time is left beyond those of a PING."""

# Length of the message PING, from which an ACK's hardly differs.
_PING_BYTES = 9

_WORD = 2**32


@dataclass(frozen=True, slots=True)
class _Sent:
    end: int  # bytes sent on this connection, this message included
    length: int  # of it on the link, with what the network adds
    sent_at: float
    # Bytes that the link was known to have carried when it was sent, when that was known, and when it was so.
    carried: int
    arrived_at: float | None
    device_seconds: float


class RateEstimator:
    """Counts what is under way, and estimates what the link carries.

    Times are seconds of the caller's monotonic clock; nothing here reads a clock.

    Args:
        slot_seconds: Time of a slot, positive.
        rtt_seconds: Round trip of a small message, 0 or more.
        overhead_bytes: What the network adds to every message, 0 or more. All rates and `in_flight` count it,
            so that they do not depend on how long messages are.

    Raises:
        ParameterError: If an argument is out of range.

    Example:
        >>> estimator = RateEstimator(slot_seconds=0.1, rtt_seconds=0.0)
        >>> for number in range(1, 21):  # 500 bytes every tenth of a second
        ...     estimator.sent(500, now=0.1 * (number - 1))
        ...     _ = estimator.acknowledged(500 * number, clock_us=100_000 * number, now=0.1 * number)
        >>> round(estimator.rate(now=2.0), -1)
        5000.0
        >>> estimator.in_flight
        0
    """

    def __init__(self, *, slot_seconds: float, rtt_seconds: float, overhead_bytes: int = 0) -> None:
        if not 0.0 < slot_seconds < math.inf:
            raise ParameterError(f"slot_seconds is {slot_seconds}; it must be positive and finite")
        if not 0.0 <= rtt_seconds < math.inf:
            raise ParameterError(f"rtt_seconds is {rtt_seconds}; it must be finite, 0 or more")
        if overhead_bytes < 0:
            raise ParameterError(f"overhead_bytes is {overhead_bytes}; it must be 0 or more")
        self._overhead = overhead_bytes
        self._slot = slot_seconds
        self._memory = MEMORY_SLOTS * slot_seconds
        self._rtt = rtt_seconds
        self._bytes = self._seconds = 0.0
        self._variance, self._variance_weight = 0.0, 0.0
        self._whole_bytes = self._whole_seconds = self._whole_rate = 0.0
        self._total_bytes, self._total_seconds = 0, 0.0
        self._under_way: deque[_Sent] = deque()
        self._sent = self._arrived = 0
        self._link_sent = self._link_carried = 0
        self._arrived_at: float | None = None
        self._clock_us: int | None = None
        self._device_seconds = 0.0
        self._late = self._lateness = 0.0
        self._ahead_bytes = 0
        self._ahead_at: float | None = None

    @property
    def in_flight(self) -> int:
        """Bytes on the link: sent and not acknowledged, with what the network adds."""
        return self._link_sent - self._link_carried

    @property
    def num_in_flight(self) -> int:
        """Messages sent and not acknowledged."""
        return len(self._under_way)

    @property
    def rtt_seconds(self) -> float:
        """The shortest round trip so far."""
        return self._rtt

    @property
    def lateness_seconds(self) -> float:
        """How much later than they might acknowledgements come, on average: jitter of the way back."""
        return self._lateness

    @property
    def mean_rate(self) -> float | None:
        """Bytes per second of busy link since the beginning, None without a sample."""
        return self._total_bytes / self._total_seconds if self._total_seconds > 0.0 else None

    def sent(self, length: int, now: float) -> None:
        """Note that a message has been handed to the transport.

        Args:
            length: Bytes, positive.
            now: Seconds.
        """
        self._sent += length
        on_link = length + self._overhead
        self._link_sent += on_link
        self._under_way.append(
            _Sent(self._sent, on_link, now, self._link_carried, self._arrived_at, self._device_seconds)
        )

    def sent_ahead(self, length: int, now: float) -> None:
        """Note that something went out that is not acknowledged: the first message waits behind it.

        Args:
            length: Bytes, positive.
            now: Seconds.
        """
        if self._arrived_at is None and not self._under_way:
            self._ahead_bytes += length + self._overhead
            self._ahead_at = now if self._ahead_at is None else self._ahead_at

    def acknowledged(self, received_bytes: int, clock_us: int, now: float) -> int:
        """Take an acknowledgement; one that is older than the last changes nothing.

        Args:
            received_bytes: Bytes that arrived on this connection, modulo 2^32.
            clock_us: The device's clock in microseconds, modulo 2^32.
            now: Seconds.

        Returns:
            How many bytes of messages it newly acknowledges.

        Raises:
            ProtocolError: If more has arrived than was sent; nothing changes.
        """
        new = (received_bytes - self._arrived) % _WORD
        if new == 0 or new >= _WORD - _WORD // 2:
            return 0
        unknown = self._sent - self._arrived
        if new > unknown:
            raise ProtocolError(
                f"ACK says that {received_bytes} bytes arrived, {new - unknown} more than were sent"
            )
        self._arrived += new
        first = last = self._under_way[0]
        carried = 0
        while self._under_way and self._under_way[0].end <= self._arrived:
            last = self._under_way.popleft()
            carried += last.length
        if carried:
            self._link_carried += carried
            self._rtt = min(self._rtt, max(now - last.sent_at, 0.0))
            self._sample(carried, first, last, clock_us, now)
        self._arrived_at, self._clock_us = now, clock_us
        return new

    def reconnected(self, rtt_seconds: float) -> None:
        """Note that a new connection begins: counts start at zero, what is known of the link stays.

        Args:
            rtt_seconds: Its round trip.
        """
        self._under_way.clear()
        self._sent = self._arrived = 0
        self._link_sent = self._link_carried = 0
        self._arrived_at = self._clock_us = None
        self._whole_bytes = self._whole_seconds = 0.0
        self._ahead_bytes, self._ahead_at = 0, None
        self._rtt = rtt_seconds

    def rate(self, now: float) -> float | None:
        """Bytes per second that the link carries, None before the first acknowledgement.

        Args:
            now: Seconds.
        """
        if self._seconds <= 0.0:
            return None
        estimate = self._bytes / self._seconds
        if not self._under_way:
            return estimate
        oldest = self._under_way[0]
        # The link came to it when the one before had arrived, or when it was sent.
        began = oldest.sent_at + self._rtt
        if self._arrived_at is not None:
            began = max(began, self._arrived_at)
        waiting = now - began
        if waiting <= oldest.length / estimate:
            return estimate
        kept = math.exp(-waiting / self._memory)
        return (self._bytes * kept + oldest.length) / (self._seconds * kept + waiting)

    def backlog(self, now: float) -> float:
        """Bytes that the link has still to carry by now, if it keeps its rate; 0 before the first estimate.

        What is acknowledged left the link before its acknowledgement came back; since then it has worked.

        Args:
            now: Seconds.
        """
        rate = self.rate(now)
        if rate is None or not self._under_way:
            return 0.0
        began = self._under_way[0].sent_at
        if self._arrived_at is not None:
            began = max(began, self._arrived_at - self._return_seconds() - self._lateness)
        return max(self.in_flight - rate * (now - began), 0.0)

    def spread_bits(self, now: float) -> float:
        """Standard deviation of the bits that a slot carries, sigma_R; half the mean until it is known.

        Args:
            now: Seconds.
        """
        mean = 8.0 * (self.rate(now) or 0.0) * self._slot
        if self._variance_weight < 2.0:
            return 0.5 * mean
        return 8.0 * math.sqrt(self._variance / self._variance_weight * self._slot)

    def _sample(self, new: int, first: _Sent, last: _Sent, clock_us: int, now: float) -> None:
        if self._arrived_at is None or self._clock_us is None:
            # Nothing to measure from but the sending, of this and of what went before it.
            samples = [self._own(new, now - first.sent_at)]
            if self._ahead_at is not None:
                samples.append(self._own(new + self._ahead_bytes, now - self._ahead_at))
            self._raise(*max(samples, key=lambda sample: sample[0] / sample[1]))
            return
        by_server = now - self._arrived_at
        seconds = self._interval(clock_us, self._clock_us, by_server)
        self._device_seconds += seconds
        self._note_lateness(by_server - seconds, by_server)
        idle = min(max(first.sent_at - (self._arrived_at - self._return_seconds()), 0.0), seconds)
        if idle > IDLE_SHARE * seconds:
            self._bound(last)
            if first is last:
                self._raise(*self._own(new, now - last.sent_at))
        elif seconds - idle > 0.0:
            self._add(new, seconds - idle)

    def _return_seconds(self) -> float:
        """From when a message has left the link to its acknowledgement: the way back of a PING's answer.

        That is its round trip without what it takes on the link down, however fast the one up may be.
        """
        if self._seconds <= 0.0 or self._bytes <= 0.0:
            return self._rtt
        return max(self._rtt - (self._overhead + _PING_BYTES) * self._seconds / self._bytes, 0.0)

    def _interval(self, clock_us: int, before_us: int, by_server: float) -> float:
        """Seconds between two acknowledgements, by the device's clock unless that has jumped."""
        by_device = (clock_us - before_us) % _WORD / 1e6
        # Acknowledgements may be held up on their way, but not for less than no time.
        slack = max(CLOCK_SLACK_SECONDS, self._rtt)
        return by_device if 0.0 < by_device <= by_server + slack else max(by_server, 1e-6)

    def _note_lateness(self, later: float, seconds: float) -> None:
        # Against the least delayed one so far, which is forgotten slowly: clocks drift.
        self._late = max(self._late + later, 0.0) * math.exp(-seconds / LATENESS_SECONDS)
        share = -math.expm1(-seconds / self._memory)
        self._lateness += share * (self._late - self._lateness)

    def _bound(self, last: _Sent) -> None:
        """Raise the estimate to what got through while a message was under way, which idle time lowers."""
        if last.arrived_at is None:
            return
        took = self._device_seconds - last.device_seconds
        self._raise(self._link_carried - last.carried, max(took, last.sent_at - last.arrived_at, 1e-3))

    def _own(self, num_bytes: int, took: float) -> tuple[int, float]:
        """What a message's round trip says of the link: bytes, and the seconds that they took it.

        A PING's takes the same way and nearly the same acknowledgement; what this one takes longer is for its
        bytes more.
        """
        more = num_bytes - (self._overhead + _PING_BYTES)
        if more < OWN_SHARE * num_bytes:
            return num_bytes, max(took, 1e-3)
        return more, max(took - self._rtt, OWN_SHARE * took, 1e-3)

    def _raise(self, num_bytes: int, seconds: float) -> None:
        rate = num_bytes / seconds
        if self._seconds <= 0.0 or rate > self._bytes / self._seconds:
            weight = max(seconds, 0.5 * self._slot) if self._seconds > 0.0 else seconds
            self._forget(weight)
            self._bytes += rate * weight
            self._seconds += weight

    def _add(self, num_bytes: int, seconds: float) -> None:
        self._total_bytes += num_bytes
        self._total_seconds += seconds
        self._spread(num_bytes, seconds)
        # An outage says little about the time after it.
        counted = min(seconds, OUTAGE_SLOTS * self._slot + num_bytes * self._seconds / max(self._bytes, 1e-9))
        self._forget(counted)
        self._bytes += num_bytes * counted / seconds
        self._seconds += counted

    def _forget(self, seconds: float) -> None:
        kept = math.exp(-seconds / self._memory)
        self._bytes *= kept
        self._seconds *= kept

    def _spread(self, num_bytes: int, seconds: float) -> None:
        """Gather what arrives into stretches of a few slots, whose deviations count: slots may lie across."""
        if self._seconds <= 0.0:
            return
        if self._whole_seconds == 0.0:
            # Of before the stretch, which would else be compared with itself.
            self._whole_rate = self._bytes / self._seconds
        self._whole_bytes += num_bytes
        self._whole_seconds += seconds
        if self._whole_seconds < SPREAD_SLOTS * self._slot:
            return
        deviation = self._whole_bytes - self._whole_rate * self._whole_seconds
        kept = math.exp(-self._whole_seconds / self._memory)
        self._variance = self._variance * kept + deviation**2 / self._whole_seconds
        self._variance_weight = self._variance_weight * kept + 1.0
        self._whole_bytes = self._whole_seconds = 0.0
