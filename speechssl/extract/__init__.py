"""The folder pipeline: `extract` and `predict` over folders, manifests, tables and object stores."""
