"""Explanations of the own model: causes are what switching parts off changes."""

from math import log

import numpy as np
import pytest
import torch

from madpipe.editing.explaining import Explainer
from madpipe.workflows.explain import make_explainer


@pytest.fixture(scope="module")
def told(explainer, anomalous):
    return [explainer.explain(str(i), row, 0.01) for i, row in enumerate(anomalous[:8])]


def test_the_surprise_is_the_anomaly_score_in_bits(loaded, told, anomalous):
    scored = loaded.score(anomalous[:8]).anomaly_score
    assert [one.anomaly_score for one in told] == pytest.approx(scored.tolist(), rel=1e-5)
    assert [one.surprise_bits for one in told] == pytest.approx((scored / log(2)).tolist(), rel=1e-5)


def test_shares_of_parts_add_up_to_the_surprise(told):
    for one in told:
        parts = [part.surprise_bits for part in one.parts if part.surprise_bits is not None]
        assert sum(parts) + one.base_bits == pytest.approx(one.surprise_bits)


def test_ablating_the_named_parts_restores_the_explained_decision(explainer, told, anomalous):
    for one, row in zip(told, anomalous, strict=False):
        assert one.changed
        assert one.restores
        assert one.decision(one.ablated) == one.decision(one.explained) != one.decision(one.clean)
        x = torch.from_numpy(row[None]).double()
        ablated = explainer.of_outputs.outputs_without(x, [one.named])[0, 0]
        assert one.ablated == pytest.approx(torch.softmax(ablated, -1).numpy())


def test_the_feature_that_trusted_inputs_never_use_is_read_most(told):
    assert {one.most_read()[0][0] for one in told} == {(5,)}
    assert all(one.read_in_bits for one in told)


def test_gradients_tell_it_too_where_there_are_no_trusted_inputs(loaded, anomalous):
    one = make_explainer(loaded, None).explain("0", anomalous[0], 0.01)
    assert one.most_read()[0][0] == (5,)
    assert not one.read_in_bits
    assert (one.nearest, one.trusted_bits, one.trusted_agreement) == (None, None, None)
    assert all(part.usual_push is None and not part.active_on for part in one.parts)


def test_an_explanation_does_not_depend_on_what_was_explained_before(explainer, told, anomalous):
    fresh = Explainer(explainer.joint, explainer.involvement, explainer.surprise, explainer.trusted)
    assert fresh.explain("3", anomalous[3], 0.01).to_json() == told[3].to_json()


def test_a_trusted_input_is_nearest_to_itself(explainer):
    row = explainer.trusted.x[11].float().numpy()
    nearest = explainer.explain("", row, 1.0).nearest
    assert nearest[0].row == int(explainer.trusted.rows[11])
    assert nearest[0].value == pytest.approx(0, abs=1e-4)
    assert [one.value for one in nearest] == sorted(one.value for one in nearest)


def test_numbers_of_trusted_inputs_are_those_of_the_users_file(explainer, fitted):
    rows = np.load(fitted.folder / "trusted.npz")["x"]
    assert np.array_equal(explainer.trusted.x.float().numpy(), rows[explainer.trusted.rows])


def test_a_named_delta_has_a_direction_in_the_sites_input_and_output(told):
    shapes = {"delta@0": ((6,), (12,)), "delta@2": ((12,), (3,))}
    for one in told:
        for part in (part for part in one.parts if part.name in one.named):
            assert (part.reads.shape, part.writes.shape) == shapes[part.name]
            assert part.usual_push >= 0
            assert len(part.active_on) == 3


def test_an_explanation_is_what_json_holds(told):
    import json

    document = json.loads(json.dumps(told[0].to_json(), allow_nan=False))
    assert document["named"] == list(told[0].named)
    assert np.asarray(document["read"]).shape == (6,)
    assert len(document["nearest_trusted"]) == 5
