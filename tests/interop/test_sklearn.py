"""The scikit-learn estimator: scikit-learn's own checks, pipelines, searches, and what it fills in."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from tnkit.errors import TnkitError
from tnkit.interop.sklearn import TensorCompleter

CHECKS = list(estimator_checks_generator(TensorCompleter(rank=2)))
IDS = [getattr(check, "func", check).__name__ for _, check in CHECKS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=IDS)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def table(n=60, m=20, rank=2, share=0.6, seed=0):
    rng = np.random.default_rng(seed)
    x = 3 + rng.normal(size=(n, rank)) @ rng.normal(size=(rank, m))
    return x, np.where(rng.random(x.shape) < share, x, np.nan)


def test_exact_low_rank_comes_back_and_observed_entries_stay():
    x, holes = table()
    filled = TensorCompleter("lowrank").fit_transform(holes)
    np.testing.assert_allclose(filled, x, atol=1e-4)
    seen = ~np.isnan(holes)
    assert filled[seen].tobytes() == holes[seen].tobytes()
    assert TensorCompleter(rank=3).fit_transform(holes.astype(np.float32)).dtype == np.float32


def test_new_samples_are_filled_in():
    x, holes = table()
    model = TensorCompleter("lowrank", rank=3).fit(holes[:50])
    np.testing.assert_allclose(model.transform(holes[50:]), x[50:], atol=1e-3)
    assert model.score(holes[50:]) > 0.99
    nothing = model.transform(np.full((1, 20), np.nan))
    np.testing.assert_allclose(nothing[0], x[:50].mean(0), atol=1e-3)


def test_features_fold_into_a_tensor():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(30, 2)), rng.normal(size=(8, 2)), rng.normal(size=(6, 2))
    x = np.einsum("ir,jr,kr->ijk", a, b, c)
    holes = np.where(rng.random(x.shape) < 0.3, x, np.nan)
    folded = TensorCompleter("cp", rank=2, feature_shape=(8, 6)).fit_transform(holes.reshape(30, 48))
    np.testing.assert_allclose(folded.reshape(x.shape), x, atol=1e-4)
    np.testing.assert_allclose(TensorCompleter("cp", rank=2).fit_transform(holes), x, atol=1e-4)


def test_a_search_over_ranks_in_a_pipeline():
    _, holes = table()
    pipe = make_pipeline(StandardScaler(), TensorCompleter("lowrank"))
    search = GridSearchCV(pipe, {"tensorcompleter__rank": [1, 3]}, cv=3).fit(holes)
    assert search.best_params_ == {"tensorcompleter__rank": 3}
    assert clone(search.best_estimator_).get_params()["tensorcompleter__rank"] == 3


def test_refusals():
    _, holes = table()
    with pytest.raises(ValueError, match="infinity"):
        TensorCompleter().fit(np.where(np.isnan(holes), np.inf, holes))
    with pytest.raises(TnkitError, match="folds 12 features, but X has 20"):
        TensorCompleter(rank=1, feature_shape=(3, 4)).fit(holes)
    with pytest.raises(TnkitError, match="fits no format"):
        TensorCompleter(method="tctv").fit(holes)
    with pytest.raises(TnkitError, match="Nothing is observed"):
        TensorCompleter(rank=1).fit(np.full((5, 4), np.nan))
    with pytest.raises(ValueError, match="samples of shape"):
        TensorCompleter("cp", rank=1).fit(np.ones((5, 4, 3))).transform(np.ones((5, 4, 2)))
