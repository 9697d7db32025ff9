"""Pure tensor geometry: sampling, neighbours, voxels, sparse convolution, distances, boxes. Knows of no data set."""
