"""Image sources, the split into training and held-out images, and the noisy observations of the training images."""
