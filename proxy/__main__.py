"""`python -m proxy` is the `switchboard` command."""

import sys

from proxy.cli import main

sys.exit(main())
