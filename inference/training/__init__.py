"""Fills `model_repo/utterance`: from labelled data to calibrated heads on a shared encoder. Needs the extra `train`.

In the order of the data: `readers` (files to examples) → `splits` (fit, calibrate, validate; whole dialogues) →
`augment` (typed text to what a recogniser writes) → `finetune` (the encoder) → `features` (pooled vectors) and `states`
(those of tokens) → `linear`, `open_set`, `attention` and `experts` (heads) → `post_processing` (scores that
are probabilities) → `pipeline` (all of it, resumable) → `report`. What ships without torch is in `inference.export`.
"""
