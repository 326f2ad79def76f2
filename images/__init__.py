"""The container images: what is in each, how they are built, and by which references they are run.

An image's tag is a digest of its content, so the same tree has the same tags on every machine, and nothing is built
twice. Lock files fix every library by the hashes of its wheels.
"""
