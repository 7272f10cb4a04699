"""Vision-language models in Torch: loading, architectures, image preprocessing, tiny embedded models."""
