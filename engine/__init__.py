"""Runs one stage, anywhere, and keeps what it made.

A stage is a function of its configuration and its inputs. Everything else that a long computation needs on
machines that may vanish (who it is, where its bytes go, what it may spend, how it goes on after a kill) lives
here, once. This package knows nothing of customers, Prefect or clouds.
"""
