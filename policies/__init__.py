"""nprobot: robot controllers that learn without backpropagation."""
