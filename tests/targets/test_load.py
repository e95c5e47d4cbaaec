"""A user's own model: what loads, and what each mistake says."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from madpipe.errors import DamagedFileError, FactoryError, MissingFileError, WeightsError
from madpipe.targets.load import Target, load_target, weights_digest

MODEL = """
import torch
from torch import nn

def build(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 2))

def build_nothing():
    return {"not": "a module"}

def build_badly():
    raise KeyError("the\\nconfig")
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    return tmp_path


def state(width: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 2))
    return {name: value.clone() for name, value in module.state_dict().items()}


def load(base: Path, factory: str = "my_model.py:build", weights: str | None = None, **kwargs: object) -> Target:
    return load_target(factory, kwargs, Path(weights) if weights else None, "categorical", base)


def message(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_a_factory_file_is_found_beside_the_config_and_gets_its_arguments(base):
    target = load(base, width=5)
    assert target.module[0].weight.shape == (5, 2)
    assert target.source == base / "my_model.py"


def test_a_factory_in_a_package_has_no_source_file(base):
    target = load(base, "madpipe.targets.mlp:build", sizes=[4, 3, 2])
    assert target.source is None
    assert target.module(torch.zeros(1, 4)).shape == (1, 2)


def test_the_loaded_module_is_in_eval_mode_and_frozen(base):
    module = load(base).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_are_loaded_bit_for_bit(base, name):
    save_file(state(), base / name) if name.endswith("safetensors") else torch.save(state(), base / name)
    loaded = load(base, weights=name)
    assert all(torch.equal(loaded.module.state_dict()[key], value) for key, value in state().items())
    assert loaded.weights_digest == weights_digest(state())


def test_the_digest_moves_with_one_weight():
    changed = state()
    changed["0.bias"][0] += 1
    assert weights_digest(changed) != weights_digest(state())


def test_a_tied_weight_may_be_left_out_of_the_file(base):
    (base / "tied.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))\n"
        "    net[1].weight = net[0].weight\n"
        "    return net\n"
    )
    save_file({"0.weight": torch.eye(2)}, base / "w.safetensors")
    assert torch.equal(load(base, "tied.py:build", "w.safetensors").module[1].weight, torch.eye(2))


def test_siblings_are_importable_only_while_the_model_is_loaded(base):
    (base / "lonely_sibling.py").write_text("width = 7\n")
    (base / "uses.py").write_text(
        "import lonely_sibling\nfrom torch import nn\ndef build():\n"
        "    from lonely_sibling import width\n    return nn.Linear(1, width)\n"
    )
    before = list(sys.path)
    assert load(base, "uses.py:build").module.weight.shape == (7, 1)
    assert sys.path == before
    assert "lonely_sibling" not in sys.modules


def test_two_models_have_siblings_of_one_name_each_its_own(tmp_path):
    for width in (3, 4):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "lonely_sizes.py").write_text(f"width = {width}\n")
        (folder / "m.py").write_text(
            "from lonely_sizes import width\nfrom torch import nn\nbuild = lambda: nn.Linear(1, width)\n"
        )
    assert [load(tmp_path / str(width), "m.py:build").module.out_features for width in (3, 4)] == [3, 4]


def test_the_path_is_put_back_when_the_file_fails(base):
    (base / "broken.py").write_text("import no_such_library\n")
    before = list(sys.path)
    with pytest.raises(FactoryError) as caught:
        load(base, "broken.py:build")
    assert sys.path == before
    assert "ModuleNotFoundError: No module named 'no_such_library'" in message(caught)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("my_model:build:", "is not 'file.py:function'"),
        ("my_model.py", "is not 'file.py:function'"),
        ("my_modle.py:build", "Did you mean 'my_model.py'?"),
        ("nowhere/my_model.py:build", "no file nowhere/my_model.py"),
        ("my_model.py:biuld", "Did you mean 'build'?"),
        ("my_model.py:torch", "no function 'torch'"),
        ("my_model.py:build_nothing", "returned a dict, not a torch.nn.Module"),
        ("my_model.py:build_badly", "raised KeyError: 'the\\nconfig'"),
        ("no_such_package.models:build", "ModuleNotFoundError"),
        ("madpipe.targets.mlp:bild", "Did you mean 'build'?"),
    ],
)
def test_a_factory_mistake_is_named_in_one_line(base, factory, said):
    with pytest.raises(FactoryError) as caught:
        load(base, factory)
    assert said in message(caught)


def test_an_unknown_argument_names_the_factory_and_the_type_error(base):
    with pytest.raises(FactoryError, match="my_model.py:build.*TypeError"):
        load(base, widht=3)


def test_a_model_file_that_ends_the_program_is_an_error(base):
    (base / "script.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(FactoryError, match="SystemExit"):
        load(base, "script.py:build")


def test_a_missing_weights_file_is_named(base):
    with pytest.raises(MissingFileError, match=r"w\.safetensors"):
        load(base, weights="w.safetensors")


def without(key: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state().items() if name != key}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (without("3.bias"), "'3.bias' is missing"),
        (without("3.bias") | {"3.bais": torch.zeros(2)}, "Did you mean '3.bais'?"),
        (state() | {"extra": torch.zeros(1), "more": torch.zeros(1)}, "'extra' is not in the model (2 such keys)"),
        (state(4), "'0.bias' is [4], the model's is [3]; 3 of 4 tensors"),
        (state() | {"3.bias": torch.tensor([0.0, float("nan")])}, "'3.bias' holds NaN"),
        (state() | {"3.bias": torch.tensor([0.0, float("inf")])}, "'3.bias' holds NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_are_named(base, content, said):
    save_file(content, base / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(base, weights="w.safetensors")
    assert said in message(caught)


def test_a_checkpoint_that_wraps_its_state_dict_names_its_keys(base):
    torch.save({"state_dict": state(), "epoch": 3}, base / "w.ckpt")
    with pytest.raises(WeightsError, match="keys state_dict, epoch"):
        load(base, weights="w.ckpt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_truncated_file_is_damaged(base, name):
    save_file(state(), base / name) if name.endswith("safetensors") else torch.save(state(), base / name)
    (base / name).write_bytes((base / name).read_bytes()[:-40])
    with pytest.raises(DamagedFileError) as caught:
        load(base, weights=name)
    assert "truncated" in message(caught)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle ran')",)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_pickle_is_refused_and_not_run(base, name):
    (base / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedFileError) as caught:
        load(base, weights=name)
    assert "weights_only=False" not in message(caught)


def test_weights_that_this_user_may_not_read_are_told_as_such(base, monkeypatch):
    save_file(state(), base / "w.safetensors")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root, who runs tests in containers, may read anything
    with pytest.raises(MissingFileError) as caught:
        load(base, weights="w.safetensors")
    assert "this user may not read" in message(caught)
