"""DMControl domains, one file each."""
