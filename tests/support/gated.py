"""Configs whose queries are gated by entropy."""

import dataclasses


def gated(config, share, **vlm):
    return dataclasses.replace(config, vlm=dataclasses.replace(config.vlm, ask_share=share, **vlm))
