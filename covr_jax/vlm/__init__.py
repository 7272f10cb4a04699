"""The VLM of COVR: answers frames with priors and is fine-tuned on the agent's experience.

  engine          the VLM engine: answers queries, is fine-tuned, saves its adapter
  trainer         fine-tuning with RALW (Eq. 6)
  decode          decoding of answers under the action grammar
  codec           action <-> text
  prompts         prompts per task
  defaults        default options of released and of tiny VLMs
  finetune_round  one round of fine-tuning on an engine, and its effect
  map_engine      the engine that answers with maps (DGC)

  models/         the models, in Torch
    loading       loads a VLM, adds LoRA, makes the inputs of a forward pass
    pretrained    weights from a directory or the hub
    backbones     descriptions of the architectures
    chat_templates  their chat templates
    adapter       LoRA adapters on disk
    images        frames -> inputs of the vision encoder, on the device
    vision        attention over images of one size
    kv_cache      keys and values in memory that is allocated once
    tiny          VLMs of a few megabytes
    clip          CLIP, released and tiny

  serving/        access of a run to its VLM
    protocol      the interface: PriorService, Engine and their records
    factory       makes the service of a run: sync, async, process, vllm, recording, playback
    supervise     deadlines, failures and restarts of a worker
    worker        the thread or child process that runs an engine
    server        the loop of a worker: request -> response
    shared        arrays in shared memory, for the child process
    vllm_engine   the engine that is fine-tuned here and answers on a vLLM server
    vllm_client   requests to that server
    recording     answers in a file, and their playback
    fake          an engine without a model

  ppo/            the VLM as policy (VPF)
    policy        samples answers and trains the adapter by PPO
    loss          PPO's loss and learning rate
    gae           generalised advantage estimation, in JAX
    rollout       experience, and its conversion to a batch

Torch is imported by ``engine``, ``trainer``, ``decode``, ``map_engine``, ``serving.vllm_engine``, ``ppo.policy``,
``ppo.loss`` and ``models`` (except ``backbones``, ``chat_templates``, ``pretrained`` and ``tiny``), and by the other
modules not before an engine is built.
"""

import os as _os

# Read when Torch is loaded. Where another process computes, threads that wait by spinning starve those they wait for: a
# round of the tiny VLM took 16 times as long. The user's own value goes first.
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
