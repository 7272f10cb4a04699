"""Access of a run to its VLM: the service protocol and its modes (sync, async, process, ray, vllm, playback)."""
