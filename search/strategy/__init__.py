"""The choice of points and of trials that continue: sampler, stopping rule, finalists, warm start."""
