"""What a study shows: leaderboard, standings, cautions, tables, the exported config."""
