"""What algorithms do with plain perceptrons without torch's operations, in numpy."""
