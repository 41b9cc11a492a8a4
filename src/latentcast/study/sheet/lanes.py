"""The time axis of a figure and what lies on it: the link's rate, upload, denoising, transfers."""

from __future__ import annotations

from dataclasses import dataclass

from latentcast.delivery.timeline import Timeline, Transmission
from latentcast.study.sheet.page import ACCENT, FAINT, INK, MUTED, PALE, PAPER, RULE, WARNING, Colour, Page

__all__ = ["TimeAxis"]

_UPLOAD: Colour = (150, 158, 168)
_DENOISING: Colour = (201, 169, 97)
_RATE: Colour = (193, 205, 218)
_SECOND: Colour = (109, 151, 196)


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """Slots 1..T_d on a horizontal stretch: slot n lies between `x(n - 1)` and `x(n)`.

    Attributes:
        page: Where to draw.
        left: Pixel of the beginning.
        right: Pixel of the deadline.
        deadline_slots: T_d.
    """

    page: Page
    left: float
    right: float
    deadline_slots: int

    def x(self, slot: float) -> float:
        """Pixel of the end of a slot."""
        return self.left + (self.right - self.left) * slot / self.deadline_slots

    def rate(self, timeline: Timeline, top: int, height: int) -> None:
        """A column per slot: the bits that the link offered."""
        rates = timeline.rates_bits
        peak = max(float(rates.max()), 1e-12)
        for slot, rate in enumerate(rates, start=1):
            gap = 1 if self.x(1) - self.x(0) >= 4 else 0
            self.page.bar(
                self.x(slot - 1), top + height * (1 - rate / peak), self.x(slot) - gap, top + height, _RATE
            )
        self.page.line([(self.left, top + height), (self.right, top + height)], RULE)

    def work(self, timeline: Timeline, top: int, height: int) -> None:
        """Upload of the prompt and the denoising after it."""
        self.page.bar(self.left, top, self.right, top + height, FAINT)
        upload = timeline.uplink_slots
        end = self.deadline_slots if upload is None else upload
        self.page.bar(self.left, top, self.x(end), top + height, _UPLOAD)
        if upload is None:
            self._label(self.left, self.right, top + height, "upload, unfinished")
            return
        num_steps = timeline.scenario.num_steps
        done = min(upload + num_steps, self.deadline_slots)
        self.page.bar(self.x(upload), top, self.x(done), top + height, _DENOISING)
        last = num_steps - (done - upload)
        text = f"denoising, t = {num_steps} to {last}" + (", unfinished" if last else "")
        self._label(self.x(upload), self.x(done), top + height, text)

    def transfers(self, timeline: Timeline, top: int, height: int) -> None:
        """A bar per transfer, with its step and bits where there is room; hatched if it came too late."""
        self.page.bar(self.left, top, self.right, top + height, FAINT)
        if timeline.uplink_slots is not None:
            self.page.bar(self.left, top, self.x(timeline.uplink_slots), top + height, PALE)
        for number, sent in enumerate(timeline.transmissions):
            left = self.x(sent.slot - 1)
            if sent.arrived_slot is None:
                self.page.hatched_bar(left, top, self.right, top + height, WARNING)
                continue
            right = self.x(sent.arrived_slot)
            self.page.bar(left, top, right - 1, top + height, (ACCENT, _SECOND)[number % 2])
            for text in (_long(sent), _short(sent)):
                if self.page.text_width(text, 12) < right - left - 6:
                    middle = (left + right) / 2
                    self.page.text(middle, top + height - 4, text, size=12, colour=PAPER, align="middle")
                    break

    def ticks(self, slots: list[int], y: int) -> None:
        """Short strokes at the ends of slots, with their numbers below."""
        for slot in slots:
            self.page.line([(self.x(slot), y), (self.x(slot), y + 5)], MUTED)
            self.page.text(self.x(slot), y + 18, str(slot), size=12, colour=MUTED, align="middle")

    def legend(self, x: float, y: float) -> None:
        """What the colours of the bars mean, in one line from x on."""
        for name, colour in (
            ("upload", _UPLOAD),
            ("denoising", _DENOISING),
            ("transfer", ACCENT),
            ("too late", None),
        ):
            if colour is None:
                self.page.hatched_bar(x, y, x + 22, y + 12, WARNING)
            else:
                self.page.bar(x, y, x + 22, y + 12, colour)
            self.page.text(x + 28, y + 11, name, size=12, colour=MUTED)
            x += 28 + self.page.text_width(name, 12) + 20

    def _label(self, left: float, right: float, bottom: float, text: str) -> None:
        if self.page.text_width(text, 12) < right - left - 8:
            self.page.text(left + 5, bottom - 4, text, size=12, colour=INK)


def _long(sent: Transmission) -> str:
    return f"t = {sent.step}, {sent.bits_per_dimension:.3g} bit"


def _short(sent: Transmission) -> str:
    return str(sent.step)
