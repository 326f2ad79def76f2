"""The one split that every stage honours: its parts, by the names that tables state."""

SPLIT_PARTS = ("train", "validation", "test")
