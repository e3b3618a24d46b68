"""`python -m rayloom_pipelines`: the command `rayloom`."""

import sys

from rayloom_pipelines.cli import main

if __name__ == "__main__":
    sys.exit(main())
