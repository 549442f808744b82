"""scikit-learn: an estimator that fills in missing values by a low-rank tensor.

Example:
    >>> import numpy as np
    >>> from tnkit.interop.sklearn import TensorCompleter
    >>> x = np.outer(np.arange(1.0, 21.0), np.arange(1.0, 11.0))
    >>> x[3, 4] = np.nan
    >>> round(float(TensorCompleter(rank=1).fit_transform(x)[3, 4]), 4)
    20.0
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tnkit.completion import complete
from tnkit.errors import MissingExtraError, OptionError, ShapeError

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError(
        "scikit-learn 1.6 or newer is not installed. Install it with: pip install 'tnkit[interop]'."
    ) from error

__all__ = ["TensorCompleter"]

Array = np.ndarray[Any, Any]
#: The noise is not taken to be smaller than this share of the size of the data.
FLOOR = 1e-7
#: Share of the observed entries that `score` hides.
HIDDEN = 0.1


class TensorCompleter(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Missing values (NaN) by a low-rank matrix or tensor, as a scikit-learn transformer.

    `fit` completes the array it is given by `tnkit.completion.complete` and keeps what its samples have in common: an
    orthonormal basis of the slices of the first mode. `transform` finds, for each sample by itself, the mean a
    posteriori of its coefficients in that basis from the entries that are observed; so new samples can be filled in,
    and a sample's answer does not depend on the others beside it. Observed entries come back as they were.

    Args:
        format: of the tensor: a name, a spec or an equation of tnkit, or "auto".
        rank: as in `tnkit.completion.complete`; "auto" takes the one with the least error on held-out entries.
        method: a completion method that fits a format ("als", "robust", or a config), or "auto".
        feature_shape: the modes into which the features of a sample are folded, such as (24, 7) for 168 features;
            None takes them as they are. With X of more than two modes leave it out.
        time_limit_s: seconds for `fit`; the best until then counts.
        random_state: seed of the random numbers, or a RandomState.

    Attributes:
        tensor_: the format that was fitted to the array that `fit` saw.
        status_: how the fit ended.
        components_: (r, features) orthonormal rows.
        mean_coef_: (r,) mean of the coefficients of the samples.
        noise_: the standard deviation of an entry about the fit.
        heldout_error_: relative error on entries that were held out in `fit`, or None.
        n_iter_: steps of the fit.
        n_features_in_: size of the second mode of X.

    Raises:
        ValueError: infinite values, nothing observed, or an X whose features are not those of `fit` (some of them are
            also errors of tnkit, which say what to do).

    Example:
        >>> from sklearn.model_selection import GridSearchCV
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 12))
        >>> x[rng.random(x.shape) < 0.3] = np.nan
        >>> search = GridSearchCV(TensorCompleter("lowrank"), {"rank": [1, 2]}, cv=3).fit(x)
        >>> search.best_params_
        {'rank': 2}
    """

    def __init__(
        self,
        format: Any = "auto",
        rank: Any = "auto",
        *,
        method: Any = "als",
        feature_shape: tuple[int, ...] | None = None,
        time_limit_s: float | None = None,
        random_state: Any = 0,
    ) -> None:
        self.format = format
        self.rank = rank
        self.method = method
        self.feature_shape = feature_shape
        self.time_limit_s = time_limit_s
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> TensorCompleter:
        """Complete X and learn what its samples have in common.

        Args:
            X: (samples, features) or (samples, …), NaN where missing.
            y: not looked at.
        """
        x = self._checked(X, reset=True)
        self.feature_shape_ = x.shape[1:]
        folded = x.reshape(len(x), *self._fold(prod(x.shape[1:])))
        done = complete(
            folded,
            self._format(folded.ndim),
            rank=self.rank,
            method=self.method,
            time_limit_s=self.time_limit_s,
            rng=_seed(self.random_state),
        )
        if done.tensor is None:
            raise OptionError(
                f"TensorCompleter(method={self.method!r}): that method fits no format, so nothing can be said of new "
                'samples. Use method="als" or "robust" here, or tnkit.completion.complete for one array.'
            )
        dense = np.asarray(done.tensor).reshape(len(x), -1).astype(np.float64)
        u, s, vh = np.linalg.svd(dense, full_matrices=False)
        rank = max(1, int((s > s[0] * 1e-9).sum()))
        coef = u[:, :rank] * s[:rank]
        seen = ~np.isnan(folded)
        size = float(np.sqrt(np.mean(np.square(folded[seen], dtype=np.float64))))
        left = done.train_error if done.heldout_error is None else done.heldout_error
        self.tensor_ = done.tensor.detach()
        self.status_ = done.status
        self.components_ = vh[:rank]
        self.mean_coef_ = coef.mean(0)
        self.noise_ = size * max(left, FLOOR)
        self._precision = np.linalg.pinv(np.cov(coef.T, bias=True).reshape(rank, rank) + np.eye(rank) * self.noise_**2)
        self.heldout_error_ = done.heldout_error
        self.n_iter_ = max(1, len(done.history))
        return self

    def transform(self, X: Any) -> Array:
        """X with the missing entries filled in; what is observed comes back as it was.

        Args:
            X: (samples, features) or (samples, …) as in `fit`, NaN where missing. A sample of which nothing is
                observed becomes the mean of the samples of `fit`.
        """
        check_is_fitted(self)
        x = self._checked(X, reset=False)
        if x.shape[1:] != self.feature_shape_:
            raise ShapeError(f"X has samples of shape {x.shape[1:]}, but fit saw {self.feature_shape_}.")
        return self._filled(x)

    def score(self, X: Any, y: Any = None) -> float:
        """R² on a tenth of the observed entries of X, which are hidden for it; 1 is best.

        Args:
            X: as in `transform`.
            y: not looked at.
        """
        check_is_fitted(self)
        x = self._checked(X, reset=False)
        seen = ~np.isnan(x)
        hidden = seen & (np.random.default_rng(0).random(x.shape) < HIDDEN)
        if not hidden.any():
            hidden = seen
        truth = x[hidden].astype(np.float64)
        missed = truth - self._filled(np.where(hidden, np.nan, x))[hidden]
        spread = float(np.square(truth - truth.mean()).sum())
        return 1.0 - float(np.square(missed).sum()) / (spread if spread > 0 else 1.0)

    def _filled(self, x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        filled = flat.copy()
        prior, basis = self._precision * self.noise_**2, self.components_
        for i in np.flatnonzero(np.isnan(flat).any(1)):
            seen = ~np.isnan(flat[i])
            b = basis[:, seen]
            known = flat[i, seen].astype(np.float64)
            change = np.linalg.lstsq(b @ b.T + prior, b @ (known - self.mean_coef_ @ b), rcond=None)[0]
            filled[i, ~seen] = (self.mean_coef_ + change) @ basis[:, ~seen]
        return filled.reshape(x.shape)

    def _checked(self, X: Any, reset: bool) -> Array:
        checked: Array = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            allow_nd=True,
        )
        return checked

    def _fold(self, n_features: int) -> tuple[int, ...]:
        shape = tuple(self.feature_shape_) if self.feature_shape is None else tuple(self.feature_shape)
        if prod(shape) != n_features:
            raise ShapeError(
                f"TensorCompleter(feature_shape={shape}) folds {prod(shape)} features, but X has {n_features}. "
                "Give sizes whose product is the number of features, or leave feature_shape out."
            )
        return shape

    def _format(self, ndim: int) -> Any:
        """With a rank but no format: a matrix of low rank, and CP for more modes."""
        if isinstance(self.format, str) and self.format == "auto" and not isinstance(self.rank, str):
            return "lowrank" if ndim == 2 else "cp"
        return self.format

    def __sklearn_tags__(self) -> Any:
        """What the estimator takes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _seed(random_state: Any) -> int | None:
    if random_state is None:
        return None
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
