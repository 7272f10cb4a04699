"""A VLM that acts, trained by PPO (VPF)."""
