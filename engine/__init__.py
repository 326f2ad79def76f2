"""Runs one stage, anywhere, and keeps what it made.

A stage is a function of its configuration and its inputs. Everything else that a long computation needs on
machines that may vanish (its identity, where its bytes go, what it may spend, how it resumes after a kill) is written
here, once. This package knows nothing of customers, Prefect or clouds.
"""
