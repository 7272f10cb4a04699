"""Reports of run directories: one self-contained ``report.html`` each, and tables and plots of several runs.

* ``data``        reads a run directory
* ``formatting``  numbers as text
* ``charts``      one chart as inline SVG
* ``figures``     the charts of a run
* ``page``        tiles, tables, gallery and the file: ``write_report``; the HTML is in ``templates/``
* ``compare``     learning curves of several runs as an image
* ``table``       final evaluations of several runs, and Markdown tables
* ``names``       names of runs beside each other
"""

from covr_jax.report.data import ReportError, shown_method
from covr_jax.report.page import render_report, write_report

__all__ = ["ReportError", "render_report", "shown_method", "write_report"]
