"""The lab: ready-made worlds that exercise the whole street.

datasets      load("digits") → arrays; batches(...) → seeded (x, y) pairs
models        MLP, ConvNet, ResNet18, GPT, SimCLR
training      the loop, its interruption
checkpoint    where a run stood, as one safetensors file
experiment    what an experiment is; experiments() lists them
experiments/  one file each
"""
