"""``python -m mmseg_escnet.check``: is everything here that ESC-Net needs?

Prints what is installed, what is missing or unsupported, and the command that mends it. Exits
with status 0 when all is right, 1 otherwise. It runs in a broken environment too: see
``environment.explain_import_error``.
"""

import platform
import sys
import traceback

from . import environment
from .version import __version__


def main() -> int:
    """Print the report; return the exit status."""
    print(f'mmseg_escnet {__version__} on {platform.platform()}\n')
    report = environment.inspect_environment()
    print(report)
    if environment.import_error is not None and not report.problems:
        # Nothing that we know of is amiss, and still the package does not import.
        print('\nBut importing mmseg_escnet fails:\n')
        traceback.print_exception(environment.import_error, file=sys.stdout)
        return 1
    return 1 if report.problems else 0


if __name__ == '__main__':
    sys.exit(main())
