"""Tables as their descriptions say, split once.

Where a table comes from (a folder, its public download, a seeded generator) is settled before a stage
starts, by `sources.py`; a stage reads one CSV, or makes one up, checks every cell of it and writes parquet.
The split is made here and honoured by everything after.
"""
