"""The only room that imports ray: workers, RLlib, sweeps, jobs, the doctor.

Every module here imports ray inside its functions, so that importing this room is cheap.
"""
