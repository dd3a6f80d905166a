"""Which point comes next and which trial continues: sampler, stopping rule, finalists, warm start."""
