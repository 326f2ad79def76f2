"""Tables as their descriptions say, texts as pairs; each split once.

Where files come from (a folder, their public download, a package) is settled before a stage starts, by `sources.py`; a
stage reads what was found, or makes something up, checks every cell or line of it and writes parquet. The split is made
here and honoured by everything after.
"""
