"""What makes up a training step: the runtime, the state, the step and its executors."""
