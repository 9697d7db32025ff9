"""Pure tensor geometry: sampling, neighbours, voxels, sparse convolution, distances. Knows of no data set."""
