"""The arrows of the data flow: pure functions of (inputs, config, seed) behind the stage cache."""
