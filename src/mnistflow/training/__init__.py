"""One training: Keras set up for this machine, the loop, the best epoch, going on after a crash, the model's file."""
