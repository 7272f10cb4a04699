"""One run directory -> one self-contained ``report.html``: no scripts, no requests, light and dark, opens from a file.

* ``data``      reads the run directory; nothing else is read
* ``svg``       a small plotting library: axes, lines, bands, bars
* ``figures``   the charts of a run
* ``page``      headline, tables, sample gallery, assembly: ``write_report``
* ``style``     the style sheet
* ``compare``   learning curves of several runs as a PNG
"""

from covr_jax.report.data import ReportError, method_name
from covr_jax.report.page import write_report

__all__ = ["ReportError", "method_name", "write_report"]
