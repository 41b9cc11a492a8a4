"""Figures of episodes: the filmstrip of one delivery, and the sheet that compares policies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from latentcast.delivery.timeline import Decode, HeldLatent, Timeline
from latentcast.study.sheet.comparison import Comparison
from latentcast.study.sheet.lanes import TimeAxis
from latentcast.study.sheet.page import ACCENT, INK, MUTED, RULE, WARNING, Page, shorten, thousands

__all__ = ["comparison_sheet", "filmstrip"]

_MARGIN = 36
_SIDE = 160
_GAP = 12
_PITCH = _SIDE + _GAP
_LABELS = 176
_MAX_COLUMNS = 8
_DESCRIPTIONS = {
    "progressive": "ours",
    "lookahead": "the paper's policy",
    "final-only": "the final latent, 16 bit",
}

Pictures = npt.NDArray[np.uint8]


def comparison_sheet(comparison: Comparison, decode: Decode) -> Image.Image:
    """A row per policy, a column per moment until the deadline, on one time axis with the link's rate.

    A picture shows what the device holds at the moment at its right edge on the time axis, that is, after the
    slot in the column's head. The last column is the final picture, which would be there without a deadline.

    Args:
        comparison: The timelines.
        decode: Decoder of the model.

    Returns:
        An RGB picture.
    """
    first = comparison.timelines[0]
    deadline = first.scenario.deadline_slots
    columns = min(_MAX_COLUMNS, deadline)
    moments = [deadline * number // columns for number in range(1, columns + 1)]
    shown = _decode_all(comparison, moments, decode)

    left = _MARGIN + _LABELS
    right = left + columns * _PITCH - _GAP
    reference_left = right + 40
    row_height = _SIDE + 76
    top = 232
    page = Page(reference_left + _SIDE + _MARGIN, top + len(comparison.timelines) * row_height + 44)
    _title(page, first, page.image.width)

    # Every column takes the same time, with the gap to its left.
    axis = TimeAxis(page=page, left=left - _GAP, right=right, deadline_slots=deadline)
    page.text(_MARGIN, 142, "link", size=14)
    mean = first.rates_bits.mean() / first.scenario.latent_size
    page.text(_MARGIN, 160, f"{mean:.2f} bit per slot", size=12, colour=MUTED)
    page.text(_MARGIN, 174, "and dimension, mean", size=12, colour=MUTED)
    axis.rate(first, 108, 56)
    axis.work(first, 170, 16)
    for number, slot in enumerate(moments):
        x = left + number * _PITCH + _SIDE
        text = f"slot {slot}" if number < columns - 1 else f"deadline, slot {slot}"
        page.text(x, top - 12, text, size=14, colour=MUTED if number < columns - 1 else INK, align="right")
    page.text(reference_left, top - 12, "without a deadline", size=14, colour=MUTED)

    # Where nothing arrived at all, nobody is best.
    arrived = [timeline.latent_mse for timeline in comparison.timelines if len(timeline.held) > 1]
    best = min(arrived, default=None)
    for row, timeline in enumerate(comparison.timelines):
        y = top + row * row_height
        _row_label(page, timeline, y, best=timeline.latent_mse == best)
        for number, slot in enumerate(moments):
            x = left + number * _PITCH
            held = timeline.held_after(slot)
            _cell(page, x, y, held, shown[held.latent.tobytes()], frame_strong=number == columns - 1)
            page.text(x, y + _SIDE + 19, f"error {shorten(held.latent_mse)}", size=13)
            sent = thousands(timeline.bits_sent_by(slot))
            page.text(x + _SIDE, y + _SIDE + 19, sent, size=13, colour=MUTED, align="right")
        axis.transfers(timeline, y + _SIDE + 27, 17)
        for number in range(columns):
            edge = left + number * _PITCH + _SIDE
            page.line([(edge, y + _SIDE + 44), (edge, y + _SIDE + 49)], RULE)
        page.picture(reference_left, y, _SIDE, shown[timeline.final_latent.tobytes()])
        page.text(reference_left, y + _SIDE + 19, "error 0", size=13)
    _legend(page, axis, page.image.height - 30)
    return page.image


def filmstrip(timeline: Timeline, decode: Decode) -> Image.Image:
    """How one picture came about: what the device held after each arrival, above the slots of that.

    Args:
        timeline: The episode.
        decode: Decoder of the model.

    Returns:
        An RGB picture.
    """
    frames = _frames(timeline)
    latents = np.stack([*(held.latent for held in frames), timeline.final_latent])
    pictures = decode(latents)
    deadline = timeline.scenario.deadline_slots

    label_width = 92
    left = _MARGIN + label_width
    # Room for a few frames even when there are fewer, so that the time axis stays readable.
    right = left + max(len(frames), 5) * _PITCH - _GAP
    reference_left = right + 40
    top = 138
    page = Page(reference_left + _SIDE + _MARGIN, top + _SIDE + 410)
    _title(page, timeline, page.image.width)

    axis = TimeAxis(page=page, left=left, right=right, deadline_slots=deadline)
    lanes_top = top + _SIDE + 112
    offset = (right - left + _GAP - len(frames) * _PITCH) // 2
    for number, (held, picture) in enumerate(zip(frames, pictures, strict=False)):
        x = int(left + offset + number * _PITCH)
        last = number == len(frames) - 1
        _cell(page, x, top, held, picture, frame_strong=last)
        head = "before the first arrival" if held.slot == 0 else f"from slot {held.slot}, t = {held.step}"
        if last:
            head = "nothing arrived" if held.slot == 0 else f"{head}, kept"
        page.text(x, top - 10, head, size=13, colour=INK if last else MUTED, max_width=_SIDE + _GAP - 4)
        page.text(x, top + _SIDE + 19, f"error {shorten(held.latent_mse)}", size=13)
        sent = thousands(timeline.bits_sent_by(held.slot))
        page.text(x + _SIDE, top + _SIDE + 19, sent, size=13, colour=MUTED, align="right")
        _connect(page, x + _SIDE / 2, top + _SIDE + 28, axis.x(held.slot), lanes_top - 6)
    page.picture(reference_left, top, _SIDE, pictures[-1])
    page.text(reference_left, top - 10, "without a deadline", size=13, colour=MUTED)
    page.text(reference_left, top + _SIDE + 19, "error 0", size=13)

    page.text(_MARGIN, lanes_top + 13, "sent", size=13, colour=MUTED)
    axis.transfers(timeline, lanes_top, 18)
    page.text(_MARGIN, lanes_top + 37, "server", size=13, colour=MUTED)
    axis.work(timeline, lanes_top + 24, 18)
    page.text(_MARGIN, lanes_top + 92, "link rate", size=13, colour=MUTED)
    axis.rate(timeline, lanes_top + 52, 52)
    page.text(_MARGIN, lanes_top + 164, "error", size=13, colour=MUTED)
    _error_curve(axis, timeline, lanes_top + 118, 92)
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100, 10**9) if deadline / size <= 13)
    marks = [slot for slot in range(step, deadline, step) if deadline - slot > step / 3]
    axis.ticks([*marks, deadline], lanes_top + 212)
    page.text(left - 8, lanes_top + 230, "slot", size=12, colour=MUTED, align="right")
    page.text(right + 14, lanes_top + 230, "deadline", size=12, colour=MUTED)
    _legend(page, axis, lanes_top + 268)
    return page.image


def _title(page: Page, timeline: Timeline, width: int) -> None:
    scenario = timeline.scenario
    prompt = timeline.prompt or "(no prompt)"
    page.text(_MARGIN, 52, prompt, size=26, strong=True, max_width=width - 2 * _MARGIN)
    facts = [
        f"SNR {scenario.snr_db:g} dB",
        f"deadline {scenario.deadline_slots} slots",
        f"{scenario.num_steps} steps",
        f"{scenario.latent_size} dimensions",
        f"seed {timeline.seed}",
    ]
    if timeline.model:
        facts.insert(0, f"model {timeline.model.rstrip('/').rsplit('/', 1)[-1]}")
    page.text(_MARGIN, 80, "  ·  ".join(facts), size=15, colour=MUTED, max_width=width - 2 * _MARGIN)


def _legend(page: Page, axis: TimeAxis, y: int) -> None:
    axis.legend(_MARGIN, y)
    note = "error: mean square, per dimension, to the latent without a deadline; bits: sent so far"
    page.text(page.image.width - _MARGIN, y + 11, note, size=12, colour=MUTED, align="right")


def _row_label(page: Page, timeline: Timeline, y: int, *, best: bool) -> None:
    width = _LABELS - 16
    colour = ACCENT if best else INK
    page.text(_MARGIN, y + 17, timeline.policy, size=18, colour=colour, strong=True, max_width=width)
    description = _DESCRIPTIONS.get(timeline.policy)
    if description is None and timeline.policy.startswith("persistent-"):
        description = f"newest sample, {timeline.policy.removeprefix('persistent-')} bit"
    if description:
        page.text(_MARGIN, y + 37, description, size=12, colour=MUTED, max_width=width)
    page.text(_MARGIN, y + 74, "error at the deadline", size=12, colour=MUTED)
    page.text(_MARGIN, y + 98, shorten(timeline.latent_mse), size=22, colour=colour)
    if timeline.psnr_db is not None:
        page.text(_MARGIN, y + 120, f"PSNR {timeline.psnr_db:.1f} dB", size=13, colour=MUTED)
    page.text(_MARGIN, y + 138, f"{thousands(timeline.bits_sent)} sent", size=13, colour=MUTED)


def _cell(page: Page, x: int, y: int, held: HeldLatent, picture: Pictures, *, frame_strong: bool) -> None:
    """A held latent's picture; the initial noise stands back, with a word that explains it."""
    frame = INK if frame_strong else RULE
    page.picture(x, y, _SIDE, picture, faded=held.slot == 0, frame=frame)
    if held.slot == 0:
        word = "nothing arrived" if frame_strong else "nothing yet"
        page.text(x + _SIDE / 2, y + _SIDE / 2 + 5, word, size=14, colour=MUTED, align="middle")


def _decode_all(comparison: Comparison, moments: list[int], decode: Decode) -> dict[bytes, Pictures]:
    """The pictures of all latents that appear on the sheet, each decoded once; by the latent's bytes."""
    final = comparison.timelines[0].final_latent
    wanted = {final.tobytes(): final}
    for timeline in comparison.timelines:
        for slot in moments:
            latent = timeline.held_after(slot).latent
            wanted[latent.tobytes()] = latent
    pictures = decode(np.stack(list(wanted.values())))
    return dict(zip(wanted, pictures, strict=True))


def _frames(timeline: Timeline) -> list[HeldLatent]:
    """At most eight of the held latents, evenly chosen, with the first and the last."""
    held = timeline.held
    count = min(len(held), _MAX_COLUMNS)
    chosen = np.unique(np.linspace(0, len(held) - 1, count).round().astype(int))
    return [held[index] for index in chosen]


def _connect(page: Page, x: float, y: float, x_slot: float, y_slot: float) -> None:
    """From a frame down to its slot on the time axis, in right angles' stead by one slanted line."""
    page.line([(x, y), (x, y + 12), (x_slot, y_slot - 12), (x_slot, y_slot)], RULE)


def _error_curve(axis: TimeAxis, timeline: Timeline, top: int, height: int) -> None:
    """The held latent's error over the slots, on a logarithmic scale with lines at whole decades."""
    page = axis.page
    errors = [max(held.latent_mse, 1e-12) for held in timeline.held]
    high = np.log10(1.3 * max(errors))
    low = min(int(np.floor(np.log10(min(errors)))), int(np.ceil(high)) - 1)

    def y(error: float) -> float:
        return float(top + height * (high - np.log10(max(error, 1e-12))) / (high - low))

    # At most seven lines, the highest at the top whole decade.
    for decade in range(int(np.floor(high)), low - 1, -max(1, int(np.ceil((high - low) / 6)))):
        page.line([(axis.left, y(10.0**decade)), (axis.right, y(10.0**decade))], RULE)
        page.text(axis.left - 8, y(10.0**decade) + 4, f"1e{decade}", size=11, colour=MUTED, align="right")
    points: list[tuple[float, float]] = []
    for held, following in zip(timeline.held, [*timeline.held[1:], None], strict=True):
        end = following.slot if following is not None else axis.deadline_slots
        points += [(axis.x(held.slot), y(held.latent_mse)), (axis.x(end), y(held.latent_mse))]
    page.line(points, WARNING if len(timeline.held) == 1 else ACCENT, width=2)
