"""The search: spec, samplers, schedulers, journal, leaderboard, and the nanosweep command."""
