import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from latentcast.diffusion.source import FloatArray, Step
from latentcast.errors import ParameterError
from latentcast.live.comparison import NUM_PREVIEWS, Recording, best_jpeg, compare, comparison_route

Picture = NDArray[np.uint8]

NUM_STEPS = 10
STEP_SECONDS = 0.1
RTT = 0.04
FINAL_BYTES = 16 + 2 * 64  # of a latent of 64 numbers at 16 bits, with its header


def decode(latents: FloatArray) -> Picture:
    """A picture whose grey says the latent's first number."""
    level = np.clip(np.rint(latents[:, 0, 0, 0]), 0, 255).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (len(latents), 64, 64, 3)).copy()


def step(index: int) -> Step:
    # The estimate of step t is 10 t grey levels too bright.
    estimate = np.full((1, 1, 8, 8), 100 + 10 * index, np.float32)
    return Step(index, np.full((1, 1, 8, 8), 100.0, np.float32), estimate)


def record(
    deadline_seconds: float, bytes_per_second: float, *, until: float = 10.0, num_steps: int = NUM_STEPS
) -> Recording:
    """A session whose request left at time 50; acknowledgements come in every 10 ms."""
    recording = Recording(started_at=50.0, deadline_seconds=deadline_seconds, rtt_seconds=RTT)
    for number in range(num_steps):
        recording.step(50.0 + STEP_SECONDS * (number + 1), step(NUM_STEPS - 1 - number))
    for tick in range(1, int(100 * min(until, deadline_seconds)) + 1):
        # A byte that the device had at time t is acknowledged half a round trip later; just before a whole
        # hundredth, so that rounding does not matter.
        recording.acknowledged(50.0 + tick / 100 - 1e-6 + RTT / 2, int(bytes_per_second * tick / 100))
    return recording


def grey_of(url: str) -> float:
    content = base64.b64decode(url.split(",")[1])
    return float(np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.float64).mean())


def test_arrivals_are_as_of_the_device() -> None:
    recording = record(2.0, 1000.0)
    assert recording.bytes_by(1.0) == 1000
    assert recording.arrival_of(500) == pytest.approx(0.5, abs=1e-4)
    assert recording.arrival_of(2001) is None
    assert recording.mean_rate() == pytest.approx(8000.0)
    assert Recording(started_at=0, deadline_seconds=1, rtt_seconds=0).mean_rate() is None


def test_bytes_go_on_on_a_new_connection() -> None:
    recording = Recording(started_at=0.0, deadline_seconds=1.0, rtt_seconds=0.0)
    for now, count in ((0.1, 100), (0.2, 150), (0.3, 40), (0.4, 40), (0.5, 60)):
        recording.acknowledged(now, count)
    assert [recording.bytes_by(when) for when in (0.1, 0.2, 0.3, 0.4, 1.0)] == [100, 150, 190, 190, 210]
    assert recording.arrival_of(200) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("deadline", "rtt"), [(0.0, 0.1), (-1, 0.1), (1.0, -0.1), (np.nan, 0.0), (1.0, np.inf)]
)
def test_times_are_checked(deadline: float, rtt: float) -> None:
    with pytest.raises(ParameterError, match="deadline"):
        Recording(started_at=0.0, deadline_seconds=deadline, rtt_seconds=rtt)


def test_compute_then_send_comes_when_all_has_come() -> None:
    sent = compare(record(2.0, 400.0), decode)["compute_then_send"]
    # Generation ends at 1 s, half a round trip passes, then 144 bytes at 400 a second.
    assert sent["generated_ms"] == pytest.approx(1000.0)
    assert sent["bytes"] == FINAL_BYTES
    assert sent["arrived_ms"] == pytest.approx(1000 + 20 + 1000 * FINAL_BYTES / 400, abs=10.0)
    latent = np.frombuffer(base64.b64decode(sent["latent"]), "<f4").reshape(1, 8, 8)
    assert np.array_equal(latent, step(0).sample[0])


def test_compute_then_send_is_late() -> None:
    result = compare(record(1.2, 400.0), decode)
    assert result["compute_then_send"]["latent"] is None
    assert result["compute_then_send"]["arrived_ms"] > result["deadline_ms"] == 1200
    assert grey_of(result["finished"]) == 100


def test_the_mean_rate_stands_in_where_nothing_was_left_to_refine() -> None:
    recording = record(2.0, 400.0, until=0.9)
    sent = compare(recording, decode)["compute_then_send"]
    assert sent["arrived_ms"] == pytest.approx(1000 + 20 + 1000 * FINAL_BYTES / 400, abs=1.0)
    recording.rate(10 * 8 * 400.0)
    faster = compare(recording, decode)["compute_then_send"]
    assert faster["arrived_ms"] == pytest.approx(1000 + 20 + 100 * FINAL_BYTES / 400, abs=1.0)


def test_generation_that_never_ended_shows_nothing() -> None:
    result = compare(record(0.5, 400.0, num_steps=4), decode)
    assert result["finished"] is None
    assert result["compute_then_send"] == {
        "generated_ms": None,
        "bytes": None,
        "arrived_ms": None,
        "latent": None,
    }


def test_previews_share_the_bytes_and_show_the_newest_estimate() -> None:
    result = compare(record(2.0, 4000.0), decode)
    previews = result["jpeg_previews"]
    assert result["bytes"] == 8000
    assert [preview["arrived_ms"] for preview in previews] == pytest.approx([1000, 1500, 2000], abs=0.1)
    assert all(preview["bytes"] <= 8000 / NUM_PREVIEWS for preview in previews)
    # When the first would have set out, nothing was known. The others set out at 0.5, 1 and 1.5 s, when the
    # steps of up to 0.48, 0.98 and 1.48 s were known.
    assert [preview["step"] for preview in previews] == [6, 1, 0]
    assert [grey_of(preview["picture"]) for preview in previews] == pytest.approx([160, 110, 100], abs=2)


def test_no_bytes_no_previews() -> None:
    assert compare(record(2.0, 0.0), decode)["jpeg_previews"] == []
    assert compare(record(2.0, 100.0), decode)["jpeg_previews"] == []


def test_the_nearest_jpeg_fits_and_improves_with_its_bytes() -> None:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.standard_normal((128, 128, 3)), axis=0), axis=1)
    picture = np.asarray(255 * (smooth - smooth.min()) / np.ptp(smooth), np.uint8)
    errors = []
    for budget in (700, 1000, 2000, 4000):
        jpeg = best_jpeg(picture, budget)
        assert jpeg is not None
        assert len(jpeg.data) <= budget
        shown = Image.open(io.BytesIO(jpeg.data)).resize((128, 128), Image.Resampling.BICUBIC)
        errors.append(float(np.mean((np.asarray(shown, np.float64) - picture) ** 2)))
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) > 2
    assert best_jpeg(picture, 50) is None


def test_the_route_answers_with_the_key_only() -> None:
    recording = record(2.0, 400.0)

    def find(session: str, key: str) -> Recording | None:
        return recording if (session, key) == ("s1", "secret") else None

    client = TestClient(Starlette(routes=[comparison_route(find, decode)]))
    found = client.get("/v1/sessions/s1/comparison?key=secret")
    expected: dict[str, Any] = compare(recording, decode)
    assert found.status_code == 200
    assert found.json() == expected
    for address in ("/v1/sessions/s1/comparison", "/v1/sessions/s2/comparison?key=secret"):
        refused = client.get(address)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "unknown-session"
