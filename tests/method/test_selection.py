"""R_A and R_B: hand-computed cases, and a million drawn votes against the paper's rule."""

import math

import pytest
import torch
from torch import Tensor

from cotrain_dist.method.metrics import count_pool
from cotrain_dist.method.scores import encode_uncertainty, threshold_code
from cotrain_dist.method.selection import label_selected, select, select_disagreement
from cotrain_dist.method.thresholds import fixed_cuts
from cotrain_dist.types import Exchange, Selection, Votes


def votes_of(labels: list[list[int]], confidences: list[list[float]]) -> Votes:
    """Votes of A and B; a confidence of NaN is an image that could not be scored."""
    return Votes(
        labels=torch.tensor(labels, dtype=torch.uint16),
        uncertainty=encode_uncertainty(torch.tensor(confidences, dtype=torch.float64)),
    )


def labeled(selection: Selection, votes: Votes, pool_ids: Tensor) -> Exchange:
    """As the paper's rule labels, each image with a weight of 1."""
    return label_selected(selection, votes, pool_ids, rule="disagreement", weights="none")


@pytest.mark.parametrize(
    ("labels", "confidences", "in_r_a", "in_r_b"),
    [
        pytest.param((1, 2), (0.9, 0.5), True, False, id="A sure, B unsure"),
        pytest.param((1, 2), (0.5, 0.9), False, True, id="B sure, A unsure"),
        pytest.param((2, 2), (0.9, 0.5), False, False, id="same class"),
        pytest.param((1, 2), (0.9, 0.9), False, False, id="both sure"),
        pytest.param((1, 2), (0.5, 0.6), False, False, id="both unsure"),
        pytest.param((1, 2), (0.8, 0.5), False, False, id="A on the threshold is not sure"),
        pytest.param((1, 2), (0.5, 0.8), False, False, id="B on the threshold is not sure"),
        pytest.param((1, 2), (0.9, 0.8), False, False, id="B on the threshold is not unsure"),
        pytest.param((1, 2), (0.8, 0.9), False, False, id="A on the threshold is not unsure"),
        pytest.param((1, 2), (0.80001, 0.5), False, False, id="code equal to the threshold's"),
        pytest.param((1, 2), (0.801, 0.799), True, False, id="just beside the threshold"),
        pytest.param((1, 2), (0.8, 0.8), False, False, id="both on the threshold"),
        pytest.param((1, 0), (0.9, math.nan), False, False, id="B not scored"),
        pytest.param((0, 2), (math.nan, 0.9), False, False, id="A not scored"),
        pytest.param((1, 2), (1.0, 0.0), True, False, id="extremes"),
        pytest.param((40_000, 7), (0.9, 0.5), True, False, id="class above the int16 range"),
    ],
)
def test_one_image(
    labels: tuple[int, int], confidences: tuple[float, float], in_r_a: bool, in_r_b: bool
) -> None:
    votes = votes_of([[label] for label in labels], [[c] for c in confidences])
    selection = select_disagreement(votes, cuts=fixed_cuts(0.8))
    assert (selection.a.tolist(), selection.b.tolist()) == ([in_r_a], [in_r_b])


def test_order_is_kept_and_each_r_has_its_own_models_labels() -> None:
    votes = votes_of(
        [[3, 1, 4, 1, 5, 9], [2, 7, 4, 8, 2, 8]],
        [[0.9, 0.5, 0.9, 0.95, 0.2, 0.99], [0.5, 0.9, 0.5, 0.1, 0.9, 0.9]],
    )
    selection = select_disagreement(votes, cuts=fixed_cuts(0.8))
    exchanged = labeled(selection, votes, torch.tensor([10, 20, 30, 40, 50, 60]))
    r_a, r_b = exchanged.a, exchanged.b
    assert (r_a.sample_ids.tolist(), r_a.labels.tolist()) == ([10, 40], [3, 1])
    assert (r_b.sample_ids.tolist(), r_b.labels.tolist()) == ([20, 50], [7, 2])
    dtypes = {t.dtype for r in (r_a, r_b) for t in (r.sample_ids, r.labels)}
    assert dtypes == {torch.int64}


@pytest.mark.parametrize("num_images", [0, 3])
def test_nothing_to_select(num_images: int) -> None:
    votes = votes_of([[1] * num_images, [1] * num_images], [[0.9] * num_images, [0.5] * num_images])
    selection = select_disagreement(votes, cuts=fixed_cuts(0.8))
    assert selection.a.shape == selection.b.shape == (num_images,)
    assert not selection.a.any()
    assert not selection.b.any()
    exchanged = labeled(selection, votes, torch.arange(num_images))
    for r in (exchanged.a, exchanged.b):
        assert r.sample_ids.shape == r.labels.shape == (0,)
        assert r.sample_ids.dtype == r.labels.dtype == torch.int64


def draw_confidences(num_images: int, threshold: float, generator: torch.Generator) -> Tensor:
    """[2, N] float64: half spread over nine magnitudes of 1 - c, half close around τ."""
    shape = (2, num_images)
    magnitudes = -9 * torch.rand(shape, generator=generator, dtype=torch.float64)
    spread_out = 1.0 - 10.0**magnitudes
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    near = (threshold + 1e-3 * (1 - threshold) * noise).clamp(0.0, 1.0)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, near, spread_out)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 0.999])
def test_codes_decide_as_the_paper_does_in_float64(threshold: float) -> None:
    num_images = 10**6
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (2, num_images), generator=generator)
    confidence = draw_confidences(num_images, threshold, generator)
    votes = Votes(labels=classes.to(torch.uint16), uncertainty=encode_uncertainty(confidence))
    selection = select_disagreement(votes, cuts=fixed_cuts(threshold))

    differ = classes[0] != classes[1]
    paper_a = differ & (confidence[0] > threshold) & (confidence[1] < threshold)
    paper_b = differ & (confidence[1] > threshold) & (confidence[0] < threshold)
    equal_code = (votes.uncertainty == threshold_code(threshold)).any(dim=0)

    for selected, paper in ((selection.a, paper_a), (selection.b, paper_b)):
        deviates = selected != paper
        assert deviates.any(), "no vote was drawn close enough to the threshold"
        assert not (deviates & ~equal_code).any()
        assert not (selected & ~paper).any()
        assert selected.sum() > 10_000
    assert not (selection.a & selection.b).any()
    no_truth = torch.full((num_images,), -1)
    counts = count_pool(votes, no_truth, 3, cuts=fixed_cuts(threshold))
    assert counts.num_equal_codes == equal_code.sum() > 0


# labels and confidences of A and of B; in R_A and in R_B by each rule
RULES = {
    "agreement": [
        ((1, 1), (0.9, 0.95), True, True),
        ((1, 1), (0.9, 0.5), False, False),
        ((1, 1), (0.9, 0.8), False, False),
        ((1, 2), (0.9, 0.9), False, False),
        ((0, 0), (math.nan, math.nan), False, False),
        ((0, 0), (0.9, math.nan), False, False),
    ],
    "agreement_peer": [
        ((1, 1), (0.9, 0.95), True, True),
        ((1, 1), (0.9, 0.5), True, True),
        ((1, 1), (0.5, 0.9), True, True),
        ((1, 1), (0.8, 0.9), True, True),
        ((1, 1), (0.8, 0.5), False, False),
        ((1, 1), (0.7, 0.5), False, False),
        ((1, 2), (0.9, 0.5), True, False),
        ((1, 2), (0.5, 0.9), False, True),
        ((1, 2), (0.9, 0.9), False, False),
        ((1, 2), (0.9, 0.8), False, False),
        ((0, 0), (0.9, math.nan), False, False),
        ((1, 0), (0.9, math.nan), False, False),
    ],
    "confident_peer": [
        ((1, 1), (0.9, 0.95), True, True),
        ((1, 2), (0.9, 0.95), True, True),
        ((1, 2), (0.9, 0.5), True, False),
        ((1, 1), (0.5, 0.9), False, True),
        ((1, 2), (0.8, 0.8), False, False),
        ((1, 0), (0.9, math.nan), True, False),
        ((0, 0), (math.nan, math.nan), False, False),
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_image_by_image(rule: str) -> None:
    labels, confidences, in_r_a, in_r_b = zip(*RULES[rule], strict=True)
    votes = votes_of(list(zip(*labels, strict=True)), list(zip(*confidences, strict=True)))
    selection = select(votes, rule, cuts=fixed_cuts(0.8))
    assert selection.a.tolist() == list(in_r_a)
    assert selection.b.tolist() == list(in_r_b)
    exchanged = label_selected(
        selection, votes, torch.arange(len(in_r_a)), rule=rule, weights="none"
    )
    for row, r in enumerate((exchanged.a, exchanged.b)):
        assert torch.equal(r.labels, votes.labels[row].long()[r.sample_ids])
        assert r.weights is None


MEAN_VOTES = [
    [[1, 1, 2, 0], [1, 3, 4, 0], [1, 3, 5, 0]],
    [[0.9, 0.5, 0.9, math.nan], [0.9, 0.9, 0.9, 0.9], [0.9, 0.85, 0.4, math.nan]],
]


@pytest.mark.parametrize(
    ("rule", "threshold", "ids"), [("mean_hard", 0.8, [0, 1]), ("mean_soft", None, [0, 1, 2])]
)
def test_the_mean_selects_and_labels_for_both(
    rule: str, threshold: float | None, ids: list[int]
) -> None:
    votes = votes_of(*MEAN_VOTES)
    selection = select(votes, rule, cuts=fixed_cuts(threshold))
    exchanged = label_selected(selection, votes, torch.arange(4), rule=rule, weights="confidence")
    for r in (exchanged.a, exchanged.b):
        assert r.sample_ids.tolist() == ids
        assert r.labels.tolist() == [1, 3, 5][: len(ids)]
        assert r.weights is not None
        assert r.weights.tolist() == pytest.approx([0.9, 0.85, 0.4][: len(ids)], abs=1e-3)


def test_a_rule_of_the_mean_needs_its_votes() -> None:
    votes = votes_of([[1], [1]], [[0.9], [0.9]])
    with pytest.raises(AssertionError, match="needs the mean's votes"):
        select(votes, "mean_hard", cuts=fixed_cuts(0.8))


def test_a_vote_is_compared_with_the_cut_of_the_class_that_it_names() -> None:
    # A's cuts are 0.5 for class 0 and 0.9 for class 1; B's are the other way round.
    cuts = encode_uncertainty(torch.tensor([[0.5, 0.9], [0.9, 0.5]], dtype=torch.float64))
    votes = votes_of([[0, 1, 0, 1], [1, 0, 0, 1]], [[0.7] * 4, [0.7] * 4])
    sure_a, sure_b = [True, False, True, False], [True, False, False, True]
    found = select(votes, "confident_peer", cuts=cuts)
    assert (found.a.tolist(), found.b.tolist()) == (sure_a, sure_b)
    both = select(votes, "agreement_peer", cuts=cuts)
    assert both.a.tolist() == both.b.tolist() == [False, False, True, True]


def test_what_has_no_weight_is_left_out() -> None:
    # B is surer of another class than A is of its own on the second image alone.
    votes = votes_of([[1, 1, 1], [1, 2, 2]], [[0.9, 0.9, 0.95], [0.5, 0.95, 0.8]])
    selection = select(votes, "confident_peer", cuts=fixed_cuts(0.8))
    taught = label_selected(
        selection, votes, torch.arange(3), rule="confident_peer", weights="agreement"
    ).a
    assert taught.sample_ids.tolist() == [0, 2]
    assert taught.weights is not None
    assert taught.weights.dtype == torch.float32
    assert taught.weights.tolist() == pytest.approx([0.5**4, 0.2**4], abs=2**-12)
