"""APD's published settings in ApolloResearch/apd and here. Imports the reference, whose clone must be on sys.path."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from references.steps import TRUSTED_ROWS, ClockedLoader, OurSteps, sparse_inputs
from torch import Tensor, nn

from madpipe.decomposition.apd import APD, APDConfig
from madpipe.decomposition.method import Batch
from madpipe.targets import residual_mlp, superposition

# The published settings of TMS 5-2 stand as a comment in the reference's file, beside those of 40-10.
TMS_5_2 = {"C": 5, "topk": 0.211, "topk_recon_coeff": 1.0, "schatten_pnorm": 1.0, "schatten_coeff": 0.7, "lr": 3e-2}
TMS_5_2 |= {"lr_schedule": "constant"}
CELLS = {"5-2 x12": ("5-2", 12), "40-10": ("40-10", 1), "40-10 x3": ("40-10", 3), "resid_mlp1": ("resid_mlp1", 1)}
BEFORE = 1  # batches before the clock: the first step logs


class Comparison:
    """One cell: the reference's own `optimize`, and our steps with the same terms, sizes, batch and coefficients."""

    def __init__(self, cell: str, reference: Path):
        from spd.run_spd import Config
        from spd.utils import load_config

        self.target_name, self.instances = CELLS[cell]
        family = "resid_mlp" if self.target_name == "resid_mlp1" else "tms"
        published = load_config(reference / f"spd/experiments/{family}/{family}_topk_config.yaml", config_model=Config)
        changes: dict[str, Any] = {"print_freq": 10**9, "image_freq": None, "save_freq": None, "wandb_project": None}
        self.config = published.model_copy(update=changes | (TMS_5_2 if self.target_name == "5-2" else {}))
        torch.manual_seed(0)
        self.target = _reference_target(self.target_name, self.instances)
        _repeat_first_instance(self.target)
        self.ours = self._our_steps()

    def _our_steps(self) -> OurSteps:
        config, target = self.config, _our_target(self.target_name, self.target)
        low = -1.0 if self.target_name == "resid_mlp1" else 0.0
        inputs = sparse_inputs(TRUSTED_ROWS, self.target.config.n_features, config.task_config.feature_probability, low)
        ours = APDConfig(
            seeds=self.instances,
            components=config.C,
            rank=_reference_rank(self.target_name),
            top_k=config.topk,
            minimality_coefficient=config.topk_recon_coeff,
            hidden_coefficient=config.act_recon_coeff or 0.0,
            simplicity_coefficient=config.schatten_coeff,
            schatten_exponent=config.schatten_pnorm,
            batch_size=config.batch_size,
            learning_rate=config.lr,
            steps=config.steps,
            input_noise=0.0,
            alive_share=0.0,
        )
        return OurSteps(target, APD, ours, inputs)

    def reference_steps(self, steps: int) -> list[float]:
        from spd.run_spd import optimize

        model = self._reference_model()
        loader = ClockedLoader(self._dataset_batch(), steps, BEFORE)
        return loader.run(
            lambda: optimize(model, self.config, "cpu", loader, self.target, self._parameter_names())  # type: ignore[arg-type]
        )

    def _parameter_names(self) -> list[str]:
        return ["layers.0.mlp_in", "layers.0.mlp_out"] if self.target_name == "resid_mlp1" else ["linear1", "linear2"]

    def _dataset_batch(self) -> Any:
        from spd.utils import SparseFeatureDataset

        dataset = SparseFeatureDataset(
            n_instances=self.instances,
            n_features=self.target.config.n_features,
            feature_probability=self.config.task_config.feature_probability,
            device="cpu",
            data_generation_type=self.config.task_config.data_generation_type,
            value_range=(-1.0, 1.0) if self.target_name == "resid_mlp1" else (0.0, 1.0),
        )
        return lambda: dataset.generate_batch(self.config.batch_size)

    def _reference_model(self) -> nn.Module:
        config, target = self.config, self.target
        if self.target_name == "resid_mlp1":
            from spd.experiments.resid_mlp.models import ResidualMLPSPDConfig, ResidualMLPSPDModel

            sizes = target.config.model_dump(exclude={"init_scale"})
            scale = config.task_config.init_scale
            model = ResidualMLPSPDModel(ResidualMLPSPDConfig(**sizes, init_scale=scale, C=config.C, m=config.m))
            for name in ("W_E", "W_U"):
                own = getattr(model, name)
                own.data.copy_(getattr(target, name).data)
                own.requires_grad = False
            return model
        from spd.experiments.tms.models import TMSSPDModel, TMSSPDModelConfig

        bias = config.task_config.bias_val
        model = TMSSPDModel(
            TMSSPDModelConfig(**target.config.model_dump(mode="json"), C=config.C, m=config.m, bias_val=bias)
        )
        model.b_final.data.copy_(target.b_final.data)
        model.b_final.requires_grad = config.task_config.train_bias
        return model

    def terms(self) -> dict[str, tuple[float, float]]:
        """Loss terms (reference, ours in its units) of the first instance: same parameters, batch and attributions."""
        rows, method = self.ours.inputs[: self.config.batch_size], self.ours.method
        assert isinstance(method, APD)
        model = self._reference_model()
        theirs = self._reference_terms(model, rows)
        _copy_parameters(model, method)
        x = rows.repeat(self.instances, 1)
        with torch.no_grad():
            clean = method.model.masked_forward(x, {})
        exact = method.config.model_copy(update={"attribution_mode": "backward"})
        batch = Batch(x=x, clean=clean, generator=torch.Generator().manual_seed(0), progress=0.0)
        with patch.object(method, "config", exact), patch.object(method, "_spectrum", lambda index: 1.0):
            mine = {name: value.detach()[0].item() for name, value in method.losses(batch).items()}
        weights = [method.model.weight(i) for i in range(len(method.model.sites))]
        parameters = sum(w.numel() for w in weights)
        mean_square = sum(float(w.square().sum()) for w in weights) / parameters
        variance = method.statistics.metric.variance / (clean.output.shape[-1] / 2 + 1)
        return {
            "faithfulness": (theirs["param_match"], mine["faithfulness"] * mean_square),
            "minimality": (theirs["recon"], mine["minimality"] * variance),
            "simplicity": (theirs["schatten"], mine["simplicity"] * len(weights) / parameters),
        }

    def _reference_terms(self, model: nn.Module, rows: Tensor) -> dict[str, float]:
        """The terms of the first step of the reference's own loop, every instance on `rows`."""
        import spd.run_spd as loop

        seen: dict[str, float] = {}

        def recorded(name: str) -> Any:
            original = getattr(loop, f"calc_{name}_loss" if name != "recon" else "calc_recon_mse")

            def call(*args: Any, **kwargs: Any) -> Tensor:
                value: Tensor = original(*args, **kwargs)
                seen[name] = value.detach().flatten()[0].item()  # the last call wins: recon of the active components
                return value

            return call

        shared = rows[:, None].expand(-1, self.instances, -1)
        loader = ClockedLoader(lambda: (shared, shared), 1, BEFORE - 1)
        with (
            patch.object(loop, "calc_param_match_loss", recorded("param_match")),
            patch.object(loop, "calc_schatten_loss", recorded("schatten")),
            patch.object(loop, "calc_recon_mse", recorded("recon")),
            patch.object(torch.optim.AdamW, "step", lambda *_: None),
        ):
            loader.run(lambda: loop.optimize(model, self.config, "cpu", loader, self.target, self._parameter_names()))
        return seen


def _reference_rank(target: str) -> int:
    """The published m: the reference's own default where its config has none."""
    return {"5-2": 3, "40-10": 11, "resid_mlp1": 50}[target]


def _reference_target(target: str, instances: int) -> nn.Module:
    if target == "resid_mlp1":
        from spd.experiments.resid_mlp.models import ResidualMLPConfig, ResidualMLPModel

        sizes = {"n_instances": instances, "n_features": 100, "d_embed": 1000, "d_mlp": 50, "n_layers": 1}
        flags = {"apply_output_act_fn": False, "in_bias": False, "out_bias": False}
        return ResidualMLPModel(ResidualMLPConfig(**sizes, **flags, act_fn_name="relu")).eval()
    from spd.experiments.tms.models import TMSModel, TMSModelConfig

    features, hidden = (int(size) for size in target.split("-"))
    config = TMSModelConfig(
        n_instances=instances, n_features=features, n_hidden=hidden, n_hidden_layers=0, device="cpu"
    )
    return TMSModel(config).eval()


def _repeat_first_instance(target: nn.Module) -> None:
    """One network in every instance, as ours decomposes one."""
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())


def _our_target(name: str, reference: Any) -> nn.Module:
    """The same network as a target of ours, with the reference's weights."""
    with torch.no_grad():
        if name == "resid_mlp1":
            residual = residual_mlp.build(features=100, neurons=50, residual=1000)
            reference.W_E.copy_(residual.embedding[None])
            reference.W_U.copy_(residual.embedding.T[None])
            for site in ("mlp_in", "mlp_out"):
                weight = getattr(reference.layers[0], site).weight[0]
                residual.get_submodule(f"layers.0.{site}").weight.copy_(weight.T)  # type: ignore[union-attr,operator]
            return residual
        target = superposition.build(*(int(size) for size in name.split("-")))
        target.linear1.weight.copy_(reference.linear1.weight[0].T)  # type: ignore[union-attr,operator]
        target.linear2.weight.copy_(reference.linear2.weight[0].T)  # type: ignore[union-attr,operator]
        target.linear2.bias.copy_(reference.b_final[0])  # type: ignore[union-attr,operator]
    return target


def _copy_parameters(model: nn.Module, method: APD) -> None:
    """Components of the reference's model into ours; a tied site's factors are those of the other, transposed."""
    with torch.no_grad():
        for i, site in enumerate(method.model.sites):
            own: Any = model.get_submodule(site.name)
            method.model.V[i].copy_(own.A.permute(0, 2, 1, 3).flatten(2))
            method.model.U[i].copy_(own.B.flatten(1, 2))
