"""The VLM side of COVR. ``model``, ``images``, ``pretrained``, ``decode``, ``kv_cache``, ``vision``, ``tiny``,
``clip``, ``maps``, ``trainer`` and ``service`` need Torch, the others do not.

codec    action <-> text               prompts     what is asked, per task
model    LoRA, prompt tokens, inputs   backbones   what sets the architectures apart
images   frames -> patches, on device  pretrained  weights from a directory or the hub
decode   answers under a grammar       kv_cache    their keys and values, in fixed memory
vision   attention over equal images   trainer     RALW fine-tuning (Eq. 6)
service  the engine: asks and tunes    tiny        VLMs of a few megabytes
maps     the engine that shows where   clip        CLIP models, released and tiny
fake     an engine without a model     lesson      what a round does to an engine
protocol what the loop knows of it     modes       sync, async, process, replay by configuration
server   an engine's message loop      worker      the thread or child that runs it
supervise deadlines, restarts          recording   answers in a file, played back
shared   arrays for the child
"""
