"""What fits into a time, by hand-computed cases."""

import pytest

from cotrain_dist.method.budget import Choice, Costs, choose, seconds_at, sizes_up_to

# A pixel count four times as large makes an epoch four times as long.
LARGE = Costs(image_size=128, before=20.0, step_one=8.0, step_two=40.0)
SMALL = Costs(image_size=64, before=5.0, step_one=2.0, step_two=10.0)
USUAL = 10, 4  # 240 s of epochs at 128 pixels, 60 s at 64


@pytest.mark.parametrize(
    ("seconds", "size", "epochs"),
    [
        (260.0, 128, (10, 4)),  # exactly the usual ones
        (140.0, 128, (5, 2)),  # half of them
        (139.0, 64, (22, 9)),  # less than half: smaller images, and 2.2 times the usual ones
        (65.0, 64, (10, 4)),
        (17.0, 64, (1, 1)),  # the shortest
        (2000.0, 128, (30, 12)),  # three times the usual ones at most
    ],
)
def test_the_largest_size_at_which_half_of_the_usual_epochs_fit(
    seconds: float, size: int, epochs: tuple[int, int]
) -> None:
    found = choose([LARGE, SMALL], USUAL, seconds)
    assert found is not None
    assert (found.image_size, found.step_one_epochs, found.step_two_epochs) == (size, *epochs)
    cost = LARGE if size == 128 else SMALL
    one = epochs[0] * cost.step_one
    assert found.seconds == cost.before + one + epochs[1] * cost.step_two <= seconds
    assert found.step_one_share == one / (found.seconds - cost.before)


def test_nothing_is_chosen_where_the_shortest_training_does_not_fit() -> None:
    assert SMALL.least == 17.0
    assert choose([LARGE, SMALL], USUAL, 16.9) is None


def test_what_step_one_leaves_over_goes_to_step_two() -> None:
    cost = Costs(image_size=32, before=0.0, step_one=10.0, step_two=1.0)
    # 1.08 times 11 s are 11.9 s: one epoch of Step 1, and the 1.9 s that are left.
    found = choose([cost], (1, 1), 11.9)
    assert found == Choice(
        image_size=32, step_one_epochs=1, step_two_epochs=1, seconds=11.0, step_one_share=10 / 11
    )
    longer = choose([cost], (1, 4), 13.9)
    assert longer is not None
    assert (longer.step_one_epochs, longer.step_two_epochs) == (1, 3)


def test_steps_that_the_settings_leave_out_stay_left_out() -> None:
    alone = Costs(image_size=32, before=1.0, step_one=2.0, step_two=0.0)
    found = choose([alone], (5, 0), 9.0)
    assert found is not None
    assert (found.step_one_epochs, found.step_two_epochs) == (4, 0)
    continued = Costs(image_size=32, before=1.0, step_one=0.0, step_two=2.0)
    found = choose([continued], (0, 5), 9.0)
    assert found is not None
    assert (found.step_one_epochs, found.step_two_epochs) == (0, 4)


def test_of_heads_the_features_take_half_of_the_time_at_most() -> None:
    costs = [
        Costs(image_size=size, before=before, step_one=0.0, step_two=0.0)
        for size, before in ((224, 60.0), (112, 20.0), (64, 10.0))
    ]
    sizes = []
    for seconds in (120.0, 119.0, 40.0, 20.0):
        found = choose(costs, (1, 1), seconds)
        assert found is not None
        assert (found.step_one_epochs, found.step_two_epochs, found.step_one_share) == (1, 1, 0.0)
        sizes.append(found.image_size)
    assert sizes == [224, 112, 112, 64]
    assert choose(costs, (1, 1), 19.0) is None


def test_sizes_and_seconds_between_two_measured_ones() -> None:
    assert sizes_up_to(224) == [224, 192, 160, 128, 96, 64]
    assert sizes_up_to(240) == [240, 224, 192, 160, 128, 96, 64]
    assert sizes_up_to(8) == [8]
    # 1 ms for reading, 3 ms for 10,000 pixels.
    measured = [(100, 0.004), (200, 0.013)]
    assert seconds_at(150, measured) == pytest.approx(0.001 + 0.003 * 2.25)
    assert seconds_at(150, [(100, 0.004)]) == 0.004
