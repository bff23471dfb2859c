"""Training, evaluation, prediction, pictures and measurements."""
