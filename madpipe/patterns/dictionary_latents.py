"""Latents of a sparse autoencoder trained on trusted activations: those never active on trusted data, and its error.

The count of novel latents is the field's "SAE l0". Top-k autoencoders: Gao, la Tour, Tillman, Goh, Troll, Radford,
Sutskever, Leike, Wu (2024). Ours are small: activations of a few hundred trusted inputs do not feed a large one.
"""

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.gram_matrices import units_by_position
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns

BATCH = 128  # positions of inputs
SMALLEST, LARGEST = 64, 256  # latents of a site
SMALLEST_ACTIVATION = 1e-6  # of the trusted standard deviation: what is less may come or go with the batch
PARTS = ("shift", "scale", "encoder", "threshold", "decoder", "seen")


class DictionaryLatentsConfig(ExtractorConfig):
    """expansion: latents per unit of a site. active: latents that may be on at one position of one input."""

    expansion: float = 4.0
    active: int = 8
    steps: int = 1000
    learning_rate: float = 1e-3

    @field_validator("expansion", "active", "learning_rate")
    @classmethod
    def _is_positive(cls, value: float) -> float:
        if not value > 0:
            raise ValueError(f"should be above 0, and is {value}.")
        return value


class DictionaryLatents(Extractor):
    """Features over all hidden sites, higher = more suspicious; at a site, a latent is on if it is at any position.

    novel_count: latents on that were on for no trusted fit row. novel_mass: the sum of their largest activations.
    error: squared reconstruction error over the trusted variance, mean over units, positions and sites.
    """

    Config = DictionaryLatentsConfig
    name = "dictionary_latents"
    fitted_rows = "validation"
    passes = 1.0
    config: DictionaryLatentsConfig

    def fit(self, observations: Iterable[Observation]) -> None:
        seen = list(observations)
        for number, name in enumerate(self._sites()):
            units = torch.cat([self._units(observation, name) for observation in seen])  # [N, P, d]
            self.tensors |= {f"{name}.{part}": value for part, value in self._trained(units, number).items()}

    def extract(self, observation: Observation) -> Patterns:
        columns = [self._novelty(name, self._units(observation, name)) for name in self._sites()]
        counts, masses, errors = (torch.stack(column) for column in zip(*columns, strict=True))
        values = torch.stack([counts.sum(0), masses.sum(0), errors.mean(0)], 1).double().cpu().numpy()
        return Patterns(np.ascontiguousarray(values), ("novel_count", "novel_mass", "error"), ("",) * 3)

    def _sites(self) -> list[str]:
        return self.method.hidden_sites() or [self.method.model.sites[-1].name]

    def _units(self, observation: Observation, name: str) -> Tensor:
        """[B, P, d]."""
        kind = next(site.kind for site in self.method.model.sites if site.name == name)
        return units_by_position(observation.clean.site_inputs[name][0], kind).mT

    def _trained(self, units: Tensor, number: int) -> dict[str, Tensor]:
        rows = units.flatten(0, 1)
        shift = rows.mean(0)
        scale = (rows - shift).square().mean().sqrt().clamp(min=1e-6)
        latents = int(min(max(self.config.expansion * rows.shape[1], SMALLEST), LARGEST))
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        with torch.enable_grad():
            learned = fit_autoencoder(((rows - shift) / scale).float().detach(), latents, self.config, generator)
        kept = {"shift": shift, "scale": scale, **{part: value.to(rows) for part, value in learned.items()}}
        on = latent_activations((units - shift) / scale, kept["encoder"], kept["threshold"], self.config.active)
        return kept | {"seen": (on > SMALLEST_ACTIVATION).flatten(0, 1).any(0).to(rows)}

    def _novelty(self, name: str, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """novel_count, novel_mass and error of one site, each [B]."""
        shift, scale, encoder, threshold, decoder, seen = (self.tensors[f"{name}.{part}"] for part in PARTS)
        rows = (units - shift) / scale
        on = latent_activations(rows, encoder, threshold, self.config.active)
        novel = on.amax(1) * (1 - seen)
        return (novel > SMALLEST_ACTIVATION).sum(1).to(rows), novel.sum(1), (rows - on @ decoder).square().mean((1, 2))


def latent_activations(rows: Tensor, encoder: Tensor, threshold: Tensor, active: int) -> Tensor:
    """[..., d] -> [..., L]: ReLU(x encoder - threshold), all but the `active` largest at zero."""
    before = torch.relu(rows @ encoder - threshold)
    largest = before.topk(min(active, before.shape[-1]), dim=-1)
    return torch.zeros_like(before).scatter(-1, largest.indices, largest.values)


def fit_autoencoder(
    rows: Tensor, latents: int, config: DictionaryLatentsConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """encoder [d, L], threshold [L] and decoder [L, d] of unit rows, by Adam on the squared error of x [n, d]."""
    decoder = torch.nn.functional.normalize(torch.randn(latents, rows.shape[1], generator=generator), dim=1).to(rows)
    encoder, threshold = decoder.mT.contiguous(), rows.new_zeros(latents)
    parameters = [part.clone().requires_grad_() for part in (encoder, threshold, decoder)]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    for _ in range(config.steps):
        x = rows[torch.randint(len(rows), (BATCH,), generator=generator).to(rows.device)]
        on = latent_activations(x, parameters[0], parameters[1], config.active)
        loss = (x - on @ parameters[2]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            parameters[2].copy_(torch.nn.functional.normalize(parameters[2], dim=1))
    return dict(zip(("encoder", "threshold", "decoder"), (part.detach() for part in parameters), strict=True))
