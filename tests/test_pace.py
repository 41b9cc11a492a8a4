"""When denoising steps come."""

from latentcast.live.pace import StepPace


def test_until_something_came_and_after_the_last_nothing_is_due() -> None:
    pace = StepPace(3, 0.1)
    assert pace.next_in(0.0) < 0.0
    assert pace.final_in(0.0) < 0.0
    for step, now in ((2, 0.1), (1, 0.2), (0, 0.3)):
        pace.note(step, now)
    assert pace.next_in(0.3) < 0.0
    assert pace.final_in(0.3) < 0.0


def test_what_was_announced_counts_until_the_steps_own_pace_is_known() -> None:
    pace = StepPace(10, 1.0)
    expected = {9: 9.0, 8: 8.0, 7: 7.0, 6: 6 * 0.2, 5: 5 * 0.2}
    for number, (step, until_final) in enumerate(expected.items()):
        pace.note(step, 0.2 * number)
        pace.note(step, 0.2 * number + 0.1)  # no news
        assert abs(pace.final_in(0.2 * number) - until_final) < 1e-9


def test_a_step_that_is_late_is_not_due_any_more() -> None:
    pace = StepPace(10, 1.0)
    pace.note(9, 0.0)
    assert pace.next_in(1.5) < 0.0 < pace.final_in(1.5)


def test_a_step_is_waited_for_twice_as_long_as_steps_take_and_then_as_long_as_it_is_late() -> None:
    pace = StepPace(10, 0.2)
    pace.note(9, 0.0)
    assert abs(pace.patience(0.0) - 0.4) < 1e-9
    assert abs(pace.patience(1.0) - 1.0) < 1e-9
