"""The random streams of the language stages: a draw comes from the generator of [seed, stream, ...].

Results depend on the numbers, so they never change. A new stream takes a number that no other has.
"""

from __future__ import annotations

ROWS = 1  # which rows are taken where there are more than wanted
ORDER = 2  # in which order a trainer sees its examples
SFT_INTERVALS = 3
SFT_SAMPLES = 4
PRETRAINING_DIALOGUES = 6  # which blocks a step takes
PRETRAINING_MESSAGES = 7
PROMPTS = 20
TEXT_EVAL = 71
MESSAGES = 73

# These were numbered before there was this list, each within its own stage, and repeat numbers from above. PPO draws
# nothing from the streams above. The intervals below share a generator with rows that were drawn before them, which
# does no harm: which rows were taken says nothing about which of them a resample repeats.
PPO_ORDER, PPO_SAMPLES, PPO_MINIBATCHES, PPO_LOOK = 0, 1, 2, 3
RM_INTERVALS = 0  # of the first model; those of the second have the next number
RULES_INTERVALS = 2
