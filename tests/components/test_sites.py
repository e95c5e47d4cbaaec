"""Which weights a glob finds, and what is said when it finds none."""

from collections import OrderedDict

import pytest
from torch import nn

from madpipe.components.sites import find_sites
from madpipe.errors import UnknownNameError


def network() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            embed=nn.Embedding(7, 6),
            block=nn.ModuleDict({"up": nn.Linear(6, 9), "down": nn.Linear(9, 6), "norm": nn.LayerNorm(6)}),
            conv=nn.Conv2d(2, 4, (3, 5)),
            grouped=nn.Conv2d(4, 4, 3, groups=2),
            head=nn.Linear(6, 3),
        )
    )


def names(*globs: str) -> list[str]:
    return [site.name for site in find_sites(network(), globs)]


def test_the_star_finds_every_linear_map_and_convolution_in_module_order():
    assert names("*") == ["block.up", "block.down", "conv", "head"]


def test_a_glob_finds_the_paths_that_match_it():
    assert names("block.*") == ["block.up", "block.down"]


def test_several_globs_find_each_site_once_and_in_module_order():
    assert names("head", "block.up", "h*") == ["block.up", "head"]


def test_globs_tell_capital_letters_apart():
    with pytest.raises(UnknownNameError, match="no site matches 'Head'"):
        names("Head")


def test_a_linear_site_has_the_sizes_of_its_weight():
    (site,) = find_sites(network(), ["block.up"])
    assert (site.kind, site.d_in, site.d_out, site.rank) == ("linear", 6, 9, 6)


def test_a_convolution_reads_channels_times_kernel():
    (site,) = find_sites(network(), ["conv"])
    assert (site.kind, site.d_in, site.d_out, site.rank) == ("conv2d", 2 * 3 * 5, 4, 4)


def test_an_unknown_glob_names_the_nearest_site():
    with pytest.raises(UnknownNameError, match=r"no site matches 'block\.upp'\. Did you mean 'block\.up'\? Known: "):
        names("block.upp")


def test_one_unknown_glob_among_known_ones_is_refused():
    with pytest.raises(UnknownNameError, match="no site matches 'tail'"):
        names("head", "tail")


@pytest.mark.parametrize(
    ("glob", "kind"),
    [("embed", "Embedding"), ("block.norm", "LayerNorm"), ("grouped", "Conv2d with groups=2")],
)
def test_a_weight_that_cannot_be_decomposed_is_named_with_its_kind(glob: str, kind: str):
    with pytest.raises(UnknownNameError, match=f"'{glob}' is a {kind}, which cannot be decomposed"):
        names(glob)


def test_a_weight_shared_by_two_modules_is_one_site_under_its_first_path():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert [site.name for site in find_sites(nn.Sequential(first, second))] == ["0"]


def test_a_module_used_under_two_names_is_one_site():
    layer = nn.Linear(4, 4)
    assert [site.name for site in find_sites(nn.Sequential(layer, nn.ReLU(), layer))] == ["0"]


def test_a_target_without_weights_has_no_sites():
    with pytest.raises(UnknownNameError, match="There are none"):
        find_sites(nn.Sequential(nn.ReLU()))


def test_the_error_is_one_line():
    with pytest.raises(UnknownNameError) as caught:
        names("nothing_like_it")
    assert "\n" not in str(caught.value)
