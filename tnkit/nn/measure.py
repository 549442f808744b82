"""Measure: a model's time, outputs and score, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.batches import evaluating, output_tensors, run_batch
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.surgery import n_bytes, n_params
from tnkit.nn.timing import measure_ms

__all__ = ["Before", "EvalFn", "model_ms", "score_of"]

EvalFn: TypeAlias = Callable[[nn.Module], float]


def score_of(eval_fn: EvalFn, model: nn.Module) -> float:
    """The value of `eval_fn`, with the model in eval mode and without gradients.

    Raises:
        OptionError: it is no number.
    """
    with evaluating(model):
        value = eval_fn(model)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(
            f"compress: eval_fn gave a {type(value).__name__}. It must give one number, higher for better."
        ) from None


def model_ms(model: nn.Module, batch: Any) -> float:
    """Median milliseconds of the model on a batch, in eval mode."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        return measure_ms(lambda: run_batch(model, batch, "compress"), device, runs=5, time_limit_s=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What must be measured before a model may change.

    Attributes:
        params: of the whole model.
        bytes: of the whole model.
        batch: the example batch, or None.
        ms: time of the example batch, or None.
        outputs: of the example batch, float64.
    """

    params: int
    bytes: int
    batch: Any
    ms: float | None
    outputs: tuple[Tensor, ...]

    @staticmethod
    def of(model: nn.Module, batch: Any) -> Before:
        """Measure; with `batch` None only sizes."""
        size, storage = n_params(model), n_bytes(model)
        if batch is None:
            return Before(size, storage, None, None, ())
        return Before(size, storage, batch, model_ms(model, batch), _outputs(model, batch))

    def report(self, made: nn.Module, layers: Sequence[LayerReport], scope: int, notes: Sequence[str]) -> ModelReport:
        """The report on the model that was made.

        Args:
            made: the compressed model.
            layers: reports; the first `scope` of them are of the layers in scope.
            scope: how many.
            notes: for the report.
        """
        timed = self.batch is not None
        return ModelReport(
            layers=tuple(layers),
            params_before=self.params,
            params_after=n_params(made),
            scope_params_before=sum(r.params_before for r in layers[:scope]),
            scope_params_after=sum(r.params_after for r in layers[:scope]),
            bytes_before=self.bytes,
            bytes_after=n_bytes(made),
            ms_before=self.ms,
            ms_after=model_ms(made, self.batch) if timed else None,
            output_error=_output_error(self.outputs, _outputs(made, self.batch)) if timed else None,
            notes=tuple(notes),
            n_scope=scope,
        )


def _outputs(model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
    with evaluating(model):
        return tuple(t.detach().double() for t in output_tensors(run_batch(model, batch, "compress")))


def _output_error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    if not before or [t.shape for t in before] != [t.shape for t in after]:
        return None
    wrong = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    energy = sum(float(b.square().sum()) for b in before)
    return float((wrong / energy) ** 0.5) if energy > 0 else None
