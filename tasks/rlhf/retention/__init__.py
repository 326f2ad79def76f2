"""The retention domain: what is said to customers who may leave, well and badly, as text to learn from."""
