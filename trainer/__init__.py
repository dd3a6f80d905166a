"""The training engine: one config, one model, one loop. No Ray, no Optuna, no MLflow."""
