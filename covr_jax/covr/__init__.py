"""The equations of COVR (arXiv 2601.06122), arrays in and arrays out; this folder can be copied out whole.

* ``returns``   g_t, the discounted return that fills the fine-tuning buffer D_f
* ``eddf``      Eq. 5, the exploration-driven dynamic filter: which samples the VLM learns from
* ``ralw``      Eq. 6's w_b, the return-aware loss weight: how much it learns from each
* ``guidance``  Eq. 4's regulariser: how the VLM's action pulls the policy
* ``schedule``  psi_c, when a fine-tuning round falls due, and the cold-start gate
* ``ablations`` the controls of Table 5 that replace filter or weights

Letters: T time, E envs, N samples, B batch, A action.
"""

from . import ablations, eddf, guidance, ralw, returns, schedule

__all__ = ["ablations", "eddf", "guidance", "ralw", "returns", "schedule"]
