"""Results and arrays -> figures, and the lesson's pictures. Nothing here imports TensorFlow or MLflow."""
