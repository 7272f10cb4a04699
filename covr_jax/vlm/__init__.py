"""The VLM side of COVR. Only ``codec`` and ``prompts`` may be imported without Torch.

codec    action <-> text               prompts  what is asked, per task
model    loading, LoRA, preprocessing  vision   attention over equal images in one call
decode   answers under a grammar       trainer  RALW fine-tuning (Eq. 6)
service  what the learner talks to     tiny     a Qwen2.5-VL of a few megabytes
"""
