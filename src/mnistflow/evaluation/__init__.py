"""Metrics, comparisons and robustness, from predictions of the test set. Nothing here imports TensorFlow or MLflow."""
