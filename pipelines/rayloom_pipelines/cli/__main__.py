"""`python -m rayloom_pipelines.cli`, for jobs on machines without the console script."""

import sys

from rayloom_pipelines.cli import main

if __name__ == "__main__":
    sys.exit(main())
