"""What a run uses of its machine: devices, memory and threads; and how far it is."""
