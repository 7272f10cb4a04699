"""Training and evaluation: the compiled programs of a run, its loop, its questions to the VLM and its COVR rounds."""
