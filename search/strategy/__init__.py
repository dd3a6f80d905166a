"""Which point comes next and which trial continues: sampler, ASHA, finalists, warm start."""
