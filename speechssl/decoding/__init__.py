"""Decoding for speech recognition: greedy and beam search, n-gram language models, forced alignment."""
