"""Names of weights and settings in other projects. None of these modules imports the other project."""
