"""Python API, command line, runs, groups: wiring only.

`rayloom_pipelines.api` is what `rayloom` hands on; `rayloom_pipelines.cli` is a thin layer over it.
"""
