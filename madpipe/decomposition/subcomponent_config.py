"""Settings that SPD and VPD share, and those that each of the decompositions trained side by side has of its own."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from madpipe.decomposition.causal_importance import ImportanceFunction
from madpipe.decomposition.method import MethodConfig

Start = Literal["zero", "weights", "sparse"]


class Variant(BaseModel):
    """One of the decompositions trained side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hidden_coefficient: float = 0.0  # match hidden activations too, not outputs alone
    distance_coefficient: float = 1.0  # match raw outputs too, not the distribution they stand for alone
    parsimony_coefficient: float | None = None  # None: that of the method
    importance_coefficient: float | None = None  # None: that of the method


class SubcomponentConfig(MethodConfig):
    """Defaults are those of SPD, measured on the Boolean and digits tasks (docs/detection.md)."""

    components: int | None = None  # slots per site; None: clip(2 * rank, 32, 128), clip(8 * rank, 20, 256) if sparse
    start: Start = "weights"  # see subcomponent_starts.py
    parsimony_coefficient: float = 1.0
    faithfulness_coefficient: float = 0.0  # on |W - sum|^2 / |W|^2
    faithfulness_warmup: int = 0  # first steps, on faithfulness alone
    importance_coefficient: float | Literal["auto"] = 1e-3  # nats per active slot and input; auto: see sparsity.py
    target_divergence: float | None = Field(default=None, gt=0)  # of auto, nats per input; None: SHARE of all slots'
    importance_penalty: Literal["lp", "smooth_l0"] = "lp"
    importance_exponent: tuple[float, float] = (2.0, 0.5)  # p of lp at the start and at the end of training
    importance_width: tuple[float, float] = (1.0, 0.01)  # width of smooth_l0 at the start and at the end
    importance_function: ImportanceFunction = "site"
    importance_warmup: int = 0  # steps, after those of faithfulness, in which slots stay: a good start is not spoilt
    importance_hidden: int = 64  # units of each importance function; 16 a slot in SPD
    importance_clip: float | None = Field(
        default=None, gt=0
    )  # largest gradient norm of an instance's importance functions
    frequency_coefficient: float = 0.0  # against unrelated mechanisms in one slot (VPD)
    frequency_scale: float = 100.0
    alive_decay: float = 0.8  # per batch with importances, of the running maximum of each slot's importance
    alive_after: int = 100  # steps before the running maximum is trusted
    alive_threshold: float = 0.1
    variants: tuple[Variant, ...]
