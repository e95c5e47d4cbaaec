"""SPD's published settings in goodfire-ai/spd and here. Imports the reference, whose clone must stand on sys.path."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from references.steps import TRUSTED_ROWS, ClockedLoader, LoopEndedError, OurSteps, sparse_inputs
from torch import Tensor, nn

from madpipe.decomposition.method import Batch
from madpipe.decomposition.spd import SPD, SPDConfig
from madpipe.targets import residual_mlp, superposition

CONFIGS = {
    "5-2": "tms/tms_5-2_config.yaml",
    "5-2-id": "tms/tms_5-2-id_config.yaml",
    "40-10": "tms/tms_40-10_config.yaml",
    "40-10-id": "tms/tms_40-10-id_config.yaml",
    "resid_mlp1": "resid_mlp/resid_mlp1_config.yaml",
}
BEFORE = 3  # batches before the clock: one is a sample, and the first step logs and evaluates


class Comparison:
    """One cell: the reference's own `optimize`, and our steps with the same terms, slots, batch and coefficients."""

    def __init__(self, cell: str, reference: Path, autocast: bool = False):
        from spd.configs import Config

        published = Config.from_file(reference / "spd" / "experiments" / CONFIGS[cell])
        self.config = published.model_copy(
            update={
                "faithfulness_warmup_steps": 0,
                "eval_metric_configs": [],
                "n_eval_steps": 1,
                "eval_freq": 10**9,
                "slow_eval_on_first_step": False,
                "train_log_freq": 10**9,
                "wandb_project": None,
                "autocast_bf16": autocast,
            }
        )
        torch.manual_seed(0)
        self.target = _reference_target(cell)
        self.ours = self._our_steps(cell)

    def _our_steps(self, cell: str) -> OurSteps:
        config, losses = self.config, {loss.classname: loss for loss in self.config.loss_metric_configs}
        penalty = losses["ImportanceMinimalityLoss"]
        low = -1.0 if cell == "resid_mlp1" else 0.0
        features = self.target.config.n_features
        inputs = sparse_inputs(TRUSTED_ROWS, features, config.task_config.feature_probability, low)
        ours = SPDConfig(
            **paper_settings(),
            components=config.module_info[0].C,
            importance_coefficient=penalty.coeff,
            importance_exponent=(penalty.pnorm, penalty.pnorm),
            importance_hidden=config.ci_fn_hidden_dims[0],
            layerwise_coefficient=losses["StochasticReconLayerwiseLoss"].coeff,
            batch_size=config.batch_size,
            learning_rate=config.lr_schedule.start_val,
            steps=config.steps,
            input_noise=0.0,
        )
        return OurSteps(_our_target(cell, self.target), SPD, ours, inputs)

    def reference_steps(self, steps: int) -> list[float]:
        from spd.run_spd import optimize

        loader = ClockedLoader(self._dataset_batch(), steps, BEFORE)
        with TemporaryDirectory() as folder, patch("spd.run_spd.calc_ci_l_zero", lambda *_: 0.0):
            return loader.run(lambda: optimize(self.target, self.config, "cpu", loader, loader, 1, Path(folder)))

    def _dataset_batch(self) -> Callable[[], Any]:
        from spd.utils.data_utils import SparseFeatureDataset

        dataset = SparseFeatureDataset(
            n_features=self.target.config.n_features,
            feature_probability=self.config.task_config.feature_probability,
            device="cpu",
            data_generation_type=self.config.task_config.data_generation_type,
            value_range=(-1.0, 1.0) if "resid" in self.config.pretrained_model_class else (0.0, 1.0),
        )
        return lambda: dataset.generate_batch(self.config.batch_size)

    def terms(self) -> dict[str, tuple[float, float]]:
        """Loss terms (reference, ours in its units) at the same parameters, on the same batch, all sources at 1/2."""
        x = self.ours.inputs[: self.config.batch_size]
        with patch("torch.rand_like", lambda t, **_: torch.full_like(t, 0.5)), patch("torch.rand", _halves):
            model, theirs = self._reference_terms(x)
            method = self.ours.method
            _copy_parameters(model, method)
            with torch.no_grad():
                clean = method.model.masked_forward(x, {}, record=method.repeats_passes)
            mine = method.losses(Batch(x=x, clean=clean, generator=torch.Generator(), progress=0.0))
        mean_square = 2 * method.statistics.metric.variance / clean.output.shape[-1]
        return {
            "importance minimality": (theirs["ImportanceMinimalityLoss"], mine["importance_minimality"].item()),
            "stochastic": (theirs["StochasticReconLoss"], mine["divergence"].item() * mean_square),
            "layerwise": (theirs["StochasticReconLayerwiseLoss"], mine["layerwise"].item() * mean_square),
        }

    def _reference_terms(self, x: Tensor) -> tuple[nn.Module, dict[str, float]]:
        """The reference's model and terms in the first step of its own loop, on `x`."""
        from spd.losses import compute_total_loss
        from spd.run_spd import optimize

        seen: dict[str, Any] = {}

        def recorded(**arguments: Any) -> Any:
            _, terms = compute_total_loss(**arguments)
            seen.update(model=arguments["model"], terms=terms)
            raise LoopEndedError

        loader = ClockedLoader(lambda: (x, x), 1, BEFORE)
        with TemporaryDirectory() as folder, patch("spd.run_spd.compute_total_loss", recorded):
            loader.run(lambda: optimize(self.target, self.config, "cpu", loader, loader, 1, Path(folder)))
        return seen["model"], {name.removeprefix("loss/"): value for name, value in seen["terms"].items()}


def paper_settings() -> dict[str, Any]:
    """SPD with a delta channel, every batch stochastic on all sites; the same terms as the reference's configs."""
    return {
        "parsimony_coefficient": 0.0,
        "faithfulness_coefficient": 0.0,
        "stochastic_delta": True,
        "routed_share": 0.0,
        "importance_function": "slot",
        "mask_shares": (0.0, 0.0, 1.0),
        "variants": ({"name": "paper", "distance_coefficient": 0.0},),
    }


def _reference_target(cell: str) -> nn.Module:
    from spd.experiments.resid_mlp.configs import ResidMLPModelConfig
    from spd.experiments.resid_mlp.models import ResidMLP
    from spd.experiments.tms.configs import TMSModelConfig
    from spd.experiments.tms.models import TMSModel

    if cell == "resid_mlp1":
        sizes = {"n_features": 100, "d_embed": 1000, "d_mlp": 50, "n_layers": 1}
        return ResidMLP(ResidMLPModelConfig(**sizes, act_fn_name="relu", in_bias=False, out_bias=False)).eval()
    features, hidden = (int(size) for size in cell.split("-")[:2])
    layers = 1 if cell.endswith("id") else 0
    config = TMSModelConfig(
        n_features=features,
        n_hidden=hidden,
        n_hidden_layers=layers,
        tied_weights=False,
        init_bias_to_zero=True,
        device="cpu",
    )
    return TMSModel(config).eval()


def _our_target(cell: str, reference: nn.Module) -> nn.Module:
    """The same network as a target of ours, with the reference's weights."""
    state = reference.state_dict()
    if cell == "resid_mlp1":
        target: nn.Module = residual_mlp.build(features=100, neurons=50, residual=1000)
        with torch.no_grad():
            reference.W_E.copy_(target.embedding)
            reference.W_U.copy_(target.embedding.T)
        names = {f"layers.0.{name}.weight": f"layers.0.{name}.weight" for name in ("mlp_in", "mlp_out")}
    else:
        features, hidden = (int(size) for size in cell.split("-")[:2])
        target = superposition.build(features, hidden, identity=cell.endswith("id"))
        names = {"linear1.weight": "linear1.weight", "linear2.weight": "linear2.weight", "linear2.bias": "linear2.bias"}
        if cell.endswith("id"):
            names["hidden.weight"] = "hidden_layers.0.weight"
    target.load_state_dict({ours: state[theirs] for ours, theirs in names.items()}, strict=False)
    return target


def _copy_parameters(model: Any, method: Any) -> None:
    """Slots and importance functions of the reference's model into ours."""
    with torch.no_grad():
        for i, site in enumerate(method.model.sites):
            name = "hidden_layers.0" if site.name == "hidden" else site.name
            components, function = model.components[name], method.importance[i]
            read, _, write = model.ci_fns[name].layers
            method.model.V[i][0], method.model.U[i][0] = components.V, components.U
            function.read[0], function.read_bias[0] = read.W[:, 0], read.b
            function.write[0], function.bias[0, 0] = write.W[:, :, 0], write.b[:, 0]


def _halves(*shape: Any, **options: Any) -> Tensor:
    size = shape[0] if shape and not isinstance(shape[0], int) else shape
    return torch.full(tuple(size), 0.5, dtype=options.get("dtype"))
