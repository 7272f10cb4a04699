"""The VLM as policy, trained by PPO (VPF)."""
