"""Weights that other projects saved: read without running anything, recognised, and brought to this project's names.

`inert_pickle` reads pickles as data, `stand_ins` -> `files` opens .pth and .safetensors -> `state` finds the state dict
in what they hold -> `families` recognises whose names these are (`refused`: those that no network here computes) ->
`source` joins all of that -> `model.pretrained` loads them into a network, `model.convert` writes them under other
names. Nothing but reading the tensors themselves needs torch.
"""
