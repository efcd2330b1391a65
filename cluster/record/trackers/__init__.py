"""Trackers: TensorBoard, Weights & Biases, MLflow and the user's own."""
