"""Arrays that are made block by block into a file."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from latentcast.diffusion.scenes.kept import kept_array
from latentcast.errors import ModelError, PausedError

TOTAL = 7


class Squares:
    """Makes squares, three at a time, and notes what it was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[tuple[int, int]] = []
        self.told: list[tuple[int, int]] = []

    def _make(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        self.made.append((start, stop))
        return np.arange(start, stop) ** 2

    def __call__(
        self, *, total: int = TOTAL, enough: int | None = None, stop_at: float | None = None
    ) -> list[int]:
        squares = kept_array(
            self.path,
            (total,),
            np.int64,
            self._make,
            block=3,
            progress=lambda done, total: self.told.append((done, total)),
            enough=enough,
            stop_at=stop_at,
        )
        with pytest.raises(ValueError, match="read-only"):
            squares[0] = 5
        return [int(square) for square in squares]


@pytest.fixture
def squares(tmp_path: Path) -> Squares:
    return Squares(tmp_path / "squares.npy")


def test_what_is_whole_is_not_made_again(squares: Squares) -> None:
    assert squares() == squares() == [0, 1, 4, 9, 16, 25, 36]
    assert squares.made == [(0, 3), (3, 6), (6, 7)]
    assert squares.told == [(3, 7), (6, 7), (7, 7)]
    assert [file.name for file in squares.path.parent.iterdir()] == ["squares.npy"]


def test_enough_is_made_first_and_the_rest_later(squares: Squares) -> None:
    assert squares(enough=4) == [0, 1, 4, 9]
    assert squares.told == [(3, 4), (4, 4)]
    assert not squares.path.exists()
    assert squares(enough=5) == [0, 1, 4, 9, 16]
    assert squares.made == [(0, 3), (3, 6)]
    assert squares(enough=99) == [0, 1, 4, 9, 16, 25, 36]
    assert squares.path.exists()
    assert squares(enough=2) == [0, 1]


def test_a_pause_loses_nothing(squares: Squares) -> None:
    for done in (3, 6, 7):
        with pytest.raises(PausedError, match=rf"squares\.npy has {done} of 7 items"):
            squares(stop_at=time.monotonic())
    assert squares(stop_at=time.monotonic()) == [0, 1, 4, 9, 16, 25, 36]
    assert squares.made == [(0, 3), (3, 6), (6, 7)]


def test_another_array_or_a_damaged_one_is_refused(squares: Squares) -> None:
    squares(enough=3)
    with pytest.raises(ModelError, match=r"partial\.npy is int64 of shape \(7,\), not int64 of \(9,\)"):
        squares(total=9)
    squares()
    with pytest.raises(ModelError, match=r"squares\.npy is int64 of shape \(7,\).*remove it"):
        squares(total=9)
    squares.path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="remove it"):
        squares()
