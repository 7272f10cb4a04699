"""Chat templates of the supported architectures, in Jinja, for messages whose content is a list of images and texts.

They are used where the tokenizer of a checkpoint has none that places images. No Torch.
"""

from __future__ import annotations

# LLaVA-1.5 was trained on this template; its checkpoint stores it with the processor, which we do not load.
LLAVA_CHAT = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Some of Qwen's snapshots and exports have only a text template beside the tokenizer and keep this one in a file of the
# processor, which we do not load.
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen3.5's answers begin with a thought; an empty one leads to the answer itself.
QWEN3_5_CHAT = QWEN_CHAT.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n")
# The processor puts <img> and </img> around the image tokens; see ``VLMBackbone.around_image``.
INTERNVL_CHAT = QWEN_CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
