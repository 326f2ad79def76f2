"""The API: a customer comes in, a decision with its reasons and a message goes out.

Everything that decides lies in the release; this package reads it once, checks every request against the release's
own description of a customer, puts each decision on record in a database before it is answered, and says what it did in
metrics. It has no training library.
"""
