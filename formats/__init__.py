"""What others write: checkpoints, chat frames, function calls."""
