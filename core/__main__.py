"""`python -m same_seed` is `same-seed`: how an installed package starts another process of itself."""

import sys

from .cli import main

sys.exit(main())
