"""Speed, and whether replies are reproduced. A benchmark prints tables and ends with one line of JSON.

Ratios are measured side by side in one run, because a machine is never equally fast twice.
"""

from core import settings

settings.quieten()  # before the libraries that read the environment
