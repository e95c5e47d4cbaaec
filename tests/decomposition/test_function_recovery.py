"""Functions that own neurons, and blocks: what components, over all sites, hold of them; made by hand, so known."""

import pytest
import torch

from madpipe.components.sites import find_sites
from madpipe.decomposition.assessment import assess, comparable
from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.method import Method
from madpipe.decomposition.recovery import recovery
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.registry import METHODS
from madpipe.tasks.build import build_task
from madpipe.tasks.task import Task

FUNCTIONS = 3
BLOCKS = {"features": 5, "blocks": [{"site": "head", "rank": 3}]}


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task({"name": "gated_functions", "functions": FUNCTIONS, "neurons": 4, "rows": 400, "seed": 1})


def started(task: Task, name: str, **config: object) -> Method:
    method_class, sites = METHODS.load(name), find_sites(task.target.module)
    settings = method_class.Config(**config)
    method: Method = method_class(task.target.module, sites, settings, len(method_class.variants(settings)))
    rows = torch.from_numpy(task.trusted[:50])
    method.initialise(
        trusted_statistics(task.target.module, sites, rows, "regression"), torch.Generator().manual_seed(0)
    )
    return method.eval().requires_grad_(False)


def write(method: Method, task: Task, m: int) -> None:
    """Every instance: slot p * m of each site holds function p there, a matrix of rank one; the others nothing."""
    for parameter in (*method.model.V, *method.model.U):
        parameter.zero_()
    for part in task.mechanisms["functions"]:
        i = [site.name for site in method.model.sites].index(part["site"])
        own = torch.zeros_like(method.model.weight(i))
        read, rows = part.get("columns", slice(None)), part.get("rows", slice(None))
        own[read, rows] = method.model.weight(i)[read, rows]
        left, size, right = torch.linalg.svd(own)
        assert size[1:].sum() < 1e-5 * size[0]
        k = int(part["name"].removeprefix("f")) * m
        method.model.V[i][:, :, k], method.model.U[i][:, k] = left[:, 0] * size[0], right[0]


@pytest.fixture
def spd(task) -> Method:
    """Slot p of both sites holds function p; component p is both."""
    method = started(task, "spd", components=6, variants=[{"name": "only"}])
    write(method, task, 1)
    labels = torch.tensor([0, 1, 2, -1, -1, -1])
    method.clusters = (ComponentView({site.name: labels for site in method.model.sites}, FUNCTIONS),)
    return method


@pytest.fixture
def apd(task) -> Method:
    method = started(task, "apd", components=4, rank=2, top_k=1.0)
    write(method, task, 2)
    return method


def size(task: Task, site: str, p: int) -> float:
    """|function p|^2 at a site."""
    module = dict(task.target.module.named_modules())[site]
    (part,) = (part for part in task.mechanisms["functions"] if (part["name"], part["site"]) == (f"f{p}", site))
    own = module.weight[part["rows"]] if "rows" in part else module.weight[:, part["columns"]]
    return float(own.double().square().sum())


@pytest.mark.parametrize("name", ["spd", "apd"])
def test_a_component_for_each_function_is_recovered(request, task, name):
    (found,) = recovery(request.getfixturevalue(name), task.mechanisms)
    figures = found.figures()
    for figure in ("mmcs", "ml2r", "mmcs_column", "ml2r_column", "mmcs_alive", "ml2r_alive"):
        assert figures[figure] == pytest.approx(1.0, abs=1e-5)
    assert (figures["matched"], figures["mechanisms"], figures["spare"], found.broken) == (3, 3, 0, False)
    assert [(fit.name, fit.site) for fit in found.fits] == [("f0", None), ("f1", None), ("f2", None)]


def test_subcomponents_that_are_not_joined_over_sites_match_a_function_at_one_site_only(spd, task):
    apart = {"fc1": torch.tensor([0, 1, 2, -1, -1, -1]), "head": torch.tensor([3, 4, 5, -1, -1, -1])}
    spd.clusters = (ComponentView(apart, 6),)
    (found,) = recovery(spd, task.mechanisms)
    for p, fit in enumerate(found.fits):
        at_fc1, at_head = size(task, "fc1", p), size(task, "head", p)
        assert fit.best.cosine == pytest.approx((at_fc1 / (at_fc1 + at_head)) ** 0.5, abs=1e-5)


def test_two_functions_in_one_component_are_both_half_found(spd, task):
    labels = torch.tensor([0, 0, 1, -1, -1, -1])
    spd.clusters = (ComponentView(dict.fromkeys(("fc1", "head"), labels), 2),)
    (found,) = recovery(spd, task.mechanisms)
    sizes = [size(task, "fc1", p) + size(task, "head", p) for p in range(3)]
    for p in (0, 1):
        assert found.fits[p].best.component == 0
        assert found.fits[p].best.cosine == pytest.approx((sizes[p] / (sizes[0] + sizes[1])) ** 0.5, abs=1e-5)
        assert found.fits[p].best_column.cosine == pytest.approx(1.0, abs=1e-5)
    assert found.fits[2].best.cosine == pytest.approx(1.0, abs=1e-5)
    assert found.broken


def test_a_component_of_half_the_size_keeps_its_cosine_and_halves_the_ratio(spd, task):
    for U in spd.model.U:
        U[:, 1] *= 0.5
    (found,) = recovery(spd, task.mechanisms)
    assert found.fits[1].match.cosine == pytest.approx(1.0, abs=1e-5)
    assert found.fits[1].match.ratio == pytest.approx(0.5, abs=1e-5)


def test_slots_of_no_component_are_in_none(spd, task):
    before = recovery(spd, task.mechanisms)[0].figures()
    for V, U in zip(spd.model.V, spd.model.U, strict=True):
        V[:, :, 3:], U[:, 3:] = 10.0, 10.0
    assert recovery(spd, task.mechanisms)[0].figures() == before


def test_without_components_nothing_is_said_of_functions(spd, task):
    rows = [torch.from_numpy(task.trusted[:20])]
    assert comparable(task.mechanisms, spd)
    assert {"mmcs", "components"} <= assess(spd, rows, task.mechanisms)[0].document().keys()
    spd.clusters = None
    assert not comparable(task.mechanisms, spd)
    assert not {"mmcs", "components"} & assess(spd, rows, task.mechanisms)[0].document().keys()


def test_components_of_which_nothing_is_alive_are_not_counted(apd, task):
    for i in range(2):
        apd.alive(i)[:, 2:] = False
    assert assess(apd, [torch.from_numpy(task.trusted[:20])], None)[0].document()["components"] == 1


# Blocks


@pytest.fixture
def split_head(start, small_mlp, rows) -> Method:
    """The singular parts of the head, of sizes 3, 2 and 1, in its first three slots."""
    left, _, right = torch.linalg.svd(small_mlp.head.weight, full_matrices=False)
    small_mlp.head.weight.copy_(left @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ right)
    method = start("spd", small_mlp, rows, variants=[{"name": "only"}]).eval().requires_grad_(False)
    left, sizes, right = torch.linalg.svd(method.model.weight(1), full_matrices=False)
    method.model.V[1].zero_()[0, :, :3] = left * sizes
    method.model.U[1].zero_()[0, :3] = right
    return method


def joined(method: Method, *labels: int) -> dict[str, float]:
    own = {"fc1": torch.full((6,), -1), "head": torch.tensor(labels)}
    method.clusters = (ComponentView(own, 1 + max(labels)),)
    return recovery(method, BLOCKS)[0].figures()


def test_a_block_in_one_component_is_all_of_it_and_has_its_rank(split_head):
    figures = joined(split_head, 0, 0, 0, -1, -1, -1)
    assert figures["block_joined/head"] == pytest.approx(1.0)
    assert (figures["block_rank/head"], figures["block_parts/head"]) == (3, 3)


def test_of_a_block_in_pieces_the_largest_is_told(split_head):
    figures = joined(split_head, 1, 0, 0, -1, -1, -1)
    assert figures["block_joined/head"] == pytest.approx(9 / 14)  # 9 / (9 + 4 + 1)
    assert (figures["block_rank/head"], figures["block_parts/head"]) == (1, 3)


def test_without_components_only_the_parts_of_a_block_are_told(split_head):
    assert {name for name in recovery(split_head, BLOCKS)[0].figures() if name.startswith("block")} == {
        "block_parts/head"
    }


def test_a_block_is_told_under_its_site_in_whole_numbers(split_head, rows):
    joined(split_head, 0, 0, 0, -1, -1, -1)
    at_head = assess(split_head, [rows], BLOCKS)[0].document()["sites"]["head"]
    assert set(at_head) == {"block_parts", "block_joined", "block_rank"}
    assert type(at_head["block_rank"]) is int
