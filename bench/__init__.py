"""Benchmarks, side by side: each prints a table and writes bench/results/<name>.json.

They measure the code that runs, with the values of exp_001_mvp, apart from any experiment: nothing they make is
read by a stage.
"""
