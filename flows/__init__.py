"""Which stages run, in which order and for how much. The only package that imports Prefect.

All that it knows of a stage is its row in tasks/stages.py; entry points are strings, so nothing here loads XGBoost or
torch. The plan is made before Prefect is imported: if nothing has to run, no server is started.
"""
