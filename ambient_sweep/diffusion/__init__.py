"""The mathematics of ambient diffusion in pure torch: variance exploding, data in [-1, 1], x_t = x_0 + sigma_t n.

Letters: N batch, C channels, H height, W width. sigma is a noise level in units of the data, [N].
"""
