"""What is decided: customers, features, scores and decisions, shared by training and serving.

A customer that training saw and the same customer in a request go through the same code, so that a model
can't be served other features than it learnt from. Plain Python and numpy: no training library, no web
framework, no clock. The table itself is data, too (`dataset.py`): Telco and Bank are two descriptions, not
two special cases.
"""
