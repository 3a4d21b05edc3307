"""What other projects call a weight or a setting: the only files that know. None of them imports the peer."""
