"""Predictions of the test set -> metrics, intervals, comparisons. Light: nothing here imports TensorFlow or MLflow."""
