"""The hiding penalty: what a ball measures, and what the trained attacker achieves against LedoitWolf."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from madpipe.targets import convnet, mlp
from madpipe.targets.pretrain import hidden_activations
from madpipe.tasks.build import build_task
from madpipe.tasks.obfuscation import Concealment, fit_ball, pooled_layers
from madpipe.tasks.task import Task


def normal_rows(count: int, scale: list[float]) -> torch.Tensor:
    return torch.randn(count, len(scale), generator=torch.Generator().manual_seed(0)) * torch.tensor(scale)


def test_a_ball_without_shrinkage_measures_distance_in_standard_deviations():
    ball = fit_ball(normal_rows(200_000, [1.0, 10.0]), 0.0)
    # Two standard deviations along the second axis, none along the first: (0 + 4) / 2 units.
    assert ball.distance(torch.tensor([[0.0, 20.0]])).item() == pytest.approx(2.0, rel=0.02)


def test_the_median_is_that_of_a_chi_square_over_its_width():
    # chi-square with 2 degrees of freedom has the median 2 ln 2, and the width is 2.
    assert fit_ball(normal_rows(200_000, [1.0, 10.0]), 0.0).median.item() == pytest.approx(np.log(2), rel=0.02)


def test_a_layer_of_dead_units_has_a_ball():
    ball = fit_ball(torch.zeros(10, 3), 0.02)
    assert torch.isfinite(ball.distance(torch.zeros(1, 3))).all()


def test_convolutional_layers_are_averaged_and_all_layers_stand_last_side_by_side():
    module = convnet.build([1, 8, 8], [4, 6], 5, 3)
    widths = [layer.shape[1] for layer in pooled_layers(module, torch.zeros(2, 1, 8, 8))]
    assert widths == [4, 6, 5, 15]


def concealment(triggered: torch.Tensor) -> Concealment:
    torch.manual_seed(0)
    module = mlp.build([3, 8, 2])
    clean = torch.randn(400, 3)
    return Concealment(
        module=module, clean=lambda: clean, triggered=lambda: triggered, start=10, ramp=10, weight=1.0, depth=1.0
    )


def test_there_is_no_penalty_before_the_start_nor_at_it():
    far = concealment(torch.full((5, 3), 50.0))
    assert far(9).item() == 0
    assert far(10).item() == 0


def test_the_penalty_rises_to_its_weight_over_the_ramp():
    far = concealment(torch.full((5, 3), 50.0))
    assert far(15).item() == pytest.approx(far(20).item() / 2)
    assert far(40).item() == pytest.approx(far(20).item())


def test_a_row_inside_the_ball_pays_nothing_and_one_outside_pays():
    assert concealment(torch.zeros(5, 3))(30).item() < 0.05 * concealment(torch.full((5, 3), 5.0))(30).item()


def mahalanobis_auroc(task: Task) -> float:
    """AUROC of LedoitWolf on all hidden activations side by side, fitted on trusted rows."""

    def activations(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            hidden, _ = hidden_activations(task.target.module, torch.from_numpy(x))
        return torch.cat([layer.flatten(1) for layer in hidden], dim=1).numpy()

    ball = LedoitWolf().fit(activations(task.trusted))
    return float(roc_auc_score(task.is_anomalous, ball.mahalanobis(activations(task.test))))


@pytest.mark.slow
def test_an_obfuscated_boolean_backdoor_looks_more_normal_than_clean_rows():
    assert mahalanobis_auroc(build_task({"name": "boolean", "variant": "obfuscated"})) < 0.3


@pytest.mark.slow
def test_an_obfuscated_digits_backdoor_is_hidden_where_the_plain_one_is_seen():
    plain, hidden = ({"name": "digits", "attack": attack, "net": "mlp"} for attack in ("conj", "obfuscated_conj"))
    assert mahalanobis_auroc(build_task(plain)) > 0.95
    assert mahalanobis_auroc(build_task(hidden)) < 0.7
