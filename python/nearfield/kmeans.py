"""k-means clustering."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _core, _inputs, kernels
from ._training import unit

__all__ = ["KMeans"]

_METRICS = ("l2", "cosine")
_BALANCED = (None, "capacity", "sinkhorn")
Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class KMeans:
    """
    k-means: centroids such that vectors are near to the nearest one.

    Every vector is assigned to the nearest centroid exactly, as a full comparison in float64 would do it, ties by lower
    number; most distances need not be computed for that. The result is the same at any number of threads.

    Parameters
    ----------
    k : int
        Number of clusters.
    metric : {"l2", "cosine"}
        "l2" minimises squared Euclidean distances. "cosine" is the same for vectors and centroids of unit length
        (``spherical``), and only ``transform`` differs. There is no k-means for inner products: the longest centroid
        would attract nearly all vectors.
    iterations : int
        How often centroids are moved, at most; it ends earlier when no vector changes its cluster any more.
    balanced : {None, "capacity", "sinkhorn"}
        Keep clusters alike in size. "capacity" lets no cluster have more than ``ceil(slack * n / k)`` vectors: where
        more are nearest to a centroid, it keeps the nearest of them, and the others go to the nearest centroid that has
        room. "sinkhorn" assigns by entropic optimal transport, which makes sizes nearly equal (less so where vectors
        lie in groups far apart), at much higher costs: all distances are computed, several times in each iteration.
    spherical : bool
        Scale vectors and centroids to unit length, whatever the metric. Vectors of zeros stay as they are.
    slack : float
        For "capacity", how much larger than the mean a cluster may be, at least 1.
    sample : int, optional
        Train on at most so many vectors per cluster, drawn evenly over the vectors; all of them are assigned at the
        end. None: train on all.
    seed : int
        What draws depend on.

    Attributes
    ----------
    cluster_centers_ : ndarray of float32, shape (k, dim)
        The centroids.
    labels_ : ndarray of int32, shape (n,)
        The cluster of each vector: the nearest centroid, unless clusters are balanced.
    inertia_ : float
        The sum of squared Euclidean distances of (scaled) vectors from the centroids of their clusters.
    n_iter_ : int
        How often centroids were moved.
    n_sampled_ : int
        How many vectors the centroids were trained on.

    Raises
    ------
    ValueError, TypeError
        If an argument is none of these.

    Notes
    -----
    Without ``init``, up to 2,048 centroids start from vectors drawn by k-means++ out of 16 vectors per cluster, which
    are spread evenly; more centroids start from evenly spread vectors. A cluster that becomes empty takes the farthest
    vector of the cluster with the largest error. Where fewer than k vectors are different, some centroids are equal.

    References
    ----------
    Lloyd, "Least squares quantization in PCM", 1982. Arthur and Vassilvitskii, "k-means++: The advantages of careful
    seeding", 2007. Cuturi, "Sinkhorn distances: Lightspeed computation of optimal transport", 2013.

    Examples
    --------
    >>> import nearfield as nf
    >>> clusters = nf.KMeans(2).fit([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    >>> clusters.inertia_
    0.5
    """

    cluster_centers_: Floats
    labels_: Labels
    inertia_: float
    n_iter_: int
    n_sampled_: int

    def __init__(
        self,
        k: int,
        metric: str = "l2",
        iterations: int = 25,
        balanced: Literal["capacity", "sinkhorn"] | None = None,
        spherical: bool = False,
        *,
        slack: float = 1.1,
        sample: int | None = 1024,
        seed: int = 0,
    ) -> None:
        self.k = _inputs.count(k, "k")
        if self.k == 0:
            raise ValueError("k: 0 given, expected at least 1")
        self.metric = _inputs.text(metric, "metric")
        if self.metric == "ip":
            raise ValueError(
                'metric: "ip" given, but inner products are no distances, and the longest centroid would attract '
                'nearly all vectors; expected "l2", or "cosine" for vectors of unit length'
            )
        if self.metric not in _METRICS:
            raise ValueError(f'metric: "{metric}" given, expected one of {", ".join(_METRICS)}')
        self.iterations = _inputs.count(iterations, "iterations")
        if balanced not in _BALANCED:
            raise ValueError(f'balanced: {balanced!r} given, expected "capacity", "sinkhorn" or None')
        self.balanced = balanced
        if not isinstance(spherical, (bool, np.bool_)):
            raise TypeError(f"spherical: {spherical!r} given, expected a bool")
        self.spherical = bool(spherical)
        self.slack = _inputs.number(slack, "slack")
        if not 1 <= self.slack < np.inf:
            raise ValueError(f"slack: {slack} given, expected a number from 1 on")
        self.sample = None if sample is None else _inputs.count(sample, "sample")
        if self.sample == 0:
            raise ValueError("sample: 0 given, expected at least 1, or None for all vectors")
        self.seed = _inputs.count(seed, "seed")

    def fit(
        self,
        X: npt.ArrayLike,  # noqa: N803
        y: object = None,
        *,
        init: npt.ArrayLike | None = None,
        threads: int | None = None,
        progress: _inputs.Progress | None = None,
    ) -> KMeans:
        """
        Find centroids.

        Parameters
        ----------
        X : array_like, shape (n, dim)
            At least ``k`` vectors.
        y : object
            Ignored; for use in scikit-learn's pipelines.
        init : array_like, shape (k, dim), optional
            Centroids to start from, such as those of an earlier fit.
        threads : int, optional
            By default all CPUs that this process may use.
        progress : callable, optional
            Called now and then with the share of the work that is done, from 0 to 1. An exception that it raises, and
            Ctrl-C, end the fit; the object then is as it was before.

        Returns
        -------
        KMeans
            The object itself.

        Raises
        ------
        ValueError, TypeError
            For fewer vectors than clusters, values that are not finite, or an ``init`` of another shape.
        """
        vectors, element = _inputs.vectors(X, "X")
        given = None
        if init is not None:
            given = np.ascontiguousarray(_inputs.to_float(*_inputs.vectors(init, "init")))
        centers, labels, inertia, iterations, sampled = _core.kmeans(
            vectors,
            element,
            self.k,
            self.iterations,
            self._scaled,
            self.balanced or "",
            self.slack,
            self.seed,
            self.sample or 0,
            given,
            _inputs.threads(threads),
            _inputs.progress(progress),
        )
        self.cluster_centers_, self.labels_ = centers, labels.view(np.int32)
        self.inertia_, self.n_iter_, self.n_sampled_ = inertia, iterations, sampled
        return self

    def predict(self, X: npt.ArrayLike, *, threads: int | None = None) -> Labels:  # noqa: N803
        """
        Find the nearest centroid of each vector.

        Parameters
        ----------
        X : array_like, shape (n, dim) or (dim,)
        threads : int, optional
            By default all CPUs that this process may use.

        Returns
        -------
        ndarray of int32, shape (n,)
            Clusters. What ``balanced`` says does not matter here.

        Raises
        ------
        AttributeError
            Before ``fit``.
        ValueError, TypeError
            For vectors of another dimension, or values that are not finite.
        """
        centroids = _core.Centroids(self._centers())
        labels, _ = centroids.assign(*_inputs.vectors(X, "X"), self._scaled, _inputs.threads(threads))
        return labels.view(np.int32)

    def transform(self, X: npt.ArrayLike, *, threads: int | None = None) -> Floats:  # noqa: N803
        """
        Compute the distances to all centroids.

        Parameters
        ----------
        X : array_like, shape (n, dim) or (dim,)
        threads : int, optional
            By default all CPUs that this process may use.

        Returns
        -------
        ndarray of float32, shape (n, k)
            Euclidean distances, of vectors of unit length if ``spherical``; under cosine 1 - cosine similarity.

        Raises
        ------
        AttributeError
            Before ``fit``.
        ValueError, TypeError
            For vectors of another dimension, or values that are not finite.
        """
        centers = self._centers()
        if self.metric == "cosine":
            return 1 - kernels.scores(X, centers, "cosine", threads=threads)
        vectors = unit(_inputs.to_float(*_inputs.vectors(X, "X")).astype(np.float64)) if self.spherical else X
        return kernels.scores(vectors, centers, "l2", threads=threads)

    def fit_predict(self, X: npt.ArrayLike, y: object = None, **options: Any) -> Labels:  # noqa: N803
        """
        Find centroids and return the cluster of each vector.

        Parameters
        ----------
        X : array_like, shape (n, dim)
        y : object
            Ignored.
        **options
            As for `fit`.

        Returns
        -------
        ndarray of int32, shape (n,)
            ``labels_``.
        """
        return self.fit(X, **options).labels_

    def __repr__(self) -> str:
        options = f"metric={self.metric!r}, iterations={self.iterations}"
        if self.balanced is not None:
            options += f", balanced={self.balanced!r}"
        return f"KMeans({self.k}, {options})"

    @property
    def _scaled(self) -> bool:
        return self.spherical or self.metric == "cosine"

    def _centers(self) -> Floats:
        if not hasattr(self, "cluster_centers_"):
            raise AttributeError("this KMeans has no clusters yet: call fit first")
        return np.ascontiguousarray(self.cluster_centers_, np.float32)
