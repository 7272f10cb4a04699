"""Scripts that make the images of README and docs out of committed results and finished runs."""
