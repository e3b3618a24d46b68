"""The ground floor: what every other room may rely on.

Config sections and their loader, the catalogue, errors, seeding, the metric table, kill points and
the protocols that upper rooms implement. Nothing here imports ray, mlflow or a sibling room.
"""
