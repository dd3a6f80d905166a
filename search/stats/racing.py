"""Which finalists run another round: those that may still be the best. Pure.

First place is what the race is for: it ends when one is clearly ahead, whatever the order behind it. A finalist
leaves when its distance to the leader is outside Tukey-Kramer's interval, the residual variance being that of the
whole field (`statistics.fit`), so that in at most one race of a hundred anybody leaves who is as good as the leader,
over all rivals and looks. Looser looks (5 %, or irace's t tests of pairs) saved few runs more and let the groups of
the table go wrong too often; a rival at 8 seed standard deviations leaves a field of four after two or three rounds.

Where values of a parameter are compared, each value's finalists have a race of their own; its leader is yet to be
compared with the others', and runs every round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.stats.statistics import RACE, fit, margin

FEWEST = 2  # rounds before anybody leaves: the noise is not known from one


def in_doubt(values: Mapping[int, Sequence[float]], rounds: int, to_the_end: bool = False) -> list[int]:
    """The finalists that the next round is for, in the order given; empty when the race is over.

    values: by trial, one per round that it ran, finite; those that left have fewer. rounds: how many there may be.
    One finalist alone runs every round: its own scatter is wanted. to_the_end: so does a leader whose race is over.
    """
    done = max(map(len, values.values()), default=0)
    running = [number for number, found in values.items() if len(found) == done]
    if done >= rounds:
        return []
    if done < FEWEST or len(values) == 1:
        return running
    seeds = fit(values)
    leader = min(running, key=lambda number: seeds.means[number])
    looks = max(1, rounds - FEWEST)
    left = [
        number
        for number in running
        if seeds.means[number] - seeds.means[leader]
        <= margin(seeds.of_difference(number, leader), len(values), RACE / looks)
    ]
    return left if len(left) > 1 or to_the_end else []
