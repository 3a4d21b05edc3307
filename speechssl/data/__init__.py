"""From audio files to training batches: corpora, manifests, packed waveforms, batches."""
