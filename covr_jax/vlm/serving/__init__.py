"""Access of a run to its VLM: the service protocol and its implementations (sync, async, process, vllm, playback)."""
