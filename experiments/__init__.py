"""Scripts: parse, configure, build the parts, call the loop."""
