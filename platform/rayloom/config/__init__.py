"""From text to a run's settings: YAML with places, merged layers, sections, checks, spaces.

`resolved.load_config` is the door. A mistake is told with its file and line, all of a config at
once. Nothing here imports torch, ray or mlflow.
"""
