"""`python -m rayloom`: the command `rayloom` where its console script is not on the path.

The command line lives in a room above this one, so it is reached by its name, as the API is.
"""

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.exit(import_module("rayloom_pipelines.cli").main())
