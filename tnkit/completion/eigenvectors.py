"""Leading eigenvectors of a large symmetric sparse matrix by the Lanczos iteration with full orthogonalisation.

Reference: Golub, Van Loan 2013, Matrix Computations, §10.1.

Example:
    >>> import numpy as np
    >>> import scipy
    >>> matrix = scipy.sparse.diags_array(np.arange(300.0)).tocsr()
    >>> np.abs(leading_eigenvectors(matrix, 2, np.random.default_rng(0).normal(size=300))).argmax(0).tolist()
    [299, 298]
"""

from __future__ import annotations

import numpy as np
import scipy

__all__ = ["leading_eigenvectors"]

#: Up to this size the matrix is made dense.
DENSE = 200


def leading_eigenvectors(matrix: scipy.sparse.csr_array, k: int, start: np.ndarray) -> np.ndarray:
    """(n, k') eigenvectors of the largest eigenvalues, largest first; k' = min(k, n), fewer in an invariant subspace.

    Args:
        matrix: (n, n) symmetric.
        k: how many.
        start: (n,) where the iteration begins; it should have a part along each.

    Cost:
        m products with the matrix and m² n multiplications, m = max(120, 6 k + 40).
    """
    n = matrix.shape[0]
    if n <= DENSE:
        return np.linalg.eigh(matrix.toarray())[1][:, ::-1][:, :k]
    m = min(n, max(120, 6 * k + 40))
    basis = np.zeros((n, m))
    diagonal, beside = np.zeros(m), np.zeros(m)
    vector = start / np.linalg.norm(start)
    steps = m
    for j in range(m):
        basis[:, j] = vector
        image = matrix @ vector
        diagonal[j] = vector @ image
        for _ in range(2):
            image = image - basis[:, : j + 1] @ (basis[:, : j + 1].T @ image)
        beside[j] = np.linalg.norm(image)
        if beside[j] <= 1e-12 * max(1e-300, np.abs(diagonal).max(), beside.max()):
            steps = j + 1
            break
        vector = image / beside[j]
    small = np.diag(diagonal[:steps]) + np.diag(beside[: steps - 1], 1) + np.diag(beside[: steps - 1], -1)
    found: np.ndarray = basis[:, :steps] @ np.linalg.eigh(small)[1][:, ::-1][:, :k]
    return found
