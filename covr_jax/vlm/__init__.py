"""The VLM side of COVR. ``model``, ``vision``, ``decode``, ``trainer`` and ``service`` need Torch, the others do not.

codec    action <-> text               prompts  what is asked, per task
model    loading, LoRA, preprocessing  vision   attention over equal images in one call
decode   answers under a grammar       trainer  RALW fine-tuning (Eq. 6)
service  the engine: asks and tunes  tiny     a Qwen2.5-VL of a few megabytes
fake     an engine without a model   lesson   what a round does to an engine
protocol what the loop knows of it   modes    sync, async, process, replay by configuration
server   an engine's message loop    worker   the thread or child that runs it
supervise deadlines, restarts        recording answers in a file, played back
shared   arrays for the child
"""
