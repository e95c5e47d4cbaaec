"""The built-in networks: names, shapes, and a training loop that gives the same bits twice."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import nn

from madpipe.targets import convnet, mlp, residual_mlp, superposition, transformer
from madpipe.targets.pretrain import Batch, build_seeded, hidden_activations, one_thread, pretrain

small = partial(mlp.build, [2, 8, 1])


def xor_batches() -> Iterator[Batch]:
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    while True:
        yield Batch(inputs=corners, labels=torch.tensor([[0.0], [1.0], [1.0], [0.0]]))


def trained(**options: object) -> nn.Sequential:
    module = build_seeded(small, 0)
    loss = nn.functional.binary_cross_entropy_with_logits
    pretrain(module, xor_batches(), loss, **{"steps": 200, "learning_rate": 0.05, **options})
    return module


def test_the_layers_of_an_mlp_are_numbered_and_the_last_is_the_head():
    names = [name for name, _ in mlp.build([4, 3, 3, 2]).named_children()]
    assert names == ["fc1", "relu1", "fc2", "relu2", "head"]


def test_the_layers_of_a_convnet_are_numbered_and_the_last_is_the_head():
    names = [name for name, _ in convnet.build([1, 8, 8], [4, 6], 5, 3).named_children()]
    assert names == ["conv1", "relu1", "conv2", "relu2", "pool", "flatten", "fc1", "relu3", "head"]


def test_a_convnet_maps_images_to_logits():
    assert convnet.build([3, 4, 6], [4], 5, 2)(torch.zeros(7, 3, 4, 6)).shape == (7, 2)


@pytest.mark.parametrize("wrong", [{"image": [1, 7, 8], "channels": [4]}, {"image": [1, 8, 8], "channels": []}])
def test_a_convnet_refuses_odd_images_and_no_channels(wrong):
    with pytest.raises(ValueError, match="even height and width"):
        convnet.build(**wrong, hidden=5, outputs=3)


def test_an_mlp_of_one_width_is_refused():
    with pytest.raises(ValueError, match="sizes"):
        mlp.build([4])


def test_a_toy_of_superposition_starts_with_a_true_identity():
    module = superposition.build(3, 2, identity=True)
    assert [name for name, _ in module.named_children()] == ["linear1", "hidden", "linear2", "relu"]
    h = torch.randn(4, 2)
    assert torch.equal(module.hidden(h), h)


def test_a_toy_of_superposition_is_a_linear_layer_each_way_and_a_relu():
    module = superposition.build(3, 2)
    x = torch.randn(4, 3)
    expected = torch.relu(x @ module.linear1.weight.T @ module.linear2.weight.T + module.linear2.bias)
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_a_residual_mlp_without_layers_weights_passes_features_on():
    module = residual_mlp.build(4, 3, 50, layers=2).requires_grad_(False)
    for layer in module.layers:
        layer.mlp_out.weight.zero_()
    E, x = module.embedding, torch.randn(5, 4)
    assert torch.allclose(E.norm(dim=1), torch.ones(4))
    assert torch.allclose(module(x), x @ E @ E.T, atol=1e-6)


def test_layers_of_a_residual_mlp_read_what_earlier_ones_wrote():
    module = residual_mlp.build(4, 3, 50, layers=2).requires_grad_(False)
    x = torch.randn(5, 4)
    residual = x @ module.embedding
    for layer in module.layers:
        residual = residual + torch.relu(residual @ layer.mlp_in.weight.T) @ layer.mlp_out.weight.T
    assert torch.allclose(module(x), residual @ module.embedding.T, atol=1e-5)


def test_the_embedding_of_a_residual_mlp_is_kept_and_not_trained():
    module = residual_mlp.build(4, 3, 50)
    assert "embedding" in module.state_dict()
    assert [name for name, _ in module.named_parameters()] == ["layers.0.mlp_in.weight", "layers.0.mlp_out.weight"]


def small_transformer(**sizes: int) -> transformer.Transformer:
    return build_seeded(lambda: transformer.build(7, 4, 8, heads=2, **sizes), 0).requires_grad_(False)


def test_a_transformer_gives_the_logits_of_the_next_token():
    assert small_transformer(neurons=5, layers=2)(torch.zeros(3, 4, dtype=torch.int64)).shape == (3, 7)


def test_a_transformer_takes_token_ids_of_any_number_type():
    module, ids = small_transformer(), torch.tensor([[0, 6, 3, 2]])
    assert torch.equal(module(ids), module(ids.float()))
    assert torch.allclose(module.double()(ids.double()).float(), module.float()(ids), atol=1e-6)


def test_attention_reads_no_later_position():
    block, residual = small_transformer().blocks[0], torch.randn(1, 4, 8)
    changed = residual.clone()
    changed[:, 2:] += 1
    assert torch.equal(block(changed)[:, :2], block(residual)[:, :2])
    assert not torch.equal(block(changed)[:, 2:], block(residual)[:, 2:])


def test_attention_weighs_values_by_softmax_of_scaled_scores():
    attention, x = small_transformer().blocks[0].attention, torch.randn(1, 3, 8)
    heads = [read_by_last(attention, x, slice(4 * head, 4 * head + 4)) for head in range(2)]
    assert torch.allclose(attention(x)[0, 2], torch.cat(heads) @ attention.o.weight.T, atol=1e-5)


def read_by_last(attention: transformer.Attention, x: torch.Tensor, part: slice) -> torch.Tensor:
    """What the last of three positions reads through one head."""
    q, k, v = ((x[0] @ site.weight.T)[:, part] for site in (attention.q, attention.k, attention.v))
    return (q[2] @ k.T / 2).softmax(0) @ v  # two is the root of four, the width of a head


def test_a_transformer_without_neurons_has_attention_alone():
    names = {name.rpartition(".")[0] for name, _ in small_transformer().named_parameters()}
    assert names == {"", "embed", "unembed", *(f"blocks.0.attention.{site}" for site in "qkvo")}


def test_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width 8 cannot be shared by 3 heads"):
        transformer.build(7, 4, 8, heads=3)


@pytest.mark.parametrize(
    ("factory", "sizes"),
    [
        (transformer.build, (0, 4, 8)),
        (superposition.build, (0, 2)),
        (superposition.build, (5, 0)),
        (residual_mlp.build, (4, 0, 8)),
    ],
)
def test_a_size_of_zero_is_refused(factory, sizes):
    with pytest.raises(ValueError, match="0"):
        factory(*sizes)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build_seeded(small, 0)
    torch.manual_seed(2)
    assert torch.equal(first.fc1.weight, build_seeded(small, 0).fc1.weight)
    assert not torch.equal(first.fc1.weight, build_seeded(small, 1).fc1.weight)


def test_building_leaves_the_callers_random_state():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_seeded(small, 5)
    assert torch.equal(torch.rand(3), expected)


def test_training_learns_xor():
    assert (trained()(next(xor_batches()).inputs) > 0).flatten().tolist() == [False, True, True, False]


def test_training_twice_gives_the_same_bits():
    assert all(torch.equal(a, b) for a, b in zip(trained().parameters(), trained().parameters(), strict=True))


def test_a_trained_module_is_frozen_and_in_eval_mode():
    module = trained(steps=1)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_penalty_is_told_the_step_and_moves_the_weights():
    seen = []

    def penalty(step: int) -> torch.Tensor:
        seen.append(step)
        return torch.zeros(())

    assert torch.equal(trained(steps=3, penalty=penalty).fc1.weight, trained(steps=3).fc1.weight)
    assert seen == [0, 1, 2]


def test_hidden_activations_end_in_the_clean_forward():
    module = build_seeded(small, 0)
    x = torch.randn(5, 2)
    hidden, logits = hidden_activations(module, x)
    assert torch.equal(logits, module(x))
    assert torch.equal(hidden[0], torch.relu(module.fc1(x)))


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before
