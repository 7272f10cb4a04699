"""The VLM side of COVR. Only ``codec``, ``prompts`` and ``backbones`` may be imported without Torch.

codec    action <-> text               prompts     what is asked, per task
model    LoRA, prompt tokens, inputs   backbones   what sets the architectures apart
images   frames -> patches, on device  pretrained  weights from a directory or the hub
decode   answers under a grammar       kv_cache    their keys and values, in fixed memory
vision   attention over equal images   trainer     RALW fine-tuning (Eq. 6)
service  what the learner talks to     tiny        VLMs of a few megabytes
"""
