"""``python -m mmseg_escnet.check``: is everything here that ESC-Net needs?

Prints what is installed, what is missing or unsupported, and the command that mends it. Exits
with status 0 when all is right, 1 otherwise. It runs in a broken environment too.
"""

import importlib
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
    if report.problems:
        return 1
    try:
        importlib.import_module('.components', __package__)
    except Exception as error:  # nothing that we know of is amiss, and still it does not import
        print('\nBut importing mmseg_escnet.components fails:\n')
        traceback.print_exception(error, file=sys.stdout)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
