"""Tables as their descriptions say, texts as pairs; each split once.

Where files come from (a folder, their public download, a package) is settled by flows/sources.py before a stage
starts; a stage reads those files, or makes synthetic data up, checks every cell or line and writes parquet. The split
is made here and honoured by everything after.
"""
