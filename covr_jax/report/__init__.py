"""One run directory -> one self-contained ``report.html``: no scripts, no requests, light and dark, opens from a file.

* ``data``      reads the run directory; nothing else is read
* ``svg``       a small plotting library: axes, lines, bands, bars
* ``figures``   the charts of a run
* ``page``      headline, tables, sample gallery, assembly: ``write_report``
* ``style``     the style sheet
* ``compare``   learning curves of several runs as a PNG
* ``table``     final evaluations of several runs, methods by tasks
"""

from covr_jax.report.data import ReportError, shown_method
from covr_jax.report.page import write_report

__all__ = ["ReportError", "shown_method", "write_report"]
