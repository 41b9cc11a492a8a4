"""The comparison of a study's first policy with the others, on curves whose answer is known."""

from typing import Any

import pytest

from latentcast.study.runner.versus import savings, verdicts


def row(policy: str, snr_db: float, mean: float, quantity: str = "latent_mse", **more: Any) -> dict[str, Any]:
    return {"policy": policy, "snr_db": snr_db, "quantity": quantity, "mean": mean, "pairs": 0} | more


def test_a_shift_of_a_line_is_found_exactly() -> None:
    rows = [row("new", snr, 10 ** (-snr / 10)) for snr in range(0, 21, 5)]
    rows += [row("old", snr, 10 ** (-(snr - 7.5) / 10)) for snr in range(0, 21, 5)]
    for saving in savings(rows, [0.5, 0.1, 0.06]):
        assert (saving.policy, saving.at_least) == ("old", False)
        assert saving.saved_db == pytest.approx(7.5, abs=2e-3)


def test_what_lies_beyond_the_grid_is_a_bound() -> None:
    rows = [row("new", 0, 0.1), row("new", 10, 1e-3), row("old", 0, 2.0), row("old", 10, 0.2)]
    found = {saving.latent_mse: saving for saving in savings(rows, [4.0, 0.2, 0.01, 1e-4])}
    # Both are always below 4, and neither gets to 1e-4.
    assert set(found) == {0.2, 0.01}
    assert (found[0.2].saved_db, found[0.2].at_least) == (10.0, True)
    # The old one never gets to 0.01: the new one does at 5 dB.
    assert (found[0.01].saved_db, found[0.01].at_least) == (5.0, True)


def test_a_curve_that_rises_again_counts_against_the_first_and_for_the_other() -> None:
    rows = [row("new", snr, mse) for snr, mse in ((0, 0.01), (5, 1.0), (10, 0.01))]
    rows += [row("old", snr, mse) for snr, mse in ((0, 1.0), (5, 0.01), (10, 1.0))]
    (saving,) = savings(rows, [0.1])
    assert (saving.snr_db, saving.first_snr_db) == (2.5, 7.5)


def test_zero_is_below_every_level() -> None:
    rows = [row("new", 0, 1.0), row("new", 5, 0.0), row("old", 0, 1.0), row("old", 10, 0.0)]
    (saving,) = savings(rows, [1e-3])
    assert saving.saved_db == 5.0
    assert savings([]) == []


def test_better_is_lower_for_errors_and_higher_for_ssim() -> None:
    def pair(quantity: str, snr_db: float, low: float | None, high: float | None) -> dict[str, Any]:
        return row("old", snr_db, 1.0, quantity, pairs=9, difference_low=low, difference_high=high)

    rows = [row("new", 0, 1.0), row("new", 0, 1.0, "ssim")]
    rows += [pair("latent_mse", 0, 0.1, 0.2), pair("latent_mse", 3, -0.1, 0.2), pair("flip", 0, 0.1, 0.2)]
    rows += [pair("ssim", 0, 0.1, 0.2), pair("ssim", 3, -0.2, -0.1), pair("bits_sent", 0, 1.0, 2.0)]
    rows += [pair("ssim", 6, None, None)]
    found = {verdict.quantity: verdict for verdict in verdicts(rows)}
    assert set(found) == {"latent_mse", "ssim", "flip"}
    assert (found["latent_mse"].better, found["latent_mse"].equal) == ((0,), (3,))
    assert (found["ssim"].better, found["ssim"].worse) == ((3,), (0,))
    assert found["flip"].better == (0,)
