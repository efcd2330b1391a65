"""The algorithm: types, ports, chain, advantages, loss, denoising maths, data. Knows no Ray."""
