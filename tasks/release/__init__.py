"""What passed its criteria, put together once: the one artifact that the service reads.

A release is complete in itself and needs neither the stages that made it nor their libraries.
"""
