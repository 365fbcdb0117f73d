"""`python -m pathotune_pipeline.cli`."""

import sys

from pathotune_pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
