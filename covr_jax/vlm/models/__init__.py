"""Vision-language models: loading, architectures, image preprocessing, the tiny embedded ones. Needs Torch."""
