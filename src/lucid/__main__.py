"""``python -m lucid`` is the command ``lucid``."""

import sys

from lucid.cli.main import main

sys.exit(main())
