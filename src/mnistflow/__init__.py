"""mnistflow: a reproducible, tracked image-classification workflow. The pipeline is in dvc.yaml."""
