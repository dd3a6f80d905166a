"""The search spec: its classes, its search space, its checks and its JSON Schema."""
