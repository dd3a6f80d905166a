"""MLflow: what is sent there, what is read back, the model registry."""
