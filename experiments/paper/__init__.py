"""The paper's tables: one script each, which runs what a table needs and sets the results beside the published ones."""
