from rayloom.catalogue.plugins import load_plugins as load_plugins
from rayloom.config.resolved import load_config as load_config
from rayloom.core.errors import ConfigError as ConfigError
from rayloom.core.errors import UserError as UserError
from rayloom.training import fit as fit
from rayloom_pipelines.api import Run as Run
from rayloom_pipelines.api import Sweep as Sweep
from rayloom_pipelines.api import load as load
from rayloom_pipelines.api import resume as resume
from rayloom_pipelines.api import runs as runs
from rayloom_pipelines.api import sweep as sweep
from rayloom_pipelines.api import train as train

__version__: str
