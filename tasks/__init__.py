"""The stages: one file, one stage, one artifact.

A stage is a function of its config and its inputs, and knows nothing of who runs it, where, and at what price.
`stages.py` is the table of them, `config.py` the shape of every experiment. Families (data, tabular, release) never
import each other: what one hands to the next is an artifact.
"""
