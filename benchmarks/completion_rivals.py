"""Other libraries' ways to fill an array: each takes values (0 where hidden) and a mask, and gives the whole array.

They are used as their documentation shows, at the ranks that the names tell. Data is brought to mean square 1 for those
that fit, since some have absolute tolerances.
"""

import contextlib
import io
from collections.abc import Callable
from importlib import util
from math import prod

import numpy as np
import torch

Array = np.ndarray
Filler = Callable[[Array, Array], Array]


def installed(**fillers: tuple[str, Filler]) -> dict[str, Filler]:
    """Those whose package is there."""
    return {who.replace("_", " "): fill for who, (package, fill) in fillers.items() if util.find_spec(package)}


def biharmonic(x: Array, mask: Array) -> Array:
    """Scikit-image's inpainting; each channel by itself, since channels may be observed apart."""
    from skimage.restoration import inpaint_biharmonic

    planes = [inpaint_biharmonic(x[..., c], ~mask[..., c]) for c in range(x.shape[2])]
    return np.stack(planes, -1)


def scaled(fit: Filler) -> Filler:
    """The same on data of mean square 1."""

    def fill(x: Array, mask: Array) -> Array:
        scale = float(np.sqrt(np.mean(x[mask] ** 2))) or 1.0
        return fit(x / scale, mask) * scale

    return fill


def masked_cp(rank: int) -> Filler:
    """tensorly's CP with a mask."""

    def fill(x: Array, mask: Array) -> Array:
        from tensorly import cp_to_tensor
        from tensorly.decomposition import parafac

        start = np.where(mask, x, x[mask].mean())
        cp = parafac(start, rank, mask=mask, init="random", random_state=0, n_iter_max=100, tol=1e-6)
        return np.asarray(cp_to_tensor(cp))

    return scaled(fill)


def masked_tucker(rank: int) -> Filler:
    """tensorly's Tucker with a mask, which it takes as numbers."""

    def fill(x: Array, mask: Array) -> Array:
        from tensorly import tucker_to_tensor
        from tensorly.decomposition import tucker

        start = np.where(mask, x, x[mask].mean())
        ranks = [min(rank, n, prod(x.shape) // n) for n in x.shape]
        found = tucker(start, ranks, mask=mask.astype(x.dtype), init="random", random_state=0, n_iter_max=100, tol=1e-6)
        return np.asarray(tucker_to_tensor(found))

    return scaled(fill)


def train_als(rank: int) -> Filler:
    """tntorch's tensor train by least squares on the entries."""

    def fill(x: Array, mask: Array) -> Array:
        import tntorch

        places = torch.from_numpy(np.argwhere(mask))
        values = torch.from_numpy(x[mask])
        torch.manual_seed(0)
        ranks = [min(rank, prod(x.shape[:k]), prod(x.shape[k:])) for k in range(1, x.ndim)]
        found = tntorch.als_completion(
            places, values, torch.tensor(ranks), shape=list(x.shape), niter=20, verbose=False
        )
        return found.numpy()

    return scaled(fill)


def gcp(rank: int) -> Filler:
    """pyttb's generalised CP with a mask and Gaussian loss, by L-BFGS-B."""

    def fill(x: Array, mask: Array) -> Array:
        import pyttb
        from pyttb.gcp.fg_setup import Objectives
        from pyttb.gcp.optimizers import LBFGSB

        np.random.seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            found, *_ = pyttb.gcp_opt(
                pyttb.tensor(x.copy()),
                rank,
                Objectives.GAUSSIAN,
                LBFGSB(maxiter=200),
                mask=mask.astype(float),
                printitn=0,
            )
        return np.asarray(found.full().data)

    return scaled(fill)


def means(x: Array, mask: Array) -> Array:
    """The mean of what is observed: what there is without any method."""
    return np.full(x.shape, x[mask].mean())


def nearest(x: Array, mask: Array) -> Array:
    """Scikit-learn's nearest neighbours, on rows × the rest."""
    from sklearn.impute import KNNImputer

    return imputed(KNNImputer(keep_empty_features=True), x, mask)


def iterative(x: Array, mask: Array) -> Array:
    """Scikit-learn's chained regressions, on rows × the rest."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    imputer = IterativeImputer(max_iter=3, n_nearest_features=20, keep_empty_features=True, random_state=0)
    return imputed(imputer, x, mask)


def imputed(imputer: object, x: Array, mask: Array) -> Array:
    """Rows are samples, everything else features."""
    flat = np.where(mask, x, np.nan).reshape(x.shape[0], -1)
    filled: Array = imputer.fit_transform(flat).reshape(x.shape)  # type: ignore[attr-defined]
    return filled


def of_panels() -> dict[str, Filler]:
    """For arrays that are no pictures."""
    return {"mean": means} | installed(
        tensorly_masked_CP_3=("tensorly", masked_cp(3)),
        tensorly_masked_CP_8=("tensorly", masked_cp(8)),
        tensorly_masked_Tucker_3=("tensorly", masked_tucker(3)),
        tntorch_TT_3=("tntorch", train_als(3)),
        pyttb_GCP_3=("pyttb", gcp(3)),
        pyttb_GCP_8=("pyttb", gcp(8)),
        scikit_learn_iterative=("sklearn", iterative),
        scikit_learn_KNN=("sklearn", nearest),
    )


def of_pictures() -> dict[str, Filler]:
    """For photographs."""
    return installed(
        scikit_image_biharmonic=("skimage", biharmonic),
        tensorly_masked_CP_16=("tensorly", masked_cp(16)),
        tensorly_masked_Tucker_16=("tensorly", masked_tucker(16)),
        scikit_learn_KNN=("sklearn", nearest),
    )
