import numpy as np
import pytest
import tensorflow as tf
from sklearn.cluster import KMeans

from kopt.cluster import assignment, centroids

RNG = np.random.default_rng(1)
VALUES = np.sort(RNG.normal(size=200))


def test_linear_and_density_and_random():
    np.testing.assert_allclose(centroids.linear(np.array([-1.0, 0.0, 3.0]), 5, RNG), [-1, 0, 1, 2, 3])
    # A quarter and three quarters of the way through 0, 1, ..., 10.
    np.testing.assert_allclose(centroids.density(np.arange(11.0), 2, RNG), [2.5, 7.5])
    drawn = centroids.at_random(VALUES, 50, RNG)
    assert (np.diff(drawn) >= 0).all()
    assert VALUES[0] <= drawn[0] <= drawn[-1] <= VALUES[-1]


def test_k_means_plus_plus_takes_distant_values():
    values = np.array([0.0, 0.001, 0.002, 10.0, 10.001, 20.0])
    found = centroids.k_means_plus_plus(values, 3, np.random.default_rng(0))
    assert [round(value, -1) for value in found] == [0, 10, 20]
    np.testing.assert_array_equal(centroids.k_means_plus_plus(np.ones(5), 3, RNG), [1, 1, 1])


def test_k_means_ends_where_that_of_scikit_learn_does():
    first = centroids.linear(VALUES, 6, RNG)
    expected = KMeans(6, init=first[:, None], n_init=1, tol=0, algorithm="lloyd").fit(VALUES[:, None])
    np.testing.assert_allclose(centroids.k_means(VALUES, first), np.sort(expected.cluster_centers_[:, 0]), rtol=1e-9)


def test_a_centroid_without_values_stays():
    np.testing.assert_allclose(centroids.k_means(np.array([0.0, 2.0]), np.array([1.0, 50.0])), [1, 50])


def test_a_codebook_keeps_zero_for_zeros():
    rows = np.array([[0, 0, 1, 1, 5], [0, 0, 0, 0, 0]], np.float32)
    found = centroids.codebook(rows, 3, True, "linear", RNG, 10)
    np.testing.assert_array_equal(found, [[0, 1, 5], [0, 0, 0]])


@pytest.mark.parametrize("ordered", [True, False])
def test_nearest_is_that_of_all_distances(ordered):
    weights, books = RNG.normal(size=(3, 40)).astype("float32"), RNG.normal(size=(3, 7)).astype("float32")
    books = np.sort(books) if ordered else books
    expected = np.argmin(np.abs(weights[:, :, None] - books[:, None, :]), axis=-1)
    np.testing.assert_array_equal(assignment.nearest(tf.constant(weights), tf.constant(books)), expected)


def test_centroids_move_by_the_mean_or_sum_of_their_weights():
    books, changes = tf.constant([[1.0, 2.0, 3.0]]), tf.constant([[0.1, 0.3, 0.5, 9.0]])
    places, counted = tf.constant([[0, 0, 2, 2]]), tf.constant([[1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(assignment.moved(books, changes, places, counted, "mean"), [[1.2, 2.0, 3.5]])
    np.testing.assert_allclose(assignment.moved(books, changes, places, counted, "sum"), [[1.4, 2.0, 3.5]])
