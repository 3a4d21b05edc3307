"""The inference engine: batches, windows of long audio, precision, layers and heads of a frozen model.

batches.py    groups clips by duration; decides which are long
windows.py    cuts long clips into windows
engine.py     runs an encoder over batches and windows: vectors, frames, layers
layers.py     weights of the hidden states that a layer setting stands for
pooling.py    means and standard deviations over frames, across windows
precision.py  chooses float32, bfloat16 or int8, and compares with float32
packing.py    lays weights out for a CPU; tiles.py: convolutions in pieces that fit into its caches
heads.py      class probabilities and emissions of fine-tuned models; predictor.py: labels and transcripts
"""
