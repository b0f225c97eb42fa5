"""The report: one HTML page that shows what was learnt, and every error."""

import logging

# Without a home for its font cache, Matplotlib takes another place, and says so on import.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
