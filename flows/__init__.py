"""The order of things: which stages run, when, for how much. The only place that imports Prefect.

Orchestration knows a stage by its row in tasks/stages.py alone; entry points are strings, so nothing here loads
XGBoost or torch. The plan is made before Prefect is imported: when nothing has to run, nothing is started.
"""
