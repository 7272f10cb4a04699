"""How a run reaches its VLM: the service protocol and its implementations (sync, async, process, playback)."""
