"""Models of tables: who will leave, who will accept, and what retraining is worth.

All three are boosted trees with isotonic calibration. Whatever is chosen (rounds, calibration) is chosen inside the
training part, by cross-fitting: every training row gets a score from trees that did not see it, and those
out-of-fold scores are what calibration is fitted on and what later stages may learn from. The test part is scored
once, at the end.
"""
