"""The record in MLflow. Nothing reads a result from it, and no output depends on it: it is on no stage's list of deps.

The only package that imports mlflow.
"""
