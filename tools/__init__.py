# SPDX-License-Identifier: GPL-3.0-or-later
"""What build.py does once a Python 3.11 is found: environments, checks, the demo, the extension. Needs no package."""
