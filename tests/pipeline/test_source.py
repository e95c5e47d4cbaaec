"""Where a fit starts: what cannot be decomposed or scored is refused before anything is trained."""

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.errors import NonFiniteError, ShapeError, UnknownNameError
from madpipe.pipeline.source import make_source, own_source, run_once
from madpipe.targets.load import Target

ROWS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def target(module: nn.Module) -> Target:
    return Target(module.eval().requires_grad_(False), "categorical", "m.py:build", {}, None, "digest")


class Gives(nn.Module):
    """A network with one site whose output is `give(output of the site)`."""

    def __init__(self, give):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.give = give

    def forward(self, x):
        return self.give(self.layer(x))


def test_a_source_holds_target_sites_and_rows(fitted):
    section = {"factory": "my_model.py:build", "kwargs": {}, "weights": "weights.safetensors", "output": "categorical"}
    data = {"trusted": "trusted.npz", "key": "x"}
    source = own_source(section | {"sites": ("*",)}, data, fitted.folder)
    assert [site.name for site in source.sites] == ["0", "2"]
    assert source.trusted.shape == (300, 6)
    assert (source.name, source.key) == ("trusted", "x")


def test_globs_choose_the_sites():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    assert [site.name for site in make_source(target(module), ("2",), ROWS, None, "t").sites] == ["2"]


def test_a_glob_that_matches_no_site_names_the_sites_there_are():
    with pytest.raises(UnknownNameError, match=r"target.sites: no site matches 'mlp.fc\*'.*Known: layer."):
        make_source(target(Gives(lambda y: y)), ("mlp.fc*",), ROWS, None, "t")


def test_rows_that_the_target_cannot_take_are_refused_with_their_shape():
    with pytest.raises(ShapeError, match="the target fails on trusted rows of shape 5: RuntimeError") as refused:
        run_once(target(nn.Linear(4, 3)), np.zeros((2, 5), np.float32))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda y: y[:, 0], r"it gave \(2,\)"),
        (lambda y: y.sum(), r"it gave \(\)"),
        (lambda y: y[:1], r"it gave \(1, 3\)"),
        (lambda y: (y, y), "it gave tuple"),
        (lambda y: {"logits": y}, "it gave dict"),
    ],
)
def test_a_target_must_give_one_row_of_outputs_per_input(give, said):
    with pytest.raises(ShapeError, match=r"must give a tensor \[inputs, outputs\]; for 2 inputs " + said):
        run_once(target(Gives(give)), ROWS[:2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_target_that_gives_no_numbers_is_refused(bad):
    with pytest.raises(ShapeError, match="gives NaN or infinite outputs on trusted rows"):
        run_once(target(Gives(lambda y: y + bad)), ROWS[:2])


def test_trusted_rows_that_are_no_numbers_are_refused_with_file_and_row(fitted, tmp_path):
    rows = np.zeros((30, 6), np.float32)
    rows[17, 3] = np.nan
    np.savez(tmp_path / "bad.npz", x=rows)
    section = {"factory": "my_model.py:build", "kwargs": {}, "weights": None, "output": "categorical", "sites": ("*",)}
    with pytest.raises(NonFiniteError, match=r"bad.npz: row 17 holds a value that is NaN or infinite"):
        own_source(section, {"trusted": str(tmp_path / "bad.npz"), "key": "x"}, fitted.folder)


def test_the_target_is_run_on_a_copy_of_the_rows():
    rows = ROWS.copy()
    run_once(target(Gives(lambda y: y)), rows[:2])
    assert np.array_equal(rows, ROWS)
    assert torch.is_inference_mode_enabled() is False


def test_sites_stand_in_the_order_in_which_they_run():
    class DeclaredBackwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.middle, self.first = nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))

    rows = np.ones((4, 5), dtype=np.float32)
    source = make_source(target(DeclaredBackwards()), ("*",), rows, "x", "backwards")
    assert [site.name for site in source.sites] == ["first", "middle", "last"]
