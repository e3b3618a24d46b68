"""`python -m rayloom_pipelines.cli`, for jobs on machines without the console script."""

import sys

from rayloom_pipelines.cli import main

sys.exit(main())
