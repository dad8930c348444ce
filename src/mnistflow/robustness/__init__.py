"""How a model's accuracy falls when the test images get harder to read. Nothing here imports TensorFlow or MLflow."""
