"""What a researcher writes: the spec, its space, its checks and its JSON Schema."""
