"""What was measured, beside what was asked for.

Everything here is rendered from artifacts and the ledger, at the end of a run or any time later. Nothing is trained,
nothing is written into an artifact, and no number stands here that cannot be recomputed from the evidence.
"""
