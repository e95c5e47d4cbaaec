"""Recovery of mechanisms by decompositions made by hand, where each figure is known."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from madpipe.decomposition.recovery import recovery

FEATURES = 5


class Toy(nn.Module):
    """Five features read, passed on by two hidden units, and written."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(FEATURES, 2, bias=False)
        self.hidden = nn.Linear(2, 2, bias=False)
        self.linear2 = nn.Linear(2, FEATURES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        written: Tensor = self.linear2(self.hidden(self.linear1(x)))
        return written


MECHANISMS = {
    "features": FEATURES,
    "parts": [
        {"name": f"{site}.feature{i}", "site": site, "side": side, "feature": i}
        for site, side in (("linear1", "read"), ("linear2", "write"))
        for i in range(FEATURES)
    ],
    "blocks": [{"site": "hidden", "rank": 2}],
}


@pytest.fixture
def toy() -> nn.Module:
    return Toy().eval().requires_grad_(False)


@pytest.fixture
def spd(start, toy, rows):
    """Exact in both instances: slot i reads feature i at linear1 and writes it at linear2, two hold the identity."""
    toy.hidden.weight.copy_(torch.eye(2))
    method = start("spd", toy, rows, components=8).eval().requires_grad_(False)
    for parameter in (*method.model.V, *method.model.U):
        parameter.zero_()
    (V1, Vh, V2), (U1, Uh, U2) = method.model.V, method.model.U
    V1[:, :, :5], U1[:, :5] = torch.eye(5), method.model.weight(0)
    Vh[:, :, :2], Uh[:, :2] = torch.eye(2), torch.eye(2)
    V2[:, :, :5], U2[:, :5] = method.model.weight(2), torch.eye(5)
    return method


def of_first(method, mechanisms=MECHANISMS):
    return recovery(method, mechanisms)[0]


def test_an_exact_decomposition_is_recovered(spd):
    for found in recovery(spd, MECHANISMS):
        figures = found.figures()
        for name in ("mmcs", "ml2r", "mmcs_column", "ml2r_column", "mmcs_alive", "ml2r_alive"):
            assert figures[name] == pytest.approx(1.0)
        assert (found.matched, found.mechanisms, found.spare, found.missing) == (10, 10, 0, [])
        assert figures["block_parts/hidden"] == 2
        assert not found.broken


def test_each_mechanism_names_its_component(spd):
    spd.model.V[0].copy_(spd.model.V[0].flip(2))
    spd.model.U[0].copy_(spd.model.U[0].flip(1))
    found = of_first(spd).at("linear1")
    assert [fit.name for fit in found.fits] == [f"linear1.feature{i}" for i in range(5)]
    assert [fit.match.component for fit in found.fits] == [7, 6, 5, 4, 3]


def test_a_shrunk_component_keeps_its_cosine_and_lowers_the_ratio(spd):
    spd.model.U[0][:, 0] *= 0.5
    figures = of_first(spd).figures()
    assert figures["mmcs"] == pytest.approx(1.0)
    assert figures["ml2r/linear1"] == pytest.approx((0.5 + 4) / 5)
    assert figures["ml2r_alive"] == pytest.approx((0.5 + 9) / 10)
    assert figures["ml2r/linear2"] == pytest.approx(1.0)


def test_a_component_of_two_features_matches_neither_though_its_columns_fit(spd):
    # Features 0 and 1 have the same row w; one slot (e0 + e1) w holds both: its cosine with each is 1 / sqrt(2).
    spd.model.weight(0)[1] = spd.model.weight(0)[0]
    spd.model.V[0][:, 1, :2] = torch.tensor([1.0, 0.0])
    spd.model.U[0][:, 1] = 0.0
    found = of_first(spd)
    assert found.missing == ["linear1.feature0", "linear1.feature1"]
    assert found.broken
    figures = found.at("linear1").figures()
    assert figures["mmcs"] == pytest.approx((2 / 2**0.5 + 3) / 5)
    assert figures["ml2r"] == pytest.approx((2 * 2**0.5 + 3) / 5)
    assert figures["mmcs_column"] == pytest.approx(1.0)
    assert figures["ml2r_column"] == pytest.approx(1.0)
    assert figures["mmcs_alive"] == pytest.approx(3 / 5)
    assert figures["ml2r_alive"] == pytest.approx(3 / 5)
    assert figures["spare"] == 1


def test_a_component_matches_one_mechanism_only(spd):
    # Two mechanisms of one feature are the same: the one slot that fits both is given to one.
    parts = [*MECHANISMS["parts"], {"name": "again", "site": "linear1", "side": "read", "feature": 0}]
    found = of_first(spd, MECHANISMS | {"parts": parts})
    assert (found.matched, found.mechanisms) == (10, 11)
    assert len(found.missing) == 1
    assert found.missing[0] in ("linear1.feature0", "again")


def test_halves_of_a_mechanism_are_one_match_and_one_spare(spd):
    half = spd.model.U[0][:, 0] / 2
    spd.model.V[0][:, 0, 5] = 1.0
    spd.model.U[0][:, 0], spd.model.U[0][:, 5] = half, half
    found = of_first(spd)
    assert (found.matched, found.spare) == (10, 1)
    assert not found.broken
    assert found.at("linear1").figures()["ml2r_alive"] == pytest.approx((0.5 + 4) / 5)


@pytest.mark.parametrize(("share", "matched"), [(0.11, 5), (0.09, 4)])
def test_a_component_below_a_tenth_of_the_largest_is_negligible(spd, share, matched):
    weight = spd.model.weight(0)
    weight.div_(weight.norm(dim=1, keepdim=True))
    weight[0] *= share
    spd.model.U[0][:, :5] = weight
    found = of_first(spd).at("linear1")
    assert found.matched == matched
    assert found.figures()["mmcs"] == pytest.approx(1.0)  # the raw figure sees every component


@pytest.mark.parametrize(("leak", "matched"), [(0.32, 5), (0.34, 4)])
def test_a_match_has_a_cosine_of_at_least_095(spd, leak, matched):
    # The slot reads feature 0 and a share of feature 1: cosine 1 / sqrt(1 + leak^2) = 0.952, 0.947.
    spd.model.V[0][:, 1, 0] = leak
    assert of_first(spd).at("linear1").matched == matched


def test_a_feature_is_found_across_sites_by_all_its_mechanisms_together(spd):
    # Slot 0 of linear1 reads feature 0 alone, but of its row (0.3, 0.4) it holds (0.3, 0): cosine 0.6, norm ratio 0.6.
    # Beside an exact (1.2, 0) at linear2: 1.53 / (|(0.3, 1.2)| |(0.5, 1.2)|) = sqrt(1.53) / 1.3 = 0.9515.
    spd.model.weight(0)[0] = torch.tensor([0.3, 0.4])
    spd.model.U[0][:, 0] = torch.tensor([0.3, 0.0])
    spd.model.weight(2)[:, 0] = torch.tensor([1.2, 0.0])
    spd.model.V[2][:, :, 0] = torch.tensor([1.2, 0.0])
    found = of_first(spd)
    assert found.missing == ["linear1.feature0"]
    figures = found.figures()
    assert (figures["features"], figures["features_found"]) == (5, 5)
    assert figures["mmcs_features"] == pytest.approx((1.53**0.5 / 1.3 + 4) / 5)
    assert "features" not in found.at("linear1").figures()


def test_a_component_that_points_away_is_no_match(spd):
    spd.model.U[0][:, 0] *= -1
    assert of_first(spd).missing == ["linear1.feature0"]


def test_the_verdict_is_of_each_instance(spd):
    spd.model.U[2][1, 3] = 0.0
    first, second = recovery(spd, MECHANISMS)
    assert not first.broken
    assert second.missing == ["linear2.feature3"]
    assert second.figures()["broken"] == 1.0


@pytest.mark.parametrize(("vectors", "parts"), [([[1.0, 0.0]], 1), ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], 3)])
def test_a_block_of_the_wrong_number_of_parts_is_broken(spd, vectors, parts):
    spd.model.V[1].zero_()
    spd.model.U[1].zero_()
    for k, vector in enumerate(vectors):
        spd.model.V[1][:, :, k] = spd.model.U[1][:, k] = torch.tensor(vector)
    found = of_first(spd)
    assert found.blocks["hidden"].parts == parts
    assert found.matched == 10
    assert found.broken


def test_components_without_any_norm_recover_nothing(spd):
    for U in spd.model.U:
        U.zero_()
    figures = of_first(spd).figures()
    assert (figures["matched"], figures["block_parts/hidden"], figures["spare"]) == (0, 0, 0)
    assert figures["mmcs"] == figures["ml2r"] == figures["mmcs_column"] == figures["ml2r_column"] == 0.0


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_a_mechanism_without_norm_counts_zero_and_divides_by_none(spd, size):
    row = spd.model.weight(0)[0]
    row.copy_(size * row / row.norm())
    found = of_first(spd)
    assert found.missing == ["linear1.feature0"]
    assert found.fits[0].best[1:] == found.fits[0].best_column[1:] == (0.0, 0.0)
    assert found.at("linear1").figures()["ml2r"] == pytest.approx(4 / 5)


def test_sites_that_are_not_decomposed_are_left_out(spd):
    elsewhere = {"name": "elsewhere", "site": "other", "side": "read", "feature": 0}
    blocks = [*MECHANISMS["blocks"], {"site": "another", "rank": 1}]
    wider = MECHANISMS | {"parts": [*MECHANISMS["parts"], elsewhere], "blocks": blocks}
    assert recovery(spd, wider) == recovery(spd, MECHANISMS)


def test_a_task_of_blocks_alone_has_no_means(spd):
    figures = of_first(spd, {"blocks": MECHANISMS["blocks"]}).figures()
    assert figures == {"matched": 0.0, "mechanisms": 0.0, "spare": 0.0, "broken": 0.0, "block_parts/hidden": 2.0}


def test_a_task_of_other_ground_truth_is_refused(spd):
    with pytest.raises(AssertionError, match="no parts and no blocks"):
        recovery(spd, {"circuits": []})


def test_a_site_is_not_split_both_ways(spd):
    both = [*MECHANISMS["parts"], {"name": "x", "site": "linear1", "side": "write", "feature": 0}]
    with pytest.raises(AssertionError, match="not both"):
        recovery(spd, MECHANISMS | {"parts": both})


class TestFeaturesThatAreDirections:
    """Seven features in the five units that linear1 reads and linear2 writes."""

    @pytest.fixture
    def method(self, start, toy, rows):
        toy.register_buffer("directions", torch.randn(7, FEATURES))
        made = start("spd", toy, rows, components=8).eval().requires_grad_(False)
        for parameter in (*made.model.V, *made.model.U):
            parameter.copy_(torch.randn_like(parameter))
        return made

    @pytest.fixture
    def mechanisms(self):
        parts = [
            {"name": f"{site}.{i}", "site": site, "side": side, "feature": i}
            for site, side in (("linear1", "read"), ("linear2", "write"))
            for i in (6, 0, 3)  # neither all features nor in order
        ]
        bases = {"reading": {"linear1": "directions"}, "writing": {"linear2": "directions"}}
        return {"features": 7, "parts": parts, "blocks": [{"site": "linear1", "rank": 3}]} | bases

    def test_cosines_and_ratios_are_those_of_whole_matrices(self, method, mechanisms):
        found = recovery(method, mechanisms)
        R = method.model.target.directions
        for s in range(2):
            for fit, part in zip(found[s].fits, mechanisms["parts"], strict=True):
                index = 0 if part["site"] == "linear1" else 2
                wanted, components = whole_matrices(method, s, index, part, R)
                assert_best(fit.best, wanted.flatten(), components.flatten(1))
                axis = 1 if part["side"] == "read" else 2
                assert_best(
                    fit.best_column,
                    wanted.select(axis - 1, part["feature"]),
                    components.select(axis, part["feature"]),
                )

    def test_a_block_counts_what_features_can_see(self, method, mechanisms):
        V = method.model.V[0]
        V.zero_()
        V[:, :4, :4] = torch.eye(4)
        method.model.U[0].copy_(torch.ones_like(method.model.U[0]))
        method.model.target.directions[:, 3] = 0.0
        assert [found.blocks["linear1"].parts for found in recovery(method, mechanisms)] == [3, 3]

    def test_a_basis_of_another_shape_is_refused(self, method, mechanisms):
        with pytest.raises(AssertionError, match=r"reading basis directions of hidden: \(7, 5\), not \(7, 2\)"):
            recovery(method, mechanisms | {"reading": {"hidden": "directions"}})


def whole_matrices(method, s: int, index: int, part, R: Tensor, slots: int = 1) -> tuple[Tensor, Tensor]:
    """A mechanism [F, O] or [I, F], and every component [C, F, O] or [C, I, F], built in full."""
    V, U, W = method.model.V[index][s], method.model.U[index][s], method.model.weight(index)
    components = torch.einsum("ick,cko->cio", V.unflatten(1, (-1, slots)), U.unflatten(0, (-1, slots)))
    i = part["feature"]
    if part["side"] == "read":
        wanted = torch.zeros(len(R), W.shape[1])
        wanted[i] = R[i] @ W
        return wanted, R @ components
    wanted = torch.zeros(W.shape[0], len(R))
    wanted[:, i] = W @ R[i]
    return wanted, components @ R.T


def assert_best(fit, wanted: Tensor, components: Tensor) -> None:
    """The fit of highest cosine of [C, n] to [n]."""
    cosines = torch.cosine_similarity(components, wanted[None], dim=1)
    best = int(cosines.argmax())
    assert fit.component == best
    assert fit.cosine == pytest.approx(float(cosines[best]), rel=1e-4)
    assert fit.ratio == pytest.approx(float(components[best].norm() / wanted.norm()), rel=1e-4)


@pytest.fixture
def apd(start, toy, rows):
    """Component i reads and writes feature i in the second of its three slots at each end; two hold the identity."""
    toy.hidden.weight.copy_(torch.eye(2))
    method = start("apd", toy, rows, components=8, rank=3).eval().requires_grad_(False)
    for parameter in (*method.model.V, *method.model.U):
        parameter.zero_()
    second = [3 * i + 1 for i in range(5)]
    (V1, Vh, V2), (U1, Uh, U2) = method.model.V, method.model.U
    V1[:, :, second], U1[:, second] = torch.eye(5), method.model.weight(0)
    V2[:, :, second], U2[:, second] = method.model.weight(2), torch.eye(5)
    Vh[:, :, 15:17], Uh[:, 15:17] = torch.eye(2), torch.eye(2)
    return method


class TestComponentsThatSpanSites:
    def test_one_mechanism_is_a_feature_at_all_sites(self, apd):
        found = of_first(apd)
        assert [fit.name for fit in found.fits] == [f"feature{i}" for i in range(5)]
        assert [fit.match.component for fit in found.fits] == [0, 1, 2, 3, 4]
        assert found.figures()["ml2r_alive"] == pytest.approx(1.0)
        assert (found.spare, found.broken) == (0, False)

    def test_slots_of_one_component_add_up(self, apd):
        # Feature 0 at linear1 is shared by slots 0 and 1, as two vectors that add up to its row.
        row = apd.model.weight(0)[0]
        offset = torch.tensor([1.0, -2.0])
        apd.model.V[0][:, 0, 0] = 1.0
        apd.model.U[0][:, 0], apd.model.U[0][:, 1] = row / 2 + offset, row / 2 - offset
        figures = of_first(apd).figures()
        assert figures["mmcs"] == pytest.approx(1.0)
        assert figures["ml2r"] == pytest.approx(1.0)
        assert figures["ml2r_column"] == pytest.approx(1.0)

    def test_halves_in_two_components_match_neither(self, apd):
        # Component 5 takes what component 0 has at linear2: the two norms made equal, each half has cosine 1 / sqrt(2).
        (_, _, V2), (U1, _, U2) = apd.model.V, apd.model.U
        for weight in (apd.model.weight(0)[0], apd.model.weight(2)[:, 0]):
            weight.div_(weight.norm())
        U1[:, 1], V2[:, :, 1], U2[:, 1] = apd.model.weight(0)[0], 0.0, 0.0
        V2[:, :, 16], U2[:, 16, 0] = apd.model.weight(2)[:, 0], 1.0
        found = of_first(apd)
        assert found.missing == ["feature0"]
        assert found.fits[0].best.cosine == pytest.approx(0.5**0.5)
        assert found.spare == 2

    def test_figures_are_those_of_whole_matrices(self, apd):
        for parameter in (*apd.model.V, *apd.model.U):
            parameter.copy_(torch.randn_like(parameter))
        (found,) = recovery(apd, MECHANISMS)
        for i, fit in enumerate(found.fits):
            ends = [
                whole_matrices(apd, 0, index, MECHANISMS["parts"][part], torch.eye(5), 3)
                for index, part in ((0, i), (2, 5 + i))
            ]
            wanted = torch.cat([mechanism.flatten() for mechanism, _ in ends])
            assert_best(fit.best, wanted, torch.cat([components.flatten(1) for _, components in ends], 1))
            column = torch.cat([ends[0][0][i], ends[1][0][:, i]])
            assert_best(fit.best_column, column, torch.cat([ends[0][1][:, i], ends[1][1][:, :, i]], 1))

    def test_a_feature_may_be_missing_at_a_site(self, apd):
        apd.model.V[2][:, :, 1] = 0.0
        parts = [part for part in MECHANISMS["parts"] if part["name"] != "linear2.feature0"]
        assert of_first(apd, MECHANISMS | {"parts": parts}).matched == 5

    def test_a_block_counts_singular_vectors_not_slots(self, apd):
        # The identity of component 5 in three slots: e0 e0 in halves, and e1 e1.
        apd.model.V[1][:, :, 17], apd.model.U[1][:, 17] = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0])
        apd.model.U[1][:, 15] /= 2
        assert of_first(apd).blocks["hidden"].parts == 2


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_matrix_is_built_for_each_component(start, rows):
    target = nn.Sequential(nn.Linear(5, 300), nn.Linear(300, 300)).eval().requires_grad_(False)
    method = start("spd", target, rows, components=64)
    parts = [{"name": str(i), "site": "1", "side": "read", "feature": i} for i in range(3)]
    with LargestTensor() as largest:
        recovery(method, {"features": 300, "parts": parts, "blocks": [{"site": "1", "rank": 300}]})
    assert (
        largest.numbers == 300 * 300
    )  # the weight; factors of two instances hold 2 * 64 * 300, matrices 64 * 300 * 300
