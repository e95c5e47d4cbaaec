"""Settings of APD, and what cannot be meant by them."""

import math
from typing import Literal, Self

from pydantic import field_validator, model_validator

from madpipe.decomposition.component_attributions import Attribution, AttributionKind, AttributionMode
from madpipe.decomposition.method import MethodConfig

Selection = Literal["batch_top_k", "top_k", "lp"]


class APDConfig(MethodConfig):
    """components C and rank m; top_k: components active per input, on average over a batch.

    Coefficients and p follow the paper's resid_mlp and TMS runs (table 1), normalised: faithfulness is relative to the
    mean squared weight, simplicity to the target's own Schatten energy.

    selection: `batch_top_k`, the paper's; `top_k`, as many for each input; `lp`, no choice at all but a price of
    mean_x sum_c (A_c / sigma)^lp_exponent in place of minimality, sigma the standard deviation of the target's outputs.
    Under `lp` top_k only says how many components a new input has; null: those above 5 % of the largest attribution.
    attribution, attribution_mode, attribution_steps: component_attributions.py.
    """

    steps: int = 1500
    learning_rate: float = 3e-3
    start: Literal["random", "sparse"] = "random"
    components: int | None = 32  # None: clip(8 * largest rank of a site, 20, 256)
    rank: int = 4
    selection: Selection = "batch_top_k"
    top_k: float | None = 8.0  # None: how many components of a sparse start are of use per trusted input
    lp_exponent: float = 0.9  # of the published TMS run
    attribution: AttributionKind = "gradient"
    attribution_mode: AttributionMode = "auto"
    attribution_steps: int = 8  # points on the path of integrated_gradients
    faithfulness_coefficient: float = 1.0
    minimality_coefficient: float = 1.0
    hidden_coefficient: float = 0.1
    simplicity_coefficient: float = 0.1
    simplicity_anneal: float = 0.0  # last share of the steps, on which the simplicity coefficient falls to 0
    schatten_exponent: float = 0.9
    initial_scale: float = 0.1  # |sum of components| at the start, relative to |W|
    alive_share: float = 0.25
    alive_after: int = 100  # steps before the running frequency is trusted
    alive_decay: float = 0.98

    @property
    def how(self) -> Attribution:
        return Attribution(self.attribution, self.attribution_mode, self.attribution_steps)

    @field_validator(
        "faithfulness_coefficient", "minimality_coefficient", "hidden_coefficient", "simplicity_coefficient"
    )
    @classmethod
    def _coefficients_are_not_negative(cls, value: float) -> float:
        if not 0 <= value < math.inf:
            raise ValueError(f"should be a number of at least 0, and is {value}.")
        return value

    @field_validator("lp_exponent", "schatten_exponent", "initial_scale")
    @classmethod
    def _above_zero(cls, value: float) -> float:
        if not 0 < value < math.inf:
            raise ValueError(f"should be a number above 0, and is {value}.")
        return value

    @field_validator("alive_share", "alive_decay", "simplicity_anneal")
    @classmethod
    def _shares_are_shares(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError(f"should be a share between 0 and 1, and is {value}.")
        return value

    @field_validator("attribution_steps")
    @classmethod
    def _steps_are_positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"should be at least 1, and is {value}.")
        return value

    @field_validator("top_k")
    @classmethod
    def _some_components_are_active(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"should be a number above 0, or null, and is {value}.")
        return value

    @model_validator(mode="after")
    def _top_k_can_be_had(self) -> Self:
        if self.top_k is None:
            if self.selection == "top_k":
                raise ValueError("top_k is null, and selection: top_k needs a whole number; set it.")
            if self.selection == "batch_top_k" and self.start == "random":
                raise ValueError("top_k is null, which a random start cannot find out; set it, or start: sparse.")
            return self
        if self.selection == "top_k" and not self.top_k.is_integer():
            raise ValueError(f"top_k is {self.top_k:g}, and selection: top_k needs a whole number; round it.")
        if self.components is not None and self.top_k > self.components:
            raise ValueError(f"top_k is {self.top_k:g}, more than the {self.components} components; lower it.")
        return self

    @model_validator(mode="after")
    def _only_gradients_have_modes(self) -> Self:
        if self.attribution == "ablation" and self.attribution_mode != "auto":
            raise ValueError("attribution_mode is of gradients, and attribution is ablation; leave it out.")
        return self
