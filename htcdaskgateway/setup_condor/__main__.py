"""``python -m htcdaskgateway.setup_condor``."""

from .command import main

if __name__ == "__main__":
    main(prog_name="setup_condor")
