"""The background service of a storage: Ray and MLflow on this machine (`nanosweep up`)."""
